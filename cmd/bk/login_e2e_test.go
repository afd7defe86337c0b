//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"

	"bk.build/bk/hack/registry"
	"bk.build/bk/hack/tokens"
)

// newUser is a site of somebody with a home of their own, where no registry is
// known, and with one image in the layout "image".
func newUser(t *testing.T) *site {
	t.Helper()
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY Dockerfile /\n")
	s.env = []string{"HOME=" + s.path("home"), "XDG_RUNTIME_DIR=" + s.path("run"), "XDG_CONFIG_HOME="}
	for _, name := range []string{"DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "BK_PULL_SECRETS", "CONTAINERS_REGISTRIES_CONF"} {
		s.env = append(s.env, name+"=")
	}
	if o := s.run("build", "-o", "type=oci,dest="+s.path("image")+",tar=false", "."); o.code != 0 {
		t.Fatal(o.stderr)
	}
	return s
}

// login logs in with a password on stdin.
func (s *site) login(where, user, password string) outcome {
	s.t.Helper()
	cmd := s.command("login", "-u", user, "--password-stdin", where)
	cmd.Stdin = strings.NewReader(password)
	o := wait(s.t, cmd)
	if secret := strings.TrimSpace(password); secret != "" && strings.Contains(o.stdout+o.stderr, secret) {
		s.t.Errorf("bk login shows the password: %s%s", o.stdout, o.stderr)
	}
	return o
}

func (s *site) push(ref string) outcome {
	s.t.Helper()
	return s.run("copy", "oci:"+s.path("image"), "docker://"+ref)
}

// A login has effect on what follows, a logout takes it back, and a password
// that is refused is not stored.
func TestLogin(t *testing.T) {
	users := tokens.Start(t, tokens.Options{Users: map[string]string{"me": "hunter2:\n x"}})
	for kind, o := range map[string]registry.Options{
		"basic": {Htpasswd: registry.Htpasswd(t, "me", "hunter2:\n x")},
		"token": {Token: users.Registry()},
	} {
		t.Run(kind, func(t *testing.T) {
			s := newUser(t)
			addr := registry.StartWith(t, o)
			if o := s.push(addr + "/app:v1"); o.code != exitFailed || !strings.Contains(o.stderr, "bk login "+addr) {
				t.Errorf("push without login: %d\n%s", o.code, o.stderr)
			}
			for _, password := range []string{"wrong-password", "hunter2:\n xx"} {
				if o := s.login(addr, "me", password); o.code != exitFailed || !strings.Contains(o.stderr, "log in to "+addr) || strings.Contains(o.stderr, "bk login") {
					t.Errorf("login with a wrong password: %d\n%s", o.code, o.stderr)
				}
			}
			if _, err := os.Stat(s.path("home")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a refused login left something: %v", err)
			}
			file := s.path("home/.docker/config.json")
			for _, where := range []string{addr, "https://" + addr + "/v1/", addr + "/"} {
				want := "Login succeeded: user me for " + addr + ", stored in " + file + "\nWARNING: the password is not encrypted"
				if o := s.login(where, "me", "hunter2:\n x\n"); o.code != exitOK || !strings.HasPrefix(o.stderr, want) || o.stdout != "" {
					t.Errorf("login to %s: %d\n%s%s, want %s", where, o.code, o.stdout, o.stderr, want)
				}
			}
			if o := s.push(addr + "/app:v1"); o.code != exitOK {
				t.Errorf("push: %d\n%s", o.code, o.stderr)
			}
			if o := s.run("login", addr); o.code != exitOK || !strings.Contains(o.stderr, "Already logged in: user \"me\" for "+addr+" from "+file) {
				t.Errorf("login without a name: %d\n%s", o.code, o.stderr)
			}
			if o := s.run("logout", addr); o.code != exitOK || o.stderr != "Removed the credentials for "+addr+" from "+file+"\n" {
				t.Errorf("logout: %d\n%s", o.code, o.stderr)
			}
			if o := s.run("logout", addr); o.code != exitOK || o.stderr != "Not logged in to "+addr+"\n" {
				t.Errorf("second logout: %d\n%s", o.code, o.stderr)
			}
			if o := s.push(addr + "/app:v1"); o.code != exitFailed {
				t.Errorf("push after logout: %d\n%s", o.code, o.stderr)
			}
		})
	}
}

// Logins to parts of a registry are used for these parts.
func TestLoginPath(t *testing.T) {
	users := tokens.Start(t, tokens.Options{
		Users: map[string]string{"anna": "one", "ben": "two"},
		Allow: func(user, name, _ string) bool { return user != "" && strings.HasPrefix(name, user+"/") },
	})
	addr := registry.StartWith(t, registry.Options{Token: users.Registry()})
	s := newUser(t)
	for user, password := range map[string]string{"anna": "one", "ben": "two"} {
		if o := s.login(addr+"/"+user, user, password); o.code != exitOK {
			t.Fatalf("login as %s: %d\n%s", user, o.code, o.stderr)
		}
	}
	for _, user := range []string{"anna", "ben"} {
		if o := s.push(addr + "/" + user + "/team/app:v1"); o.code != exitOK {
			t.Errorf("push to %s: %d\n%s", user, o.code, o.stderr)
		}
	}
	if o := s.push(addr + "/other/app:v1"); o.code != exitFailed {
		t.Errorf("push to nobody's part: %d\n%s", o.code, o.stderr)
	}
	if o := s.run("logout", "--all"); o.code != exitOK || strings.Count(o.stderr, "Removed") != 2 {
		t.Errorf("logout --all: %d\n%s", o.code, o.stderr)
	}
	if o := s.run("logout", "-a"); o.code != exitOK || o.stderr != "Not logged in to any registry\n" {
		t.Errorf("second logout --all: %d\n%s", o.code, o.stderr)
	}
}

// An identity token, as docker login leaves it, buys tokens for what is done.
func TestIdentityToken(t *testing.T) {
	users := tokens.Start(t, tokens.Options{Users: map[string]string{"me": "hunter2"}})
	addr := registry.StartWith(t, registry.Options{Token: users.Registry()})
	s := newUser(t)
	s.write(fmt.Sprintf("-- ../pull/secret/.dockerconfigjson --\n"+`{"auths":{"%s":{"identitytoken":"%s"}}}`, addr, users.RefreshToken("me")))
	s.env = append(s.env, "BK_PULL_SECRETS="+s.path("pull"))
	if o := s.push(addr + "/app:v1"); o.code != exitOK {
		t.Fatalf("push: %d\n%s", o.code, o.stderr)
	}
	for _, r := range users.Requests() {
		if r.Grant != "refresh_token" || r.User != "me" || r.Status != 200 {
			t.Errorf("the token server was asked %+v", r)
		}
	}
}

// What another file or helper has to say is told: it may come first, and it
// stays after a logout.
func TestLoginBesideOthers(t *testing.T) {
	s := newUser(t)
	addr := registry.StartWith(t, registry.Options{Htpasswd: registry.Htpasswd(t, "me", "hunter2")})
	s.env = append(s.env, fmt.Sprintf(`DOCKER_AUTH_CONFIG={"auths":{"%s":{"auth":"eW91OnNlY3JldA=="}}}`, addr))
	if o := s.login(addr, "me", "hunter2"); o.code != exitOK || !strings.Contains(o.stderr, "WARNING: it will not be used: user \"you\" for "+addr+" from $DOCKER_AUTH_CONFIG comes first") {
		t.Errorf("login: %d\n%s", o.code, o.stderr)
	}
	if o := s.run("login", addr); o.code != exitFailed || !strings.Contains(o.stderr, "not accepted") || !strings.Contains(o.stderr, "(user \"you\" for "+addr+" from $DOCKER_AUTH_CONFIG)") {
		t.Errorf("login with what is stored: %d\n%s", o.code, o.stderr)
	}
	if o := s.run("logout", addr); o.code != exitOK || !strings.Contains(o.stderr, "Still there: user \"you\"") {
		t.Errorf("logout: %d\n%s", o.code, o.stderr)
	}
	s.env = append(s.env, "DOCKER_AUTH_CONFIG=")
	s.write("-- ../home/.docker/config.json --\n{\"credsStore\": \"missing\"}\n")
	if o := s.login(addr, "me", "hunter2"); o.code != exitFailed || !strings.Contains(o.stderr, "docker-credential-missing is not installed") {
		t.Errorf("login with a missing helper: %d\n%s", o.code, o.stderr)
	}
}

// A person is asked for what is missing, and does not see the password.
func TestLoginPrompt(t *testing.T) {
	s := newUser(t)
	addr := registry.StartWith(t, registry.Options{Htpasswd: registry.Htpasswd(t, "me", "hunter2")})
	for _, tt := range []struct {
		args, say []string
		code      int
		want      string
	}{
		{nil, []string{"User name", "me\n", "Password", "hunter2\n"}, exitOK, "Login succeeded: user me"},
		{nil, nil, exitOK, "Already logged in"},
		{[]string{"-u", "me"}, []string{"Password", "hunter2\n"}, exitOK, "Login succeeded: user me"},
		{[]string{"-u", "me"}, []string{"Password", "wrong-password\n"}, exitFailed, "log in to"},
		{[]string{"-u", "me"}, []string{"Password", "\n"}, exitFailed, "the password is empty"},
		{[]string{"-u", "me"}, []string{"Password", "\x03"}, exitInterrupted, "stopped by signal"},
	} {
		code, shown := s.converse(append([]string{"login", addr}, tt.args...), tt.say)
		if code != tt.code || !strings.Contains(shown, tt.want) || strings.Contains(shown, "hunter2") || strings.Contains(shown, "wrong-password") {
			t.Errorf("login %q, told %q: %d\n%s", tt.args, tt.say, code, shown)
		}
	}
}

// converse runs bk on a terminal: say is what to wait for and what to type then,
// in turns. It returns all that was shown.
func (s *site) converse(args, say []string) (int, string) {
	s.t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		s.t.Skip(err)
	}
	defer pty.Close()
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := s.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = onTerminal()
	err = cmd.Start()
	tty.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	var shown strings.Builder
	for buf := make([]byte, 1024); ; {
		if len(say) > 0 && strings.Contains(shown.String(), say[0]) {
			if _, err := pty.Write([]byte(say[1])); err != nil {
				s.t.Fatal(err)
			}
			say = say[2:]
		}
		n, err := pty.Read(buf)
		shown.Write(buf[:n])
		if err != nil {
			break // EIO: nobody has the terminal any more
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), shown.String()
}

// registries.conf sends builds and copies to other places, and keeps them from
// some.
func TestRegistriesConf(t *testing.T) {
	s := newUser(t)
	addr := registry.Start(t)
	if o := s.push(addr + "/mirror/app:v1"); o.code != exitOK {
		t.Fatalf("push: %d\n%s", o.code, o.stderr)
	}
	s.write(fmt.Sprintf(`-- ../home/.config/containers/registries.conf --
[[registry]]
prefix = "registry.example/team"
location = "%[1]s/nowhere"
[[registry.mirror]]
location = "%[1]s/mirror"

[[registry]]
location = "evil.example"
blocked = true
-- Dockerfile --
FROM registry.example/team/app:v1
COPY Dockerfile /two
-- evil/Dockerfile --
FROM evil.example/app
`, addr))
	if o := s.run("build", "-o", "type=oci,dest="+s.path("built"), "."); o.code != exitOK {
		t.Errorf("build from a mirror: %d\n%s%s", o.code, o.stderr, o.logs)
	}
	if o := s.run("copy", "docker://registry.example/team/app:v1", "oci:"+s.path("copied")); o.code != exitOK {
		t.Errorf("copy from a mirror: %d\n%s", o.code, o.stderr)
	}
	conf := s.path("home/.config/containers/registries.conf")
	for _, args := range [][]string{
		{"build", "-o", "type=oci,dest=" + s.path("never"), "evil"},
		{"copy", "docker://evil.example/app:v1", "oci:" + s.path("never")},
		{"copy", "oci:" + s.path("image"), "docker://evil.example/app:v1"},
		{"login", "-u", "me", "-p", "hunter2", "evil.example"},
	} {
		if o := s.run(args...); o.code != exitFailed || !strings.Contains(o.stderr, "is blocked by "+conf+":7") {
			t.Errorf("bk %q: %d\n%s", args, o.code, o.stderr)
		}
	}
	s.write("-- ../home/.config/containers/registries.conf --\n[[registry]]\nprefix = 1\n")
	if o := s.run("copy", "docker://registry.example/team/app:v1", "oci:"+s.path("never")); o.code != exitFailed || !strings.Contains(o.stderr, conf+":2:") {
		t.Errorf("copy with a broken file: %d\n%s", o.code, o.stderr)
	}
	if o := s.run("copy", "oci:"+s.path("image"), "oci:"+s.path("local")); o.code != exitOK {
		t.Errorf("copy without a registry and with a broken file: %d\n%s", o.code, o.stderr)
	}
	if _, err := os.Stat(filepath.Join(s.path("never"))); err == nil {
		t.Error("something was written from what is blocked")
	}
}

// onTerminal makes the terminal on stdin that of the process.
func onTerminal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true, Setctty: true} }
