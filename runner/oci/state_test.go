//go:build linux

package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A number that another process has now is not signalled.
func TestRecycledPid(t *testing.T) {
	p, err := findProcess(os.Getpid())
	if err != nil || !p.alive() {
		t.Fatal(p, err)
	}
	p.Start--
	if err := p.signal(int(syscall.SIGKILL)); !errors.Is(err, errGone) {
		t.Errorf("signal to a process that started earlier: %v", err)
	}
}

// A zombie has ended.
func TestZombie(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	p, err := findProcess(cmd.Process.Pid)
	if err != nil || !p.alive() {
		t.Fatal(p, err)
	}
	if err := p.signal(int(syscall.SIGKILL)); err != nil {
		t.Error(err)
	}
	for p.alive() { // until the signal has arrived
	}
	_ = cmd.Wait() // killed
	if err := p.signal(0); !errors.Is(err, errGone) {
		t.Errorf("signal to a process that ended: %v", err)
	}
}

// The name of a program may hold what looks like the rest of the line.
func TestParseStat(t *testing.T) {
	state, start, err := parseStat("7 (a) R 1) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1 1")
	if state != 'S' || start != 4242 || err != nil {
		t.Errorf("parseStat = %c, %d, %v", state, start, err)
	}
}

// Nothing is there, and nothing is made, for ids that are not names.
func TestUnknownContainers(t *testing.T) {
	r := &Runtime{Root: filepath.Join(t.TempDir(), "root")}
	if _, err := r.State("x"); !errors.Is(err, ErrNotExist) {
		t.Errorf("State: %v", err)
	}
	if err := r.Delete("x", false); !errors.Is(err, ErrNotExist) {
		t.Errorf("Delete: %v", err)
	}
	if err := r.Delete("x", true); err != nil {
		t.Errorf("Delete with force: %v", err)
	}
	if err := r.Delete("..", true); err == nil {
		t.Error("Delete took \"..\"")
	}
	if err := r.Kill("x", 9, false); !errors.Is(err, ErrNotExist) {
		t.Errorf("Kill: %v", err)
	}
	if list, err := r.List(); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"id":"a","init":{"pid":1,"start":2},"config":{"ociVersion":"1.0.0"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if r.decode(b) == nil && (r.Config == nil || CheckID(r.ID) != nil) {
			t.Errorf("decode(%q) = %+v", b, r)
		}
	})
}
