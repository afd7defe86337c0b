//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bk.build/bk/runner/host"
)

// attackProgram builds hack/attack into the context.
func attackProgram(t *testing.T, s *site) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", filepath.Join(s.dir, "attack"), "bk.build/bk/hack/attack")
	cmd.Dir, cmd.Env = repository(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// victim is a site whose steps are isolated in one of the ways that there are.
type victim struct {
	*site
	isolation host.Isolation
	args      []string // of bk build
}

// attack runs f for each isolation, each time with a new site on busybox.
func attack(t *testing.T, archive string, f func(t *testing.T, v victim)) {
	needContainers(t)
	for _, isolation := range []host.Isolation{host.Root, host.Rootless, host.SingleID, host.Chroot} {
		t.Run(string(isolation), func(t *testing.T) {
			v := victim{isolation: isolation}
			if isolation == host.Root || isolation == host.Chroot {
				v.site = newSite(t, archive)
				v.args = []string{base(t, "busybox"), "--isolation=" + string(isolation)}
			} else {
				v.site = newAccount(t, isolation == host.Rootless).site(t, archive, "busybox")
				v.args = []string{"--build-context=busybox=oci-layout://" + v.path("busybox"), "--isolation=" + string(isolation)}
			}
			f(t, v)
		})
	}
}

// Nothing of what hack/attack tries succeeds: system calls that reach the
// kernel's less guarded parts, files that change the machine, devices, other
// processes, and leaving the root directory.
func TestAttacks(t *testing.T) {
	attack(t, `
-- Dockerfile --
FROM busybox
COPY attack /attack
RUN /attack
USER 1000
RUN /attack
`, func(t *testing.T, v victim) {
		attackProgram(t, v.site)
		out := v.build(v.args...)
		for line := range strings.Lines(out.logs) {
			if strings.Contains(line, "ALLOWED") {
				t.Error(strings.TrimSpace(line))
			}
		}
		if n := strings.Count(out.logs, "refused"); n < 100 {
			t.Errorf("only %d attempts were made:\n%s", n, out.logs)
		}
	})
}

// A step doesn't find the secret of another that runs at the same time, neither
// through its processes nor through anything of the machine's.
func TestOtherStepsSecrets(t *testing.T) {
	attack(t, `
-- Dockerfile --
FROM busybox AS holder
RUN --mount=type=secret,id=s,target=/run/secrets/s --mount=type=secret,id=s,env=HELD \
    --mount=type=cache,id=meet,target=/meet \
    touch /meet/held; for i in $(seq 600); do test -e /meet/done && break; sleep 0.1; done; grep -q planted /run/secrets/s
FROM busybox AS thief
RUN --mount=type=cache,id=meet,target=/meet \
    for i in $(seq 600); do test -e /meet/held && break; sleep 0.1; done; test -e /meet/held || exit 9; \
    for p in /proc/[0-9]*; do cat $p/environ $p/root/run/secrets/s $p/cwd/run/secrets/s $p/mountinfo $p/cmdline; done 2>/dev/null > /tmp/found; \
    find / -xdev -name s -path '*secrets*' 2>/dev/null >> /tmp/found; touch /meet/done; \
    ! grep -a pl[a]nted- /tmp/found && rm /tmp/found
FROM busybox
COPY --from=holder /etc/group /1
COPY --from=thief /etc/group /2
-- chroot.Dockerfile --
FROM busybox AS holder
RUN --mount=type=secret,id=s,target=/run/secrets/s --mount=type=secret,id=s,env=HELD sleep 3; grep -q planted /run/secrets/s
FROM busybox AS thief
RUN for i in $(seq 20); do \
    for p in /proc/[0-9]*; do cat $p/environ $p/root/run/secrets/s $p/cwd/run/secrets/s $p/cmdline; done 2>/dev/null >> /tmp/found; \
    find / -xdev -path '*secrets/s' -exec cat {} + 2>/dev/null >> /tmp/found; sleep 0.1; done; ! grep -a pl[a]nted- /tmp/found && rm /tmp/found
FROM busybox
COPY --from=holder /etc/group /1
COPY --from=thief /etc/group /2
`, func(t *testing.T, v victim) {
		if v.isolation == host.Chroot { // where two steps can't have one cache mount
			v.args = append(v.args, "-f", "chroot.Dockerfile")
		}
		v.env = []string{"PLANTED=planted-" + marker()}
		v.build(append(v.args, "--secret=id=s,env=PLANTED")...)
		if found := filesWith(t, v.root, strings.TrimPrefix(v.env[0], "PLANTED=")); len(found) > 0 {
			t.Errorf("the secret is in the store: %q", found)
		}
	})
}

// The store is out of a step's reach, though the step knows its path, and out
// of other users': what steps write may be setuid.
func TestStoreOutOfReach(t *testing.T) {
	attack(t, `
-- Dockerfile --
FROM busybox
ARG STORE
RUN ls -d $STORE 2>/dev/null && exit 7; ls -d /proc/1/root$STORE 2>/dev/null && exit 8; \
    ls -d /proc/self/root/../../../..$STORE 2>/dev/null && exit 9; cp /bin/busybox /setuid && chmod 4755 /setuid
`, func(t *testing.T, v victim) {
		v.build(append(v.args, "--build-arg=STORE="+v.root)...)
		info, err := os.Stat(v.root)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("the store has mode %v", info.Mode())
		}
	})
}

// Programs of an image are never run as helpers of the build: to unpack an
// archive, to resolve a name, to look at a platform.
func TestNoProgramsOfTheImage(t *testing.T) {
	needContainers(t)
	var evil strings.Builder
	for _, name := range []string{"gzip", "gunzip", "unpigz", "pigz", "xz", "unxz", "bzip2", "zstd", "tar", "git", "newuidmap", "newgidmap", "getent", "nsswitch", "runc", "pasta"} {
		fmt.Fprintf(&evil, "-- evil/%s --\n#!/bin/sh\necho ran $0 > /ran-$$; exit 1\n", name)
	}
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS evil
COPY --chmod=755 evil /usr/bin/
COPY --chmod=755 evil /usr/local/sbin/
FROM evil
ADD a.tar.gz /added/
COPY --from=evil --chown=1000:1000 /usr/bin/git /x
RUN ls / && test ! -e /ran-*
`+evil.String())
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	if err := tw.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	tw.Close()
	zw.Close()
	if err := os.WriteFile(filepath.Join(s.dir, "a.tar.gz"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	s.build(base(t, "busybox"))
	if found, _ := filepath.Glob("/ran-*"); len(found) > 0 {
		t.Errorf("a program of the image ran: %v", found)
	}
}

// A build opens no port: steps that share the machine's network have nothing to
// connect to.
func TestNoListeners(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
ARG MARK
RUN --mount=type=ssh sleep 54322
`)
	mark := marker()
	cmd := s.command("build", ".", base(t, "busybox"), "--build-arg=MARK="+mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, "the step starts", func() bool { return strings.Contains(strings.Join(processesWith(mark), "\n"), "sleep 54322") })
	sockets := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			sockets[strings.Trim(strings.TrimPrefix(target, "socket:"), "[]")] = true
		}
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", cmd.Process.Pid, table))
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && sockets[f[9]] && (f[3] == "0A" || strings.HasPrefix(table, "udp")) {
				t.Errorf("bk listens: %s", line)
			}
		}
	}
}

// What a step leaves running ends with it, however it hides: the next step, and
// the machine, never see it.
func TestStrays(t *testing.T) {
	attack(t, `
-- Dockerfile --
FROM busybox
ARG MARK
RUN --mount=type=cache,target=/c trap '' INT TERM HUP; (setsid sh -c 'trap "" TERM; while :; do date > /c/alive; sleep 0.05; done' > /dev/null 2>&1 &); \
    for i in $(seq 200); do test -e /c/alive && break; sleep 0.05; done; test -e /c/alive
RUN --mount=type=cache,target=/c rm -f /c/alive; sleep 0.5; test ! -e /c/alive
`, func(t *testing.T, v victim) {
		mark := marker()
		v.build(append(v.args, "--build-arg=MARK="+mark)...)
		if left := processesWith(mark); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if left := mountsBelow(v.root); len(left) > 0 {
			t.Errorf("left mounted: %v", left)
		}
	})
}

// The user of a step is who the Dockerfile says, whatever the image's files
// claim: a number is never the name of somebody else, and never overflows.
func TestHostileUsers(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS names
RUN printf '2000:x:0:0:root by number:/:/bin/sh\n4294967296:x:0:0::/:\n-1:x:0:0::/:\n' >> /etc/passwd && \
    printf 'root2:x:0:2000\nwheel:x:10:app\n4294967295:x:0:app\n' >> /etc/group
FROM names AS number
USER 2000
RUN id && test "$(id -u) $(id -g) $(id -G)" = "2000 0 0"
FROM names AS app
USER app
RUN test "$(id -u) $(id -g)" = "1000 1000"
FROM names AS overflow
USER 4294967296:0
RUN id
FROM names AS negative
USER -1
RUN id
FROM names AS group
USER app:4294967296
RUN id
FROM busybox AS giant
RUN truncate -s 3G /etc/group
USER app
RUN id
FROM busybox AS fifo
RUN rm /etc/group && mkfifo /etc/group
USER 1000
RUN --mount=type=tmpfs,target=/t test "$(id -u)" = 1000 && echo kept
`)
	for _, target := range []string{"number", "app"} {
		s.build(base(t, "busybox"), "--target="+target)
	}
	for _, target := range []string{"overflow", "negative", "group", "giant", "fifo"} {
		out := s.run("build", ".", base(t, "busybox"), "--target="+target)
		if target == "fifo" && out.code == 0 {
			continue // a number needs no file
		}
		if out.code != 1 || strings.Contains(out.logs, "uid=") {
			t.Errorf("%s: exit code %d, %s%s", target, out.code, out.logs, out.stderr)
		}
		if out.usage.Maxrss > 300<<10 {
			t.Errorf("%s took %d KB", target, out.usage.Maxrss)
		}
	}
}

// Options of mounts are known ones: text is never handed to mount(2).
func TestMountOptionText(t *testing.T) {
	needContainers(t)
	for _, mount := range []string{
		"type=bind,target=/m,bind-propagation=rshared", "type=bind,target=/m,propagation=shared",
		"type=tmpfs,target=/m,size=1m,mode=777,uid=0,suid", "type=cache,target=/m,sharing=everyone", "type=devpts,target=/m",
	} {
		s := newSite(t, "-- Dockerfile --\nFROM busybox\nRUN --mount="+mount+" touch /m/x; echo ran\n")
		if out := s.run("build", ".", base(t, "busybox")); out.code == 0 || strings.Contains(out.logs, "ran") {
			t.Errorf("%s: exit code %d", mount, out.code)
		}
	}
}

// Every attack that docs/attacks.md lists names tests, and they are there.
func TestAttackList(t *testing.T) {
	list, err := os.ReadFile(filepath.Join(repository(t), "docs", "attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	var source bytes.Buffer
	err = filepath.WalkDir(repository(t), func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != repository(t) {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	rows := 0
	for line := range strings.Lines(string(list)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attack") || strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		tests := name.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 && !strings.Contains(line, "no such part") {
			t.Errorf("no test is named: %s", line)
		}
		for _, m := range tests {
			if !bytes.Contains(source.Bytes(), []byte("func "+m[1]+"(")) {
				t.Errorf("there is no %s", m[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d rows", rows)
	}
}

// Instructions that only change the configuration change the image, also on
// top of nothing.
func TestConfigIsInTheImage(t *testing.T) {
	seen := map[string]string{}
	for _, line := range []string{"CMD [\"a\"]", "HEALTHCHECK CMD a", "HEALTHCHECK NONE", "ONBUILD RUN a", "ONBUILD RUN b", "STOPSIGNAL 9", "VOLUME /a", "SHELL [\"a\"]"} {
		s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY f /\n"+line+"\n-- f --\n")
		id := strings.TrimSpace(s.build("-q", "--timestamp=0").stdout)
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q give the same image", line, other)
		}
		seen[id] = line
	}
}
