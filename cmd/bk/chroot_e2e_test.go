//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// chrootSite is a site whose builds have no namespaces and no mounts.
func chrootSite(t *testing.T, archive string) *site {
	t.Helper()
	needContainers(t)
	s := newSite(t, archive)
	s.env = []string{"BK_ISOLATION=chroot", "SOURCE_DATE_EPOCH=1700000000"}
	return s
}

// holds reports whether any file below a directory holds a text.
func holds(t *testing.T, dir, text string) bool {
	t.Helper()
	out, _ := command("grep", "-rlaF", text, dir).Output()
	return len(out) > 0
}

// A secret is a file of the step only: what the step does with it, and however
// it ends, no layer and no file of the store has it afterwards.
func TestChrootSecret(t *testing.T) {
	s := chrootSite(t, `
-- Dockerfile --
FROM busybox
RUN --mount=type=secret,id=s,mode=0400,uid=12 stat -c '%a %u' /run/secrets/s; grep -c planted /run/secrets/s; mv /run/secrets/s /moved; ln /moved /linked
RUN ls /moved /linked /run/secrets; test ! -e /moved
-- failing --
FROM busybox
RUN --mount=type=secret,id=s cp -p /run/secrets/s /copied; exit 5
`)
	secret := s.path("secret")
	if err := os.WriteFile(secret, []byte("planted-48213\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := s.build(base(t, "busybox"), "--secret", "id=s,src="+secret, "-o", "type=oci,tar=false,dest="+s.path("out"))
	if !strings.Contains(o.logs, "400 12\n1\n") {
		t.Errorf("the step sees another secret: %s", o.logs)
	}
	if o := s.run("build", ".", "-f", "failing", base(t, "busybox"), "--secret", "id=s,src="+secret); o.code != 1 {
		t.Errorf("exit code %d of a failing build", o.code)
	}
	for _, dir := range []string{s.root, s.path("out")} {
		if holds(t, dir, "planted-48213") {
			t.Errorf("the secret is in %s", dir)
		}
	}
}

// A cache is in the step's files while it runs, and back when it failed. What a
// step puts in its place does not become a cache that leads elsewhere.
func TestChrootCache(t *testing.T) {
	s := chrootSite(t, `
-- Dockerfile --
FROM busybox
ARG SCRIPT
RUN --mount=type=cache,target=/c --mount=type=cache,id=other,target=/d sh -c "$SCRIPT"
-- twice --
FROM busybox
RUN --mount=type=cache,id=x,target=/c --mount=type=cache,id=x,target=/d true
-- parallel --
FROM busybox AS a
RUN --mount=type=cache,id=x,target=/c --mount=type=cache,id=y,target=/d echo a >> /c/f; sleep 0.2
FROM busybox AS b
RUN --mount=type=cache,id=y,target=/c --mount=type=cache,id=x,target=/d echo b >> /d/f; sleep 0.2
FROM busybox
RUN --mount=type=cache,id=x,target=/c --mount=from=a,target=/a --mount=from=b,target=/b wc -l < /c/f
`)
	run := func(script string) outcome {
		return s.run("build", ".", base(t, "busybox"), "--build-arg", "SCRIPT="+script)
	}
	if o := run("echo kept > /c/f; exit 3"); o.code != 1 {
		t.Fatalf("exit code %d of a failing build", o.code)
	}
	if o := run("cat /c/f"); o.code != 0 || !strings.Contains(o.logs, "kept") {
		t.Errorf("the cache of a failed step is gone: %s%s", o.logs, o.stderr)
	}
	if o := run("mv /c /old; ln -s / /c"); o.code != 0 {
		t.Errorf("exit code %d: %s%s", o.code, o.logs, o.stderr)
	}
	entries, err := os.ReadDir(filepath.Join(s.root, "mounts"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			t.Errorf("a step made the cache %s a link", e.Name())
		}
	}
	if o := run("ls /c /old 2>&1; test -d /c"); o.code != 0 || strings.Contains(o.logs, "kept") {
		t.Errorf("a lost cache is not a new one: exit code %d: %s%s", o.code, o.logs, o.stderr)
	}
	if o := s.run("build", ".", "-f", "twice", base(t, "busybox")); o.code == 0 || !strings.Contains(o.stderr, "one place only") {
		t.Errorf("a cache in two places: exit code %d: %s", o.code, o.stderr)
	}
	if o := s.build("-f", "parallel", base(t, "busybox")); !strings.Contains(o.logs, "2") {
		t.Errorf("steps that share caches in parallel: %s", o.logs)
	}
}

// A build that is killed leaves no process, and what it left in the store goes
// with the next one.
func TestChrootKilled(t *testing.T) {
	mark := fmt.Sprintf("sleep %d", 4000+os.Getpid())
	s := chrootSite(t, `
-- Dockerfile --
FROM busybox
RUN --mount=type=secret,id=s (setsid `+mark+` &); echo started; `+mark+`
-- next --
FROM busybox
RUN true
`)
	secret := s.path("secret")
	if err := os.WriteFile(secret, []byte("planted-51377\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.command("build", ".", base(t, "busybox"), "--secret", "id=s,src="+secret)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() bool { return command("pgrep", "-fx", mark).Run() == nil }
	for i := 0; !running(); i++ {
		if time.Sleep(20 * time.Millisecond); i > 1000 {
			t.Fatal("the step doesn't start")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for i := 0; running(); i++ {
		if time.Sleep(20 * time.Millisecond); i > 500 {
			t.Fatal("the step outlives its build")
		}
	}
	s.build("-f", "next", base(t, "busybox"))
	if holds(t, s.root, "planted-51377") {
		t.Error("the secret of a killed build is still in the store")
	}
}

// Without a mount of layers a build is the same, whether the rest of a container
// can be had or not.
func TestPlainCopy(t *testing.T) {
	s := chrootSite(t, `
-- Dockerfile --
FROM busybox AS a
RUN --mount=type=cache,target=/c --mount=target=/src cp /src/f /f; rm -r /opt; mkdir /opt; echo x > /opt/new; chmod 700 /usr; touch /c/x
RUN mv /f /g; ln /g /h; mkdir -p /deep/er /tmp/n/e/w; echo x > /tmp/n/e/w/f; mv /tmp/n /mnt/n
FROM a AS b
RUN --mount=from=a,target=/a/b cp -a /a/b/g /from-a && echo b > /b
FROM a AS c
RUN --mount=from=a,target=/a,rw echo lost > /a/g; rm /h; echo c > /c
FROM c
COPY --from=b / /b/
-- f --
content
`)
	digest := func(s *site) string {
		t.Helper()
		s.build(base(t, "busybox"), "--metadata-file", s.path("meta"), "-o", "type=oci,dest="+s.path("out.tar"))
		return imageDigest(t, []byte(s.read("meta")))
	}
	jailed := digest(s)
	root := s.in("store-root")
	root.env = []string{"BK_ISOLATION=root", "SOURCE_DATE_EPOCH=1700000000"}
	want := digest(root)
	if jailed != want {
		t.Errorf("in chroot %s, in overlays %s", jailed, want)
	}
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Skip("mount overlay: ", err)
	}
	defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
	plain := *root
	plain.root = filepath.Join(merged, "store")
	if got := digest(&plain); got != want {
		t.Errorf("in containers of plain directories %s, in overlays %s", got, want)
	}
}
