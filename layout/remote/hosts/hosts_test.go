package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write writes files ("path", "content", ...) below dir.
func write(t testing.TB, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(files[i+1]), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t testing.TB, content string) *Config {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "r.conf", content)
	c, err := Load(Paths{File: filepath.Join(dir, "r.conf")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const example = `
unqualified-search-registries = ["example.com"]

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
pull-from-mirror = "digest-only"

[[registry.mirror]]
location = "tags.registry.com"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "example.com/foo/deep"
location = "deep.example.com"
mirror-by-digest-only = true

[[registry.mirror]]
location = "deep.mirror:5000"

[[registry]]
location = "bad.example.com/evil/"
blocked = true

[[registry]]
prefix = "*.wild.example"
insecure = true

[[registry]]
prefix = "*.more.wild.example"
location = "one.example/all"

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "hub.mirror/hub"

[[registry]]
prefix = "docker.io" # the second one with this prefix does not count
blocked = true

[[registry]]
location = "127.0.0.1:5000"
insecure = true

[[registry]]
location = "[::1]:5000"
insecure = true
`

// The longest prefix chooses the rule, mirrors come first and only for what they
// are for, and what follows the prefix is kept.
func TestEndpoints(t *testing.T) {
	c := load(t, example)
	for _, tt := range []struct{ name, want, byDigest string }{
		{"example.com/foo/image", "example-mirror-0.local mirror-for-foo/image mirror; example-mirror-1.local mirrors/foo/image mirror insecure; internal-registry-for-example.com bar/image", ""},
		{"example.com/foo", "example-mirror-0.local mirror-for-foo mirror; example-mirror-1.local mirrors/foo mirror insecure; internal-registry-for-example.com bar", ""},
		{"example.com/foobar/image", "example.com foobar/image", ""},
		{"example.com/image", "example.com image", ""},
		{"example.com:443/foo/image", "example.com:443 foo/image", ""},
		{"EXAMPLE.com/foo/image", "example-mirror-0.local mirror-for-foo/image mirror; example-mirror-1.local mirrors/foo/image mirror insecure; internal-registry-for-example.com bar/image", ""},
		{"registry.com/image", "tags.registry.com image mirror; registry.com image", "mirror.registry.com image mirror; registry.com image"},
		{"example.com/foo/deep/a/b", "deep.example.com a/b", "deep.mirror:5000 a/b mirror; deep.example.com a/b"},
		{"a.wild.example/x", "a.wild.example x insecure", ""},
		{"a.b.wild.example:8443/x", "a.b.wild.example:8443 x insecure", ""},
		{"wild.example/x", "wild.example x", ""},
		{"evilwild.example/x", "evilwild.example x", ""},
		{"a.wild.example.org/x", "a.wild.example.org x", ""},
		{"a.wild.example.b.wild.example/x", "a.wild.example.b.wild.example x insecure", ""},
		{"a.more.wild.example:8443/x/y", "one.example all/x/y", ""},
		{"docker.io/library/alpine", "hub.mirror hub/library/alpine mirror; docker.io library/alpine", ""},
		{"index.docker.io/library/alpine", "hub.mirror hub/library/alpine mirror; docker.io library/alpine", ""},
		{"127.0.0.1:5000/x", "127.0.0.1:5000 x insecure", ""},
		{"[::1]:5000/x", "[::1]:5000 x insecure", ""},
		{"bad.example.com/fine", "bad.example.com fine", ""},
	} {
		for byDigest, want := range map[bool]string{false: tt.want, true: tt.byDigest} {
			if want == "" {
				want = tt.want
			}
			list, err := c.Endpoints(tt.name, byDigest)
			if got := describe(list); err != nil || got != want {
				t.Errorf("Endpoints(%q, %v) = %q, %v; want %q", tt.name, byDigest, got, err, want)
			}
		}
	}
	if _, err := c.Endpoints("deep.example.com", false); err == nil {
		t.Error("a name without repository has endpoints")
	}
	if _, err := c.Endpoints("example.com/foo/deep", false); err == nil || !strings.Contains(err.Error(), "names no repository") {
		t.Errorf("a location without repository: %v", err)
	}
}

func describe(list []Endpoint) string {
	var s []string
	for _, e := range list {
		one := e.Registry + " " + e.Repository
		if e.Mirror {
			one += " mirror"
		}
		if e.Insecure {
			one += " insecure"
		}
		s = append(s, one)
	}
	return strings.Join(s, "; ")
}

// What is blocked is blocked for reading and for writing, and the error says
// which file wants it so.
func TestBlocked(t *testing.T) {
	c := load(t, example)
	_, readErr := c.Endpoints("bad.example.com/evil/image", true)
	_, writeErr := c.Destination("bad.example.com/evil/image")
	for _, err := range []error{readErr, writeErr} {
		var blocked *BlockedError
		if !errors.As(err, &blocked) || !strings.HasSuffix(err.Error(), "bad.example.com/evil/image is blocked by "+blocked.Source) {
			t.Errorf("a blocked name: %v", err)
		}
		line := strings.Count(example[:strings.Index(example, `location = "bad.`)], "\n")
		if !strings.HasSuffix(blocked.Source, fmt.Sprintf("r.conf:%d", line)) {
			t.Errorf("source %s, want line %d", blocked.Source, line)
		}
	}
}

// Writing goes where the name says.
func TestDestination(t *testing.T) {
	c := load(t, example)
	for name, want := range map[string]string{
		"example.com/foo/image":     "example.com foo/image",
		"a.wild.example/x":          "a.wild.example x insecure",
		"docker.io/library/alpine":  "docker.io library/alpine",
		"a.more.wild.example:1/x/y": "a.more.wild.example:1 x/y",
		"127.0.0.1:5000":            "127.0.0.1:5000  insecure",
	} {
		e, err := c.Destination(name)
		if got := describe([]Endpoint{e}); err != nil || got != want {
			t.Errorf("Destination(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

// Nothing has to exist, and nothing means: as the name says.
func TestNothing(t *testing.T) {
	home := t.TempDir()
	c, err := Load(Paths{Dirs: []string{filepath.Join(home, "none")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{nil, {}, c} {
		list, err := c.Endpoints("example.com:5000/a/b", false)
		if want := []Endpoint{{Registry: "example.com:5000", Repository: "a/b"}}; err != nil || !cmp.Equal(list, want) {
			t.Errorf("Endpoints = %v, %v; want %v", list, err, want)
		}
	}
}

// Drop-in files come in order and replace rules as a whole; a user's file
// replaces the system's with its directory; a variable names another one.
func TestPaths(t *testing.T) {
	home := t.TempDir()
	vars := map[string]string{"HOME": home}
	getenv := func(name string) string { return vars[name] }
	system := DefaultPaths(func(string) string { return "" })
	user := filepath.Join(home, ".config/containers")
	want := Paths{File: system.File, Dirs: append(system.Dirs, user+"/registries.conf.d")}
	if diff := cmp.Diff(want, DefaultPaths(getenv)); diff != "" {
		t.Errorf("paths without a user's file: %s", diff)
	}
	vars["CONTAINERS_REGISTRIES_CONF"] = filepath.Join(home, "none.conf")
	want.File = vars["CONTAINERS_REGISTRIES_CONF"]
	if diff := cmp.Diff(want, DefaultPaths(getenv)); diff != "" {
		t.Errorf("paths with a variable: %s", diff)
	}
	if _, err := Load(DefaultPaths(getenv)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of a file that was named and is not there: %v", err)
	}
	delete(vars, "CONTAINERS_REGISTRIES_CONF")
	write(t, user,
		"registries.conf", "[[registry]]\nlocation = 'a'\n[[registry]]\nlocation = 'b'\ninsecure = true\n",
		"registries.conf.d/10.conf", "[[registry]]\nlocation = 'c'\nblocked = true\n[[registry]]\nprefix = 'b'\nlocation = 'd'\n",
		"registries.conf.d/20.conf", "[[registry]]\nlocation = 'c'\n",
		"registries.conf.d/30.txt", "nothing",
		"registries.conf.d/40.conf/x", "nothing",
	)
	want = Paths{File: user + "/registries.conf", Dirs: []string{user + "/registries.conf.d"}}
	if diff := cmp.Diff(want, DefaultPaths(getenv)); diff != "" {
		t.Errorf("paths with a user's file: %s", diff)
	}
	c, err := Load(want)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a/x": "a x", "b/x": "d x", "c/x": "c x"} {
		list, err := c.Endpoints(name, false)
		if got := describe(list); err != nil || got != want {
			t.Errorf("Endpoints(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

// Version 1 of the format still says what is insecure and blocked.
func TestVersion1(t *testing.T) {
	const old = "[registries.search]\nregistries = ['x.com']\n[registries.insecure]\nregistries = ['a.com', 'b.com']\n[registries.block]\nregistries = ['b.com']\n"
	c := load(t, old)
	if list, err := c.Endpoints("a.com/x", false); err != nil || !list[0].Insecure {
		t.Errorf("Endpoints = %v, %v", list, err)
	}
	if _, err := c.Endpoints("b.com/x", false); err == nil {
		t.Error("what is blocked is read")
	}
	if _, err := parse("d.conf", []byte(old), true); err == nil || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("as a drop-in: %v", err)
	}
}

// What is wrong with a file is told with its place.
func TestBroken(t *testing.T) {
	for content, want := range map[string]string{
		"[[registry]\n":                                                                           "f.conf:1:",
		"\n\n[[registry]]\nlocation = \"a\n":                                                      "f.conf:4:",
		"[[registry]]\ninsecure = \"yes\"\nlocation = 'a'\n":                                      "f.conf:2:",
		"x = 1\nregistry = 5\n":                                                                   "f.conf:2:",
		"\n[[registry]]\n":                                                                        "f.conf:2: [[registry]] has neither prefix nor location",
		"[[registry]]\nlocation='https://a'":                                                      "f.conf:1: location \"https://a\": https:// does not belong here",
		"[[registry]]\nlocation='a b'":                                                            "want host[:port][/path]",
		"[[registry]]\nlocation='a/B'":                                                            "want host[:port][/path]",
		"[[registry]]\nlocation='a/../b'":                                                         "want host[:port][/path]",
		"[[registry]]\nlocation='a/b:tag'":                                                        "a tag or digest is not supported",
		"[[registry]]\nprefix='a/b@sha256:1'\nlocation='b'":                                       "a tag or digest is not supported",
		"[[registry]]\nlocation='*.a'":                                                            "a wildcard can only be the beginning of a prefix",
		"[[registry]]\nprefix='*.a/b'\nlocation='b'":                                              "a wildcard can only be the beginning of a prefix",
		"[[registry]]\nprefix='*.a:5'\nlocation='b'":                                              "a wildcard can only be the beginning of a prefix",
		"[[registry]]\nprefix='a.*.b'\nlocation='b'":                                              "want host[:port][/path]",
		"[[registry]]\nlocation='a'\npull-from-mirror='all'":                                      "belongs into [[registry.mirror]]",
		"[[registry]]\nlocation='a'\n[[registry.mirror]]\n":                                       "location is missing",
		"[[registry]]\nlocation='a'\n[[registry.mirror]]\nlocation='http://b'":                    "f.conf:1: mirror \"http://b\": http:// does not belong here",
		"[[registry]]\nlocation='a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='never'": "want all, digest-only or tag-only",
		"[[registry]]\nlocation='a'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='all'": "cannot be combined",
		"[[registry]]\nlocation='a'\n[registries.block]\nregistries=['b']":                                                  "version 1",
	} {
		if _, err := parse("f.conf", []byte(content), false); err == nil || !strings.Contains(err.Error(), "f.conf") || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q): %v, want %q", content, err, want)
		}
	}
	dir := t.TempDir()
	write(t, dir, "big.conf", strings.Repeat("#", maxFile+1), "d/x.conf", "[")
	c := Lazy(Paths{File: dir})
	for range 2 {
		if _, err := c.Endpoints("a/x", false); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("Endpoints of a broken configuration: %v", err)
		}
	}
	for _, p := range []Paths{{File: dir}, {File: filepath.Join(dir, "big.conf")}, {Dirs: []string{filepath.Join(dir, "d")}}, {Dirs: []string{filepath.Join(dir, "big.conf")}}} {
		if _, err := Load(p); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("Load(%v): %v", p, err)
		}
	}
}

// Any bytes give rules or an error; what rules give is a place that can be
// asked for.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example), "example.com/foo/image")
	f.Add([]byte("[[registry]]\nprefix='*.a'\nlocation='b/c'\n[[registry.mirror]]\nlocation='d:1'"), "x.a:5/b")
	f.Add([]byte("[registries.block]\nregistries=['b']"), "b/x")
	f.Add([]byte("registry = [{location = 'a', mirror = [{location = 'b'}]}]"), "a/x")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		rules, err := parse("f", b, false)
		if err != nil {
			return
		}
		c := &Config{rules: rules}
		list, err := c.Endpoints(name, true)
		if err != nil {
			return
		}
		_, repo, _ := strings.Cut(name, "/")
		for _, e := range list {
			if e.Registry == "" || e.Repository == "" || strings.Contains(e.Registry, "/") {
				t.Errorf("Endpoints(%q) = %+v", name, e)
			}
			if rest, ok := strings.CutSuffix(e.Repository, repo); !e.Mirror && e.Source == "" && (!ok || rest != "") {
				t.Errorf("Endpoints(%q) = %+v without a rule", name, e)
			}
		}
	})
}
