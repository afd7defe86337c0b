package dockerfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout"
)

// Options become the gateway protocol's values, spelled as docker buildx
// spells them.
func TestPrepare(t *testing.T) {
	const caps = "frontend.caps"
	for _, tt := range []struct {
		name string
		o    Options
		want map[string]string
	}{
		{"zero", Options{}, map[string]string{}},
		{"stages", Options{Target: "t", Platforms: []string{"linux/amd64", "linux/arm64,linux/aarch64"}},
			map[string]string{"target": "t", "platform": "linux/amd64,linux/arm64"}},
		{"values", Options{BuildArgs: map[string]string{"A": "1", "B": ""}, Labels: map[string]string{"l": "x=y"}},
			map[string]string{"build-arg:A": "1", "build-arg:B": "", "label:l": "x=y"}},
		{"no-cache", Options{NoCache: true, NoCacheFilter: []string{"a"}}, map[string]string{"no-cache": ""}},
		{"no-cache-filter", Options{NoCacheFilter: []string{"a", "b"}}, map[string]string{"no-cache": "a,b"}},
		{"pull", Options{Pull: true}, map[string]string{"image-resolve-mode": "pull"}},
		{"network", Options{Network: "none"}, map[string]string{"force-network-mode": "none"}},
		{"network default", Options{Network: "default"}, map[string]string{}},
		{"hosts", Options{AddHosts: []string{"a:1.2.3.4", "b=[::1]", "c:::2", "d:host-gateway"}},
			map[string]string{"add-hosts": "a=1.2.3.4,b=::1,c=::2,d=169.254.1.2"}},
		{"limits", Options{ShmSize: 1 << 20, Ulimits: []string{"nofile=1:2", "core=0"}, CgroupParent: "/x"},
			map[string]string{"shm-size": "1048576", "ulimit": "nofile=1:2,core=0", "cgroup-parent": "/x"}},
		{"call", Options{Call: Call{Name: "lint"}},
			map[string]string{"requestid": "frontend.lint", caps: "moby.buildkit.frontend.subrequests+forward"}},
		{"image context", Options{BuildContexts: map[string]string{"alpine:latest": "docker-image://busybox", "Base": "docker-image://b"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Context = writeFiles(t, map[string]string{"Dockerfile": "FROM scratch"})
			request, err := tt.o.Prepare()
			if tt.want == nil { // a context's name is a reference: no upper case
				if err == nil || !strings.Contains(err.Error(), `"Base"`) {
					t.Errorf("error %v, want one that names Base", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want["filename"] = "Dockerfile"
			if diff := cmp.Diff(tt.want, request.FrontendOpt); diff != "" {
				t.Errorf("FrontendOpt (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"context": tt.o.Context, "dockerfile": tt.o.Context}, request.Locals); diff != "" {
				t.Errorf("Locals (-want +got):\n%s", diff)
			}
		})
	}
}

// A mistake is told before anything is built, with the value that is wrong.
func TestPrepareErrors(t *testing.T) {
	dir := writeFiles(t, map[string]string{"Dockerfile": "FROM scratch", "sub/x": "", "file": ""})
	for _, tt := range []struct {
		name    string
		o       Options
		want    string
		missing bool // fs.ErrNotExist
	}{
		{"no context", Options{Context: filepath.Join(dir, "none")}, "no such directory", true},
		{"context is a file", Options{Context: filepath.Join(dir, "file")}, "not a directory", false},
		{"git context", Options{Context: "https://example.com/a.git"}, "only a directory", false},
		{"tar context", Options{Context: "-"}, "only a directory", false},
		{"no default Dockerfile", Options{Context: filepath.Join(dir, "sub")}, "no Dockerfile in", true},
		{"no Dockerfile", Options{Context: dir, File: filepath.Join(dir, "x")}, "no such file", true},
		{"Dockerfile is a directory", Options{Context: dir, File: filepath.Join(dir, "sub")}, "is a directory", false},
		{"platform", Options{Context: dir, Platforms: []string{"a/b/c/d/e"}}, `platform "a/b/c/d/e"`, false},
		{"host", Options{Context: dir, AddHosts: []string{"a"}}, `add-host "a"`, false},
		{"host ip", Options{Context: dir, AddHosts: []string{"a:b"}}, `add-host "a:b"`, false},
		{"host injection", Options{Context: dir, AddHosts: []string{"a,b=1.1.1.1"}}, "add-host", false},
		{"network", Options{Context: dir, Network: "bridge"}, `network "bridge"`, false},
		{"shm", Options{Context: dir, ShmSize: -1}, "shm-size", false},
		{"context dir", Options{Context: dir, BuildContexts: map[string]string{"a": filepath.Join(dir, "none")}}, "build-context a", true},
		{"context url", Options{Context: dir, BuildContexts: map[string]string{"a": "git://x"}}, "can be named contexts", false},
		{"context layout", Options{Context: dir, BuildContexts: map[string]string{"a": "oci-layout://" + dir}}, "build-context a", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.o.Prepare()
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, fs.ErrNotExist) != tt.missing {
				t.Errorf("error %v, want %q, fs.ErrNotExist %v", err, tt.want, tt.missing)
			}
		})
	}
}

// The Dockerfile may be in the context in lower case, elsewhere, given as text,
// or come from a pipe; the frontend is told its directory and name.
func TestDockerfilePlaces(t *testing.T) {
	dir := writeFiles(t, map[string]string{"c/dockerfile": "FROM scratch", "d/My.Dockerfile": "FROM scratch"})
	main := filepath.Join(dir, "c")
	for _, tt := range []struct {
		name, file, base, dir string
	}{
		{"lower case", "", "Dockerfile", main},
		{"elsewhere", filepath.Join(dir, "d", "My.Dockerfile"), "My.Dockerfile", filepath.Join(dir, "d")},
	} {
		request, err := Options{Context: main, File: tt.file}.Prepare()
		if err != nil {
			t.Fatal(tt.name, err)
		}
		if got := request.FrontendOpt["filename"]; got != tt.base || request.Locals["dockerfile"] != tt.dir {
			t.Errorf("%s: file %s in %s, want %s in %s", tt.name, got, request.Locals["dockerfile"], tt.base, tt.dir)
		}
	}
	request, err := Options{Context: main, Text: []byte("FROM a\n")}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	temp := request.Locals["dockerfile"]
	text, err := os.ReadFile(filepath.Join(temp, request.FrontendOpt["filename"]))
	if err != nil || string(text) != "FROM a\n" {
		t.Errorf("text: %q, %v", text, err)
	}
	if err := request.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(temp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", temp, err)
	}
}

// An ignore file that belongs to one Dockerfile goes before the context's, and
// is found where that Dockerfile is.
func TestIgnoreFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"c/.dockerignore":             "a",
		"d/X.Dockerfile":              "FROM scratch\nCOPY a b /\n",
		"d/X.Dockerfile.dockerignore": "b",
		"d/Y.Dockerfile":              "FROM scratch\nCOPY a b /\n",
	})
	for file, ignored := range map[string]string{"X.Dockerfile": `"b"`, "Y.Dockerfile": `"a"`} {
		_, client, err := runFrontend(t, Options{Context: filepath.Join(dir, "c"), File: filepath.Join(dir, "d", file)})
		if err != nil {
			t.Fatal(err)
		}
		// the linter knows what the ignore file excludes
		if all := strings.Join(client.warnings, "\n"); !strings.Contains(all, "CopyIgnoredFile: Attempting to Copy file "+ignored) {
			t.Errorf("%s: warnings %q, want one about %s", file, client.warnings, ignored)
		}
	}
}

// Named contexts: directories get a local source of their own, also when they
// are called like the main ones; images of a layout are pinned by digest.
func TestNamedContexts(t *testing.T) {
	dir := writeFiles(t, map[string]string{"Dockerfile": "FROM scratch", "x/f": ""})
	store, err := layout.Create(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.PutBytes("application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SetRef("v1", desc); err != nil {
		t.Fatal(err)
	}
	x, oci := filepath.Join(dir, "x"), "oci-layout://"+filepath.Join(dir, "oci")
	request, err := Options{Context: dir, BuildContexts: map[string]string{
		"src": x, "context": x, "img": "docker-image://busybox", "alpine:latest": "docker-image://a", "t": "target:base",
		"byonly": oci, "bytag": oci + ":v1", "bydigest": oci + "@" + desc.Digest.String(),
	}}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	pinned := "@" + desc.Digest.String()
	want := map[string]string{
		"filename": "Dockerfile", "frontend.caps": "moby.buildkit.frontend.contexts+forward",
		"context:src": "local:src", "context:context": "local:_context", "context:img": "docker-image://busybox",
		"context:alpine": "docker-image://a", "context:t": "target:base",
		"context:bydigest": "oci-layout://layout0" + pinned,
		"context:byonly":   "oci-layout://layout1" + pinned,
		"context:bytag":    "oci-layout://layout2" + pinned,
	}
	if diff := cmp.Diff(want, request.FrontendOpt); diff != "" {
		t.Errorf("FrontendOpt (-want +got):\n%s", diff)
	}
	locals := map[string]string{"context": dir, "dockerfile": dir, "src": x, "_context": x}
	if diff := cmp.Diff(locals, request.Locals); diff != "" {
		t.Errorf("Locals (-want +got):\n%s", diff)
	}
	if got := request.Layouts["layout2"]; got != filepath.Join(dir, "oci") {
		t.Errorf("layout2 is %s", got)
	}
}

// A Dockerfile from a stream is bounded, and an empty one is not "none".
func TestReadText(t *testing.T) {
	if _, err := ReadText(&zeros{n: maxDockerfile + 1}); err == nil {
		t.Error("a stream without end is read")
	}
	text, err := ReadText(strings.NewReader(""))
	if err != nil || text == nil {
		t.Errorf("empty: %v, %v", text, err)
	}
}

// zeros is a stream of n bytes.
type zeros struct{ n int }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), z.n)
	z.n -= n
	if n == 0 {
		return 0, errors.New("read past the bound")
	}
	return n, nil
}

// Values of --call are checked when they are parsed.
func TestParseCall(t *testing.T) {
	for value, want := range map[string]Call{
		"": {}, "build": {}, "check": {Name: "lint"}, "lint": {Name: "lint"},
		"check,format=json":              {Name: "lint", JSON: true},
		"check,ignorestatus,format=text": {Name: "lint", IgnoreStatus: true},
		"targets,ignorestatus=false":     {Name: "targets"},
		"subrequests.describe":           {Name: "subrequests.describe"},
	} {
		got, err := ParseCall(value)
		if err != nil || got != want {
			t.Errorf("ParseCall(%q) = %+v, %v, want %+v", value, got, err, want)
		}
	}
	for _, value := range []string{"x", "check,format=xml", "check,a", "check,ignorestatus=2", "check,,"} {
		if got, err := ParseCall(value); err == nil {
			t.Errorf("ParseCall(%q) = %+v, want an error", value, got)
		}
	}
}

// FuzzSplitTag: what is cut off is a tag, and nothing is lost.
func FuzzSplitTag(f *testing.F) {
	for _, s := range []string{"d", "d:t", "/a/b:c", "/a:b/c", ":x", "C:\\x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dir, tag := splitTag(s)
		if strings.ContainsAny(tag, `/\`) || tag == "" && dir != strings.TrimSuffix(s, ":") && dir != s || tag != "" && dir+":"+tag != s {
			t.Errorf("splitTag(%q) = %q, %q", s, dir, tag)
		}
	})
}
