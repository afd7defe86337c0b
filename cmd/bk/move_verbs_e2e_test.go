//go:build linux

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bk.build/bk/layout"
)

// someone is a user that runs bk: root, or one without privileges.
type someone struct {
	*site
	id *syscall.Credential // nil: who runs the test
}

// users are who can run bk here.
func users(t *testing.T, env []string) map[string]*someone {
	t.Helper()
	me := &someone{site: newSite(t, noContext)}
	me.env = env
	if os.Geteuid() != 0 {
		return map[string]*someone{"unprivileged": me}
	}
	return map[string]*someone{"root": me, "unprivileged": nobody(t, env)}
}

// nobody runs bk with no privileges, in directories of its own.
func nobody(t *testing.T, env []string) *someone {
	t.Helper()
	top, err := os.MkdirTemp("", "bk-nobody-") // outside of root's directories
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	const id = 65534
	u := &someone{id: &syscall.Credential{Uid: id, Gid: id}, site: &site{
		t: t, dir: filepath.Join(top, "ctx"), root: filepath.Join(top, "store"),
		env: append(env[:len(env):len(env)], "HOME="+top, "TMPDIR="+top, "DOCKER_CONFIG="+filepath.Join(top, "docker")),
	}}
	exe, err := exec.LookPath("bk")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, exe, filepath.Join(top, "bk"))
	for _, name := range []string{top, u.dir} {
		if err := os.Chown(name, id, id); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// copyFile makes a program that everybody can run.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// does runs bk as this user, with standard input, and must succeed.
func (u *someone) does(stdin string, args ...string) string {
	u.t.Helper()
	cmd := u.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	if u.id != nil {
		cmd.Path = filepath.Join(filepath.Dir(u.dir), "bk")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.id}
	}
	o := wait(u.t, cmd)
	if o.code != 0 {
		u.t.Fatalf("bk %s: exit code %d\n%s", strings.Join(args, " "), o.code, o.stderr)
	}
	return strings.TrimSpace(o.stdout)
}

// All verbs work with every kind of registry, as root and without privileges:
// log in, push, pull, copy in all directions, look, list, log out.
func TestMoveVerbs(t *testing.T) {
	for name, start := range moveServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			for who, u := range users(t, m.env()) {
				t.Run(who, func(t *testing.T) {
					u.t = t
					moveVerbs(t, u, m, who)
				})
			}
		})
	}
}

func moveVerbs(t *testing.T, u *someone, m moveServer, who string) {
	t.Helper()
	if m.private {
		u.does("secret\n", "login", "--username", "me", "--password-stdin", m.addr)
	}
	dockerfile := "FROM scratch\nCOPY file /\n"
	for name, text := range map[string]string{"Dockerfile": dockerfile, "file": who} {
		if err := os.MkdirAll(u.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(u.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	repo := m.addr + "/" + who + "/app"
	u.does("", "build", "-q", "-t", repo+":1", "--platform", "linux/amd64,linux/arm64", ".")
	pushed := u.does("", "push", "-q", repo+":1")
	_, dgst, ok := strings.Cut(pushed, "@")
	if !ok {
		t.Fatalf("push prints %q", pushed)
	}
	layoutPath := u.path("layout")
	for _, trip := range [][2]string{
		{repo + ":1", "oci:" + layoutPath + ":a"},
		{"oci:" + layoutPath + ":a", repo + ":2"},
		{repo + ":2", m.addr + "/" + who + "/other:3"},
		{m.addr + "/" + who + "/other:3", "oci-archive:" + u.path("a.tar") + ":b"},
		{"oci-archive:" + u.path("a.tar") + ":b", repo + ":4"},
	} {
		if got := u.does("", "copy", "-q", trip[0], trip[1]); !strings.Contains(got, dgst) {
			t.Errorf("bk copy %s %s prints %q, want the digest %s", trip[0], trip[1], got, dgst)
		}
	}
	if got := u.does("", "registry", "tags", repo); strings.Join(strings.Fields(got), " ") != "1 2 4" {
		t.Errorf("tags %q, want 1 2 4", got)
	}
	if got := u.does("", "image", "inspect", "--format", "{{.Digest}}", "docker://"+repo+":4"); got != dgst {
		t.Errorf("bk image inspect: %s, want %s", got, dgst)
	}
	u.root = u.path("second")
	u.does("", "pull", "-q", repo+":4")
	if got := u.does("", "image", "inspect", "--format", "{{.Digest}}", "store:"+repo+":4"); got != dgst {
		t.Errorf("pulled %s, want %s", got, dgst)
	}
	u.does("", "cache", "verify")
	d, err := layout.Open(layoutPath)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.Resolve("a")
	if err != nil || desc.Digest.String() != dgst {
		t.Fatalf("the layout has %s, %v; want %s", desc.Digest, err, dgst)
	}
	if err := layout.Validate(t.Context(), d, desc); err != nil {
		t.Error(err)
	}
	if m.private {
		u.does("", "logout", m.addr)
	}
}
