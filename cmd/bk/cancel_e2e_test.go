//go:build linux

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stubborn is a step whose processes do all that they can to stay: they ignore
// signals, are in sessions of their own, and are nobody's children.
const stubborn = `
-- Dockerfile --
FROM busybox AS stubborn
ARG MARK
RUN trap '' HUP INT TERM PIPE; \
	(setsid sh -c "trap '' HUP INT TERM; (sleep 1000 &) ; exec sleep 1000" </dev/null >/dev/null 2>&1 &) ; \
	(sleep 1000 >/dev/null 2>&1 &) ; sleep 1000
FROM busybox AS good
RUN echo good > /good
`

// However a build is ended, no process, mount or cgroup of it is left, and the
// exit code says what happened.
func TestCancel(t *testing.T) {
	needContainers(t)
	for _, tt := range []struct {
		name  string
		sig   syscall.Signal
		flags []string
		code  int
		text  string
	}{
		{"SIGINT", syscall.SIGINT, nil, 130, "stopped by signal: interrupt"},
		{"SIGTERM", syscall.SIGTERM, nil, 143, "stopped by signal: terminated"},
		{"SIGHUP", syscall.SIGHUP, nil, 129, "stopped by signal: hangup"},
		{"SIGKILL", syscall.SIGKILL, nil, -1, ""},
		{"timeout of the build", 0, []string{"--timeout=3s"}, 1, "the build took longer than 3s and was stopped"},
		{"timeout of the step", 0, []string{"--step-timeout=2s"}, 1, "the step took longer than 2s and was stopped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, stubborn)
			mark := marker()
			args := append([]string{"build", ".", base(t, "busybox"), "--target=stubborn", "--build-arg=MARK=" + mark, "-o", "../out"}, tt.flags...)
			b := s.start(args...)
			eventually(t, "the step", func() bool { return sleepers(mark) >= 4 })
			if tt.sig != 0 {
				_ = b.Process.Signal(tt.sig)
			}
			_ = b.Wait()
			code := b.ProcessState.ExitCode()
			if code != tt.code || !strings.Contains(b.output(), tt.text) {
				t.Errorf("exit code %d, want %d; want %q in:\n%s", code, tt.code, tt.text, b.output())
			}
			if tt.flags != nil && !strings.Contains(b.output(), "RUN trap") {
				t.Errorf("the step isn't named:\n%s", b.output())
			}
			if left := processesWith(mark); tt.sig != syscall.SIGKILL && len(left) > 0 {
				t.Errorf("processes that bk left behind at its end: %q", left)
			}
			s.checkGone(b, mark)
			if left := groupsOf(b.Process.Pid); tt.sig != syscall.SIGKILL && len(left) > 0 {
				t.Errorf("groups: %q", left)
			}
			if _, err := os.Lstat(s.path("out")); err == nil {
				t.Error("an output is there")
			}
			s.checkUsable()
			if left := groupsOf(b.Process.Pid); len(left) > 0 {
				t.Errorf("groups after the next build: %q", left)
			}
		})
	}
}

// A build that is over in time doesn't notice its limits.
func TestTimeoutNotReached(t *testing.T) {
	needContainers(t)
	s := newSite(t, stubborn)
	s.build(base(t, "busybox"), "--target=good", "--timeout=5m", "--step-timeout=1m", "-o", "../out")
	if got := s.read("out/good"); got != "good\n" {
		t.Errorf("good: %q", got)
	}
}

// Under nohup a build outlives its terminal.
func TestNohup(t *testing.T) {
	needContainers(t)
	need(t, "nohup")
	s := newSite(t, "-- Dockerfile --\nFROM busybox\nARG MARK\nRUN sleep 1; echo done > /done\n")
	mark := marker()
	b := s.start("build", ".", base(t, "busybox"), "--build-arg=MARK="+mark, "-o", "../out")
	_ = b.Process.Kill() // only its command line is wanted
	_ = b.Wait()
	cmd := command("nohup", b.Args...)
	cmd.Dir, cmd.Env = b.Dir, b.Env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	eventually(t, "the step", func() bool {
		for _, p := range processesWith(mark) {
			if strings.Contains(p, " sleep 1") {
				return true
			}
		}
		return false
	})
	_ = cmd.Process.Signal(syscall.SIGHUP)
	ended := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	ended.Stop()
	if err != nil || s.read("out/done") != "done\n" {
		t.Errorf("the build ended with %v", err)
	}
}
