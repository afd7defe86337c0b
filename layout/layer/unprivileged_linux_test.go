package layer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A user without privileges gets everything that a user can make, and is told
// what is missing.
func TestApplyUnprivileged(t *testing.T) {
	if os.Geteuid() == 0 {
		runAsNobody(t, "TestApplyUnprivileged")
		return
	}
	dir := filepath.Join(t.TempDir(), "layer")
	files := rootOnly()
	locked := dirOf("tree")
	locked.Mode = 0o555
	files = append(files, locked, fileOf("tree/f", "x"))
	done := apply(t, dir, files, ApplyOptions{})
	var lost []string
	for _, l := range done.Lost {
		p, rest, _ := strings.Cut(l, ": ")
		what, _, _ := strings.Cut(rest, ": ")
		lost = append(lost, p+" "+what)
	}
	slices.Sort(lost)
	want := []string{"dev device", "null device", "xattr xattr security.capability", "xattr xattr trusted.x"}
	if diff := cmp.Diff(want, lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	for _, e := range collect(t, Walk(dir)) {
		if e.Path == "opaque" && !e.Opaque || e.Path == "gone/file" && e.Type != Whiteout {
			t.Errorf("%+v: a whiteout was lost", e.Entry)
		}
		if e.Path == "tree" && e.Mode != 0o555 {
			t.Errorf("tree: mode %o, want 555", e.Mode)
		}
	}
	apply(t, dir, []file{fileOf("tree/g", "y")}, ApplyOptions{Merged: true})
	if fi, err := os.Stat(filepath.Join(dir, "tree")); err != nil || fi.Mode().Perm() != 0o555 {
		t.Errorf("tree after a merge: %v, %v, want mode 0555", fi.Mode(), err)
	}
	os.Chmod(filepath.Join(dir, "tree"), 0o755) // so that the test's directory can go
}

// runAsNobody runs a test of this program as another user.
func runAsNobody(t *testing.T, test string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "layer-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+test+"$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+test)) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
