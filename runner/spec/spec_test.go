package spec

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:/bin/false
1000:x:0:0:a number as a name:/evil:/bin/sh
app:x:1000:1001::/home/app:/bin/sh
broken:x:abc:def::/:/bin/sh
wrap:x:4294967296:0::/:/bin/sh
minus:x:-1:-1::/:/bin/sh
short:x
nohome:x:7:8
+nis
`

const group = `root:x:0:
1001:x:0:app
app:x:1001:
wheel:x:10:root,app
audio:x:29:other,app,app
huge:x:99999999999:app
bad
`

// USER strings are resolved as docker resolves them, and none that should not
// becomes root.
func TestResolveUser(t *testing.T) {
	for _, test := range []struct {
		user string
		want User
	}{
		{"", User{Home: "/root", Groups: []uint32{10}}},
		{"root", User{Home: "/root", Groups: []uint32{10}}},
		{"0", User{Home: "/root", Groups: []uint32{10}}},
		{"app", User{UID: 1000, GID: 1001, Home: "/home/app", Groups: []uint32{0, 10, 29}}},
		{"1000", User{UID: 1000, GID: 1001, Home: "/home/app", Groups: []uint32{0, 10, 29}}},
		{"app:wheel", User{UID: 1000, GID: 10, Home: "/home/app"}},
		{"app:7777", User{UID: 1000, GID: 7777, Home: "/home/app"}},
		{"app:1001", User{UID: 1000, GID: 1001, Home: "/home/app"}},
		{"2000", User{UID: 2000, Home: "/"}},
		{"2000:3000", User{UID: 2000, GID: 3000, Home: "/"}},
		{"4294967294:4294967294", User{UID: 4294967294, GID: 4294967294, Home: "/"}},
		{"daemon:", User{UID: 1, GID: 1, Home: "/usr/sbin"}},
		{"nohome", User{UID: 7, GID: 8, Home: "/"}},
	} {
		got, err := ResolveUser(strings.NewReader(passwd), strings.NewReader(group), test.user)
		if err != nil {
			t.Errorf("ResolveUser(%q): %v", test.user, err)
		}
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("ResolveUser(%q) (-want +got):\n%s", test.user, d)
		}
	}
}

// What is not a valid identity is an error and never root: numbers that wrap
// around, entries with broken numbers, unknown names.
func TestResolveUserRefuses(t *testing.T) {
	for _, user := range []string{
		"4294967296:0", "4294967296", "4294967295", "18446744073709551616", "0:4294967296", "0:4294967295",
		"-1", "0:-1", "+0", "0x0", " 0", "broken", "wrap", "minus", "short", "missing", "app:missing",
		"app:huge", "+nis", "#", ":nogroup",
	} {
		if got, err := ResolveUser(strings.NewReader(passwd), strings.NewReader(group), user); err == nil {
			t.Errorf("ResolveUser(%q) = %+v, want an error", user, got)
		}
	}
	if _, err := ResolveUser(nil, nil, "app"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ResolveUser without files: %v, want fs.ErrNotExist", err)
	}
	if u, err := ResolveUser(nil, nil, ""); err != nil || u.UID != 0 || u.Home != "/" {
		t.Errorf("ResolveUser without files and user = %+v, %v; want root", u, err)
	}
}

// endless is a passwd file without end.
type endless struct{ line string }

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.line)
	}
	return n, nil
}

// A giant file is an error, whether it has lines or not.
func TestResolveUserBounds(t *testing.T) {
	for _, r := range []io.Reader{endless{"a:x:5:5::/:\n"}, endless{"x"}} {
		if _, err := ResolveUser(r, nil, "app"); err == nil {
			t.Error("ResolveUser of an endless file: no error")
		}
	}
}

// Only an entry, or the number itself, gives an id; and only a string that
// means root gives root.
func FuzzResolveUser(f *testing.F) {
	for _, u := range []string{"", "app", "0:0", "1000:wheel", "4294967296:0", "a:b:c", "\x00"} {
		f.Add(passwd, group, u)
	}
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		u, err := ResolveUser(strings.NewReader(passwd), strings.NewReader(group), user)
		if err != nil {
			return
		}
		name, _, _ := strings.Cut(user, ":")
		_, digits, _ := number(name)
		isRoot := name == "" || digits && strings.Trim(name, "0") == ""
		if digits && (u.UID == 0) != isRoot {
			t.Errorf("ResolveUser(%q) = %+v", user, u)
		}
		if !digits && !strings.Contains(passwd, name) {
			t.Errorf("ResolveUser(%q) = %+v from a file without the name", user, u)
		}
	})
}

// A network mode or anything else that's unknown doesn't fall back to a
// weaker container.
func TestDefaultRefuses(t *testing.T) {
	for _, o := range []Options{
		{Args: []string{"true"}},
		{Args: []string{"true"}, Network: "bridge"},
		{Network: NetworkHost},
	} {
		if _, err := Default(o); err == nil {
			t.Errorf("Default(%+v): no error", o)
		}
	}
}

// The default container has docker's rights and no more.
func TestDefault(t *testing.T) {
	s, err := Default(Options{Args: []string{"true"}, Network: NetworkNone, User: User{UID: 5, GID: 6, Groups: []uint32{7}, Home: "/h"},
		Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "x"}, {Destination: "/x", Type: "tmpfs", Source: "y"}}})
	if err != nil {
		t.Skip(err) // no profile on this system
	}
	if err := Check(s); err != nil {
		t.Error(err)
	}
	c := s.Process.Capabilities
	if len(c.Bounding) != 14 || len(c.Inheritable)+len(c.Ambient) != 0 {
		t.Errorf("capabilities %+v", c)
	}
	if s.Linux.Seccomp == nil || len(s.Linux.MaskedPaths) < 12 || len(s.Linux.ReadonlyPaths) != 5 || len(s.Linux.Devices) != 0 {
		t.Errorf("protection %+v", s.Linux)
	}
	if d := cmp.Diff([]uint32{6, 7}, s.Process.User.AdditionalGids); d != "" {
		t.Errorf("groups (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"HOME=/h"}, s.Process.Env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	if n := len(s.Mounts); n != 8 || s.Mounts[3].Source != "x" {
		t.Errorf("mounts %+v", s.Mounts)
	}
}

// What the runner does not implement is refused, field by field.
func TestCheckRefuses(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no process":         func(s *specs.Spec) { s.Process = nil },
		"no linux":           func(s *specs.Spec) { s.Linux = nil },
		"no command":         func(s *specs.Spec) { s.Process.Args = nil },
		"relative directory": func(s *specs.Spec) { s.Process.Cwd = "x" },
		"zero byte":          func(s *specs.Spec) { s.Process.Env = []string{"a=\x00"} },
		"hooks":              func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
		"terminal":           func(s *specs.Spec) { s.Process.Terminal = true },
		"apparmor":           func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"user namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		},
		"joined namespace": func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"twice":            func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"no pid namespace": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"propagation":      func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
		"mount on root":    func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x/.."}} },
		"relative mount":   func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "x"}} },
		"id-mapped mount": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", UIDMappings: make([]specs.LinuxIDMapping, 1)}}
		},
		"masked root":      func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/"} },
		"device elsewhere": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/../etc/x", Type: "c"}} },
		"device type":      func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}} },
		"limits":           func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} },
	} {
		s, err := Default(Options{Args: []string{"true"}, Network: NetworkHost})
		if err != nil {
			t.Skip(err)
		}
		change(s)
		if Check(s) == nil {
			t.Errorf("%s: Check found nothing", name)
		}
	}
}
