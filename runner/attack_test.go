//go:build linux

package runner

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// running creates a container that runs until the test ends.
func running(t *testing.T, s *specs.Spec, root string) *Created {
	t.Helper()
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		_, _ = c.Wait()
	})
	return c
}

// made creates a container whose command ends, and returns what it printed.
func made(t *testing.T, s *specs.Spec, root string) string {
	t.Helper()
	out, read := captured(t)
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}})
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Wait()
	got := strings.Join(strings.Fields(read()), " ")
	if err != nil || status.Code != 0 {
		t.Fatalf("%+v, %v; output %q", status, err, got)
	}
	return got
}

// relink replaces a path of a root by a symbolic link.
func relink(t *testing.T, root, name, target string) {
	t.Helper()
	err := os.RemoveAll(filepath.Join(root, name))
	if err == nil {
		err = os.Symlink(target, filepath.Join(root, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// withoutMount drops the mounts on or below a path.
func withoutMount(s *specs.Spec, path string) {
	var kept []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination != path && !strings.HasPrefix(m.Destination, path+"/") {
			kept = append(kept, m)
		}
	}
	s.Mounts = kept
}

// The links of a root can't divert the terminal: neither /dev/console, which is
// covered and not followed, nor the multiplexer that it comes from (CVE-2025-52565).
func TestConsoleLinks(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(s *specs.Spec, root string){
		"console": func(s *specs.Spec, root string) {
			withoutMount(s, "/dev")
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts"})
			relink(t, root, "dev/console", "/proc/sys/kernel/core_pattern")
		},
		"console outside": func(s *specs.Spec, root string) {
			withoutMount(s, "/dev")
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts"})
			relink(t, root, "dev/console", outside)
		},
		"multiplexer": func(s *specs.Spec, root string) {
			withoutMount(s, "/dev")
			if err := os.MkdirAll(filepath.Join(root, "dev/pts"), 0o755); err != nil {
				t.Fatal(err)
			}
			relink(t, root, "dev/pts/ptmx", "/dev/null")
		},
		"false multiplexer": func(s *specs.Spec, root string) {
			withoutMount(s, "/dev")
			if err := os.MkdirAll(filepath.Join(root, "dev/pts"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mknod(filepath.Join(root, "dev/pts/ptmx"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		s, root := detachable(t, shell("test $(stat -c %t /dev/console) = 88 && test ! -L /dev/console && ! grep console /proc/self/mountinfo | grep -v ' /dev/console '"))
		s.Process.Terminal = true
		spoil(s, root)
		pair, err := unixSocket()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, ConsoleSocket: pair[1]})
		switch {
		case err != nil && strings.HasPrefix(name, "console"):
			t.Errorf("%s: %v", name, err)
		case err == nil:
			status, err := c.Wait()
			if err != nil || status.Code != 0 || !strings.HasPrefix(name, "console") {
				t.Errorf("%s: a terminal was made: %+v, %v", name, status, err)
			}
		}
		pair[0].Close()
		pair[1].Close()
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "untouched" {
		t.Errorf("%q, %v", b, err)
	}
}

// Mount points and the working directory are found inside of the root, also
// when they are links that were swapped in, and nothing is made outside
// (CVE-2021-30465, CVE-2024-45310); /dev is not a link (CVE-2026-41579).
func TestRootLinks(t *testing.T) {
	outside := t.TempDir()
	s, root := detachable(t, shell("ls -A /in/made"))
	relink(t, root, "in", outside)
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/in/made", Type: "bind", Source: source, Options: []string{"bind"}})
	s.Process.Cwd = "/in/dir"
	if got := made(t, s, root); got != "file" {
		t.Errorf("output %q", got)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside there are %v, %v", entries, err)
	}

	s, root = detachable(t, step("true"))
	withoutMount(s, "/dev")
	relink(t, root, "dev", outside)
	if c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil {
		_, _ = c.Wait()
		t.Error("devices were made where a link of the root leads")
	}
	s, root = detachable(t, step("true"))
	relink(t, root, "proc", "/tmp")
	if c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil {
		_, _ = c.Wait()
		t.Error("proc was mounted where a link of the root leads (CVE-2019-19921)")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
}

// A sysctl is written to the kernel and not to what is mounted over /proc
// (CVE-2025-52881, CVE-2019-19921), and one of the machine is refused.
func TestSysctlDiverted(t *testing.T) {
	s, root := detachable(t, shell("cat /true/sys/kernel/shmmni; ls /proc"))
	for i := range s.Mounts {
		if s.Mounts[i].Destination == "/proc" {
			s.Mounts[i].Destination = "/true"
		}
	}
	for _, dir := range []string{"true", "proc/sys/kernel"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "proc/sys/kernel/shmmni"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	s.Linux.Sysctl = map[string]string{"kernel.shmmni": "123"}
	if got := made(t, s, root); got != "123 sys" {
		t.Errorf("output %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/shmmni")); err != nil || len(b) > 0 {
		t.Errorf("the false file has %q, %v", b, err)
	}
	for _, key := range []string{"kernel.core_pattern", "kernel/../vm/overcommit_memory", "net.ipv4.ip_forward"} {
		s.Linux.Sysctl = map[string]string{key: "1"}
		if _, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil {
			t.Errorf("sysctl %s was taken", key)
		}
	}
}

// A container that looks for the processes which enter it finds no program that
// it could write to (CVE-2019-5736), and no descriptor that leads outside
// (CVE-2024-21626, CVE-2016-9962).
func TestEnteredByRunner(t *testing.T) {
	s, root := detachable(t, shell(`touch /written /seen
while true; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac
  case "$(readlink $p/exe)" in */busybox|"") ;; *) (echo x > $p/exe) 2>/dev/null && echo $p >> /written;; esac
  for f in $p/fd/*; do case "$(readlink $f)" in ""|/dev/null|pipe:*|socket:*|/|/proc/*) ;; *) echo $p $f "$(readlink $f)" >> /seen;; esac; done
done; done`))
	s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_SYS_ADMIN")
	c := running(t, s, root)
	before := programHash(t)
	p := *s.Process
	p.Args = []string{"true"}
	for range 20 {
		e, err := Exec(t.Context(), c.Pid, s, &p, Detached{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Wait(); err != nil {
			t.Fatal(err)
		}
		_ = e.Close()
	}
	if programHash(t) != before {
		t.Fatal("this program was changed")
	}
	for _, name := range []string{"written", "seen"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || len(b) > 0 {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
}

func programHash(t *testing.T) [32]byte {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// A process that joins has the groups that were asked for and no others
// (CVE-2022-2990), and no inheritable capabilities that weren't
// (CVE-2022-27650, CVE-2022-29162).
func TestExecRights(t *testing.T) {
	s, root := detachable(t, shell("sleep 1000"))
	c := running(t, s, root)
	for _, groups := range [][]uint32{nil, {7, 9}} {
		p := *s.Process
		p.Args = []string{"sh", "-c", "grep -e Groups -e CapInh /proc/self/status | cut -f2"}
		p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: groups}
		out, read := captured(t)
		e, err := Exec(t.Context(), c.Pid, s, &p, Detached{Stdio: [3]*os.File{nil, out, out}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Wait(); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSpace(strings.Trim(fmt.Sprint(groups), "[]") + " 0000000000000000")
		if got := strings.Join(strings.Fields(read()), " "); got != want {
			t.Errorf("groups %v: %q, want %q", groups, got, want)
		}
	}
}

// The root's propagation is what the specification says, and what a container
// mounts stays in it.
func TestRootfsPropagation(t *testing.T) {
	for option, want := range map[string]string{"": "", "private": "", "shared": "shared:", "unbindable": "unbindable"} {
		s, root := detachable(t, shell("grep ' / / ' /proc/self/mountinfo | sed 's/.*relatime//; s/ - .*//' || grep ' / ' /proc/self/mountinfo; sleep 0"))
		s.Process.Args = []string{"sh", "-c", `while read a b c d where options rest; do [ "$where" = / ] && echo "${rest%% - *}" | grep -o 'shared:\|unbindable\|master:'; done < /proc/self/mountinfo; true`}
		s.Linux.RootfsPropagation = option
		if got := made(t, s, root); got != want {
			t.Errorf("%q: %q, want %q", option, got, want)
		}
	}
	s, root := detachable(t, step("true"))
	s.Linux.RootfsPropagation = "open"
	if _, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root}); err == nil {
		t.Error("an unknown propagation was taken")
	}
}

// Hooks of the container read its state, also when it's larger than a pipe.
func TestHookState(t *testing.T) {
	s, root := detachable(t, shell("cat /size"))
	s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "wc -c > /size"}, Env: []string{"PATH=/bin"}}}}
	state := func(pid int, status specs.ContainerState) []byte {
		b, _ := json.Marshal(specs.State{Pid: pid, Status: status, Annotations: map[string]string{"long": strings.Repeat("x", 1<<20)}})
		return b
	}
	out, read := captured(t)
	c, err := Create(t.Context(), Container{Spec: s}, Detached{Rootfs: root, Stdio: [3]*os.File{nil, out, out}, State: state})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := read(), fmt.Sprint(len(state(c.Pid, specs.StateCreated))); got != want {
		t.Errorf("the hook read %s bytes of %s", got, want)
	}
}
