//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A step's layer holds what its command wrote, and nothing of what the
// container was made with: no mount points, no host files, no devices.
func TestRunLeavesOnlyItsFiles(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS src
RUN mkdir -p /m/sub && echo m > /m/sub/f
FROM busybox
RUN --mount=type=cache,target=/a/b/cache \
    --mount=type=bind,from=src,source=/m,target=/opt/m \
    --mount=type=bind,from=src,source=/m/sub/f,target=/file \
    --mount=type=tmpfs,target=/var/tmpfs \
    --mount=type=secret,id=s,target=/etc/deep/secret \
    --mount=type=bind,rw,target=/ctx \
    cat /etc/resolv.conf /etc/hosts > /dev/null && test -e /dev/null && test "$(cat /file)" = m && \
    echo x > /var/tmpfs/x && echo x > /a/b/cache/x && echo x > /ctx/x && test "$(cat /etc/deep/secret)" = hush && \
    echo made > /made
RUN true
RUN echo 'nameserver 1.1.1.1' > /etc/resolv.conf || true; echo in-etc > /etc/mine
RUN test ! -e /opt/m && test ! -e /file && test ! -e /a && test ! -e /ctx && test ! -e /etc/deep
-- file --
`)
	s.env = []string{"S=hush"}
	s.build(base(t, "busybox"), "--secret=id=s,env=S", "-o", "type=oci,dest=../out,tar=false")
	image := theImage(t, s.path("out"))
	for n, want := range [][]string{
		{}, {"etc/", "etc/mine"}, {}, {"made"},
	} {
		if diff := cmp.Diff(want, image.files(t, n)); diff != "" {
			t.Errorf("layer %d from the top (-want +got):\n%s", n, diff)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, "x")); err == nil {
		t.Error("a write to a bind mount of the context reached the context")
	}
}

// What a command prints is shown while it runs; its exit code is told.
func TestRunOutputAndExitCode(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN echo to stdout; echo to stderr >&2; printf 'no newline'; sleep 100; exit 3
-- fail.Dockerfile --
FROM busybox
RUN echo last words; exit 3
`)
	b := s.start("build", ".", base(t, "busybox"), "--progress=plain")
	eventually(t, "the output of a step that still runs", func() bool {
		text := b.output()
		return strings.Contains(text, "to stdout") && strings.Contains(text, "to stderr")
	})
	b.stop(15)
	out := s.run("build", ".", base(t, "busybox"), "-f", "fail.Dockerfile", "--progress=plain")
	const want = `process "/bin/sh -c echo last words; exit 3" did not complete successfully: exit code: 3`
	if out.code != 1 || !strings.Contains(out.stderr, want) || !strings.Contains(out.stderr, " last words\n") {
		t.Errorf("exit code %d, printed:\n%s", out.code, out.stderr)
	}
}

// What a step is, sees and may do follows from the instructions before it.
func TestRunEnvironment(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
SHELL ["/bin/sh", "-ec"]
ENV GREETING="hello world" PATH_EXTRA=/x
ARG WHO=nobody
WORKDIR /work/dir
USER app
RUN pwd; id -un; echo "$GREETING $WHO"; env | grep -c '^HOME=/home/app$'
USER 1234:5678
RUN id -u; id -g
USER root
RUN --network=none ip -o link | wc -l; test ! -e /sys/class/net/eth0
RUN test $(ls /proc | grep -c '^[0-9]') -lt 9; test ! -e /proc/1/cwd/ctx
RUN ! mount -t tmpfs x /mnt 2>/dev/null; ! hostname x 2>/dev/null; ! (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null; ! mkdir /sys/kernel/x 2>/dev/null; ! cat /proc/kcore 2>/dev/null | head -c1 | grep -q .
RUN <<EOF
echo one
echo two
EOF
RUN <<EOF cat - > /piped
from a heredoc
EOF
COPY <<one <<"two" /here/
value $GREETING
one
literal $GREETING
two
RUN cat /piped /here/one /here/two
`)
	out := s.build(base(t, "busybox"), "--build-arg=WHO=bk", "--no-cache")
	for _, want := range []string{
		"/work/dir\napp\nhello world bk\n1\n", "1234\n5678\n", "\n1\n", "one\ntwo\n",
		"from a heredoc\nvalue hello world\nliteral $GREETING\n",
	} {
		if !strings.Contains("\n"+out.logs, want) {
			t.Errorf("%q is not in what the steps printed:\n%s", want, out.logs)
		}
	}
}

// Mounts nest in any order; writes to a bind mount are seen by the command and
// then forgotten; a tmpfs is empty in each step.
func TestRunMounts(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN --mount=type=cache,target=/src/node_modules --mount=type=bind,target=/src \
    test -f /src/main.js && echo dep > /src/node_modules/dep
RUN --mount=type=bind,target=/src --mount=type=cache,target=/src/node_modules --mount=type=tmpfs,target=/src/node_modules/tmp \
    cat /src/node_modules/dep && ! touch /src/new 2>/dev/null && touch /src/node_modules/tmp/x
RUN --mount=type=bind,target=/src,rw echo changed >> /src/main.js && tail -n1 /src/main.js
RUN --mount=type=bind,target=/src cat /src/main.js > /main.js
RUN --mount=type=tmpfs,target=/t,size=1m ! dd if=/dev/zero of=/t/f bs=1M count=3 2>/dev/null; rm -f /t/f; df -m /t | tail -n1 | grep -q ' 1 '
RUN --mount=type=cache,target=/ro,id=ro,readonly ! touch /ro/x
RUN --mount=type=cache,target=/m,id=m,uid=1000,gid=1000,mode=0700 stat -c '%u:%g %a' /m
RUN --mount=type=cache,from=busybox,source=/etc,target=/from,id=from cat /from/passwd | head -n1
RUN --mount=type=cache,target=/one,sharing=private echo private >> /one/f
RUN --mount=target=/a/../b,type=bind ls /b/main.js
-- main.js --
original
`)
	out := s.build(base(t, "busybox"), "-o", "../out")
	if got := s.read("out/main.js"); got != "original\n" {
		t.Errorf("a write to a bind mount stayed: %q", got)
	}
	for _, want := range []string{"dep\n", "changed\n", "1000:1000 700\n", "root:"} {
		if !strings.Contains(out.logs, want) {
			t.Errorf("%q is not in what the steps printed:\n%s", want, out.logs)
		}
	}
}

// COPY --link, ADD of an archive and ONBUILD do what the language says.
func TestCopies(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM base
COPY --link --chown=1:2 --chmod=640 f /link/
ADD a.tar.gz /unpacked/
ADD --unpack=false a.tar.gz /packed/
RUN stat -c '%u:%g %a' /link/f; cat /unpacked/ctx/f /triggered; test -f /packed/a.tar.gz
-- base.Dockerfile --
FROM busybox
ONBUILD RUN echo triggered > /triggered
ONBUILD COPY f /from-onbuild
-- f --
f
`)
	if o := wait(t, command("tar", "-C", filepath.Dir(s.dir), "-czf", filepath.Join(s.dir, "a.tar.gz"), "ctx/f")); o.code != 0 {
		t.Fatal(o.stderr)
	}
	flag := base(t, "busybox")
	s.build(flag, "-f", "base.Dockerfile", "-o", "type=oci,dest=../base,tar=false")
	if n := len(theImage(t, s.path("base")).manifest.Layers); n != 2 {
		t.Errorf("ONBUILD ran at once: %d layers", n)
	}
	out := s.build("--build-context=base=oci-layout://"+s.path("base"), "-o", "../out")
	if want := "1:2 640\nf\ntriggered\n"; out.logs != want {
		t.Errorf("printed %q, want %q", out.logs, want)
	}
	if got := s.read("out/from-onbuild"); got != "f\n" {
		t.Errorf("ONBUILD COPY made %q", got)
	}
}

// A secret's value is nowhere: not in a layer, a configuration, a history, a
// log, nor in any file of the store, even when bk is killed.
func TestSecretsStaySecret(t *testing.T) {
	needContainers(t)
	value, file := marker(), marker()
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN --mount=type=secret,id=env,env=TOKEN --mount=type=secret,id=file,mode=0444,uid=5,required=true \
    test ${#TOKEN} = 24 && test $(wc -c < /run/secrets/file) = 25 && stat -c '%u %a' /run/secrets/file && \
    ! (echo x > /run/secrets/file) 2>/dev/null
RUN test ! -e /run/secrets/file && test -z "$TOKEN"
-- sleep.Dockerfile --
FROM busybox
RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN sleep 1000
-- ../secret --
`+file+`
`)
	s.env = []string{"VALUE=" + value}
	flags := []string{base(t, "busybox"), "--secret=id=env,env=VALUE", "--secret=id=file,src=../secret"}
	out := s.build(append(flags, "-t", "app", "-o", "type=image", "-o", "type=oci,dest=../out.tar,compression=uncompressed")...)
	if out.logs != "5 444\n" {
		t.Errorf("printed %q", out.logs)
	}
	for _, secret := range []string{value, file} {
		for _, where := range []string{s.root, s.path("out.tar")} {
			if found := filesWith(t, where, secret); len(found) > 0 {
				t.Errorf("a secret is in %q", found)
			}
		}
		if strings.Contains(out.stderr+out.logs, secret) {
			t.Error("a secret is in the log")
		}
	}
	mark := marker()
	b := s.start(append([]string{"build", ".", "-f", "sleep.Dockerfile", "--build-arg=X=" + mark}, flags...)...)
	eventually(t, "the step", func() bool { return len(processesWith(value)) >= 2 })
	while := filesWith(t, s.root, file)
	b.stop(9)
	s.checkGone(b)
	if found := append(while, filesWith(t, s.root, file)...); len(found) > 0 {
		t.Errorf("while a step ran, and after bk was killed, a secret is in %q", found)
	}
}

// filesWith lists the files at or below a path that hold a text.
func filesWith(t *testing.T, path, text string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(name)
		if err == nil && bytes.Contains(b, []byte(text)) {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// agentProgram asks the agent of a step for its keys.
const agentProgram = `
-- go.mod --
module asks
go 1.25
-- main.go --
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	c, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c.Write([]byte{0, 0, 0, 1, 11}) // SSH_AGENTC_REQUEST_IDENTITIES
	var n uint32
	binary.Read(c, binary.BigEndian, &n)
	answer := make([]byte, n)
	io.ReadFull(c, answer)
	fmt.Printf("%d keys: %q\n", binary.BigEndian.Uint32(answer[1:]), answer[len(answer)-11:])
}
`

// A step reaches an agent of the user through a socket of its own, and only
// the agent that it asked for.
func TestRunSSH(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
COPY asks /asks
RUN --mount=type=ssh /asks
RUN --mount=type=ssh,id=other,target=/sock,mode=0666,uid=7 SSH_AUTH_SOCK=/sock /asks; stat -c '%u %a' /sock
RUN test -z "$SSH_AUTH_SOCK"
`+agentProgram)
	build := command("go", "build", "-o", "asks", ".")
	build.Dir, build.Env = s.dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if o := wait(t, build); o.code != 0 {
		t.Fatal(o.stderr)
	}
	s.env = []string{"SSH_AUTH_SOCK=" + agentWith(t, s.path("one.sock"), "first-agent")}
	other := agentWith(t, s.path("two.sock"), "other-agent")
	flag := base(t, "busybox")
	out := s.build(flag, "--ssh=default", "--ssh=other="+other, "-o", "type=oci,dest=../out,tar=false")
	want := "1 keys: \"first-agent\"\n1 keys: \"other-agent\"\n7 666\n"
	if out.logs != want {
		t.Errorf("the steps printed %q, want %q", out.logs, want)
	}
	image := theImage(t, s.path("out"))
	for n := range 3 {
		if files := image.files(t, n); len(files) > 0 {
			t.Errorf("in a layer: %q", files)
		}
	}
	// Without an agent bk serves keys itself.
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "in a file")
	if err == nil {
		err = os.WriteFile(s.path("key"), pem.EncodeToMemory(block), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.env = []string{"SSH_AUTH_SOCK="}
	out = s.build(flag, "--ssh=default="+s.path("key"), "--ssh=other="+s.path("key"), "--no-cache")
	if n := strings.Count(out.logs, "1 keys:"); n != 2 {
		t.Errorf("with key files the steps printed %q", out.logs)
	}
	if found := filesWith(t, s.root, "PRIVATE KEY"); len(found) > 0 {
		t.Errorf("a key is in %q", found)
	}
}

// agentWith serves an agent with one key.
func agentWith(t *testing.T, path, comment string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key, Comment: comment}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c); c.Close() }()
		}
	}()
	return path
}
