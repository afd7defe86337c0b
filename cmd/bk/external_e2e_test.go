//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Another OCI runtime gets the same container that bk itself makes: the image
// is the same, and nothing of the machine shows in it.
func TestExternalRuntime(t *testing.T) {
	needContainers(t)
	need(t, "runc")
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS from
RUN mkdir /d && echo hello > /d/f
FROM busybox
RUN --mount=type=secret,id=token,target=/token --mount=from=from,source=/d,target=/d \
    --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch \
    cat /token /d/f > /out && echo x > /cache/x && echo y > /scratch/y && hostname >> /out && \
    ! grep -v -e overlay -e tmpfs /proc/self/mountinfo | awk '$5 == "/"' | grep . && \
    ! ls /var/lib/dpkg 2>/dev/null
RUN --network=none ip addr | grep -c ': lo' >> /out && ! ip addr | grep eth
USER nobody
RUN id -u && ! touch /no 2>/dev/null
`)
	s.env = []string{"TOKEN=secret"}
	args := []string{base(t, "busybox"), "--secret=id=token,env=TOKEN", "--timestamp=0"}
	s.build(append(args, "--iidfile", s.path("own"))...)
	other := s.in("other")
	other.build(append(args, "--runtime=runc", "--iidfile", s.path("runc"))...)
	if own, runc := s.read("own"), s.read("runc"); own != runc {
		t.Errorf("image %s made by runc, %s by bk", runc, own)
	}
}

// A runtime that is not there, or that fails, is a clear error.
func TestExternalRuntimeErrors(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN true
`)
	o := s.run("build", ".", "--runtime=no-such-runtime")
	if o.code != exitUsage || !strings.Contains(o.stderr, `runtime "no-such-runtime": install it, or give its path`) {
		t.Errorf("code %d: %s", o.code, o.stderr)
	}
	script := s.path("runtime")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho broken runtime; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o = s.run("build", ".", base(t, "busybox"), "--runtime="+script)
	if o.code != exitFailed || !strings.Contains(o.stderr, "exit code: 3") || !strings.Contains(o.logs, "broken runtime") {
		t.Errorf("code %d: %s", o.code, o.stderr)
	}
}

// A build that is interrupted leaves nothing of the other runtime, nor of what
// it ran.
func TestExternalRuntimeInterrupted(t *testing.T) {
	needContainers(t)
	need(t, "runc")
	s := newSite(t, `
-- Dockerfile --
FROM busybox
ARG MARK
RUN setsid sleep 54321 & echo started && sleep 54321
`)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		mark := marker()
		cmd := s.command("build", ".", base(t, "busybox"), "--runtime=runc", "--build-arg=MARK="+mark)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sleeps := func() bool { return strings.Contains(strings.Join(processesWith(mark), "\n"), "sleep 54321") }
		eventually(t, "the step starts", sleeps)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was told to end
		eventually(t, "every process ends after "+sig.String(), func() bool { return len(processesWith(mark)) == 0 })
		eventually(t, "every mount goes", func() bool { return len(mountsBelow(s.root)) == 0 })
		next := s.in("next") // sweeps what one that was killed could not remove
		next.write("-- Dockerfile --\nFROM busybox\nRUN true\n")
		next.build(base(t, "busybox"), "--runtime=runc", "--no-cache")
		next.write(`
-- Dockerfile --
FROM busybox
ARG MARK
RUN setsid sleep 54321 & echo started && sleep 54321
`)
		if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/bk-*-%d-*", cmd.Process.Pid)); len(left) > 0 {
			t.Errorf("after %s cgroups are left: %v", sig, left)
		}
	}
}
