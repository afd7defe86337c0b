package place

import (
	"strings"
	"testing"
)

// A text names one place, and what is no place says what to write instead.
func TestParse(t *testing.T) {
	for text, want := range map[string]Place{
		"app":                        {Bare, "app"},
		"localhost:5000/app:v1":      {Bare, "localhost:5000/app:v1"},
		"docker://app@sha256:00":     {Registry, "app@sha256:00"},
		"oci://ghcr.io/charts/x":     {Registry, "ghcr.io/charts/x"},
		"oci:out:v1":                 {Layout, "out:v1"},
		"oci-archive:a.tar":          {OCIArchive, "a.tar"},
		"docker-archive:a.tar:app:1": {DockerArchive, "a.tar:app:1"},
		"docker-daemon:app":          {DockerDaemon, "app"},
		"containerd:docker.io/x/y:1": {Containerd, "docker.io/x/y:1"},
		"dir:x":                      {Dir, "x"},
		"store:app":                  {Store, "app"},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %v, %v; want %v", text, got, err, want)
		}
		if p := got.String(); p != text && !strings.HasPrefix(text, "oci://") {
			t.Errorf("String() of %q is %q", text, p)
		}
	}
	for text, want := range map[string]string{
		"":          "empty",
		"oci:":      "oci:DIR[:REF]",
		"./out":     "oci:./out",
		"/abs":      "looks like a path",
		"ftp://x":   "ftp:// is no kind of place",
		"a\x00b":    "control character",
		"docker://": "want docker://",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want %q", text, err, want)
		}
	}
}

// A path may contain colons: what exists decides where it ends.
func TestCutPath(t *testing.T) {
	exists := func(p string) bool { return p == "a:b" || p == "c" }
	for rest, want := range map[string][2]string{
		"a:b": {"a:b", ""}, "a:b:v1": {"a:b", "v1"}, "c:localhost:5000/x:v1": {"c", "localhost:5000/x:v1"},
		"new": {"new", ""}, "new:v1": {"new", "v1"}, "new:host:5000/x": {"new", "host:5000/x"}, ":x": {":x", ""},
	} {
		if path, ref := cutPath(rest, exists); path != want[0] || ref != want[1] {
			t.Errorf("cutPath(%q) = %q, %q; want %q", rest, path, ref, want)
		}
	}
}

// No text makes the parser stumble, and what it accepts it spells the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"app", "docker://x", "oci:a:b", ":", "store:", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if err != nil || again != p {
			t.Errorf("Parse(%q) = %v; again %v, %v", text, p, again, err)
		}
	})
}
