package artifact

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/transfer"
)

// tree is a file tree: contents by path; a path that ends with "/" is a
// directory, a content "-> X" a symbolic link to X.
type tree map[string]string

func (tr tree) write(t *testing.T, dir string) string {
	t.Helper()
	for name, content := range tr {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if link, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(link, p); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readTree is the tree in dir, without directories that have something in them.
func readTree(t *testing.T, dir string) tree {
	t.Helper()
	tr := tree{}
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		switch {
		case fi.IsDir():
			list, err := os.ReadDir(p)
			if err == nil && len(list) == 0 {
				tr[name+"/"] = ""
			}
			return err
		case fi.Mode()&os.ModeSymlink != 0:
			link, err := os.Readlink(p)
			tr[name] = "-> " + link
			return err
		}
		b, err := os.ReadFile(p)
		tr[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// parseFiles is ParseFile of several arguments, in a directory that becomes the
// current one.
func parseFiles(t *testing.T, dir string, args ...string) []File {
	t.Helper()
	t.Chdir(dir)
	var files []File
	for _, arg := range args {
		f, err := ParseFile(arg)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// push packs an artifact into m.
func push(t *testing.T, m *memory, spec Spec, names ...string) *Packed {
	t.Helper()
	tmp := t.TempDir()
	p, err := Pack(t.Context(), spec, tmp)
	if err != nil {
		t.Fatal(err)
	}
	if err := transfer.Copy(t.Context(), m, p, p.Desc, names, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if left := readTree(t, tmp); len(left) > 1 {
		t.Errorf("Close left %v", left)
	}
	return p
}

// What is pushed comes back: files and directories, by their titles, into a
// directory that has files of its own.
func TestPushPull(t *testing.T) {
	want := tree{
		"readme.md": "# hello", "empty": "", "conf/app.json": "{}", "conf/sub/deep/x": "x",
		"conf/link": "-> sub/deep", "conf/sub/up": "-> ../app.json", "conf/void/": "",
	}
	src := want.write(t, t.TempDir())
	m := newMemory()
	p := push(t, m, Spec{Files: parseFiles(t, src, "readme.md:text/markdown", "./empty", "conf/")}, "v1")

	out := tree{"readme.md": "old", "mine": "kept", "conf/app.json": "old", "conf/own": "kept"}.write(t, t.TempDir())
	res, err := Pull(t.Context(), m, p.Desc, out, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want["mine"], want["conf/own"] = "kept", "kept"
	if diff := cmp.Diff(want, readTree(t, out)); diff != "" {
		t.Errorf("pulled (-want +got):\n%s", diff)
	}
	var titles []string
	for _, f := range res.Files {
		titles = append(titles, f.Title)
	}
	if diff := cmp.Diff([]string{"readme.md", "empty", "conf"}, titles); diff != "" {
		t.Errorf("titles (-want +got):\n%s", diff)
	}
}

// The manifest is what image-spec's guidelines and oras's conventions say.
func TestManifest(t *testing.T) {
	src := tree{"a.txt": "a", "d/b": "b"}.write(t, t.TempDir())
	m := newMemory()
	files := parseFiles(t, src, "a.txt:text/plain", "d")
	files[0].Annotations = map[string]string{"k": "v"}
	p := push(t, m, Spec{Files: files, Annotations: map[string]string{"m": "1"}})
	b, err := json.MarshalIndent(p.Manifest, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", b)

	p = push(t, m, Spec{ArtifactType: "application/example", Subject: &p.Desc})
	if b, err = json.MarshalIndent(p.Manifest, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden(t, "referrer.json", b)
}

// golden compares with a file of testdata; UPDATE=1 rewrites it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join(testdata, name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// testdata is found before a test changes the directory.
var testdata, _ = filepath.Abs("testdata")

// Equal files give equal digests, whenever they were made and whoever owns them;
// with an epoch, that is the time of creation.
func TestReproducible(t *testing.T) {
	pack := func(mtime time.Time, epoch *time.Time) ocispec.Descriptor {
		dir := tree{"d/a": "a", "d/b/c": "c"}.write(t, t.TempDir())
		for _, name := range []string{"d/a", "d/b/c", "d/b", "d"} {
			if err := os.Chtimes(filepath.Join(dir, name), mtime, mtime); err != nil {
				t.Fatal(err)
			}
		}
		return push(t, newMemory(), Spec{Files: parseFiles(t, dir, "d"), Epoch: epoch}).Desc
	}
	a, b := pack(time.Unix(1e9, 0), nil), pack(time.Unix(2e9, 0), nil)
	if a.Digest != b.Digest {
		t.Errorf("digests %s and %s of equal directories", a.Digest, b.Digest)
	}
	epoch := time.Unix(1700000000, 0)
	c, d := pack(time.Unix(1e9, 0), &epoch), pack(time.Unix(2e9, 0), &epoch)
	if c.Digest != d.Digest || c.Digest == a.Digest {
		t.Errorf("digests %s and %s with an epoch, %s without", c.Digest, d.Digest, a.Digest)
	}
}

// A file that changes between being hashed and being sent is not sent.
func TestChanged(t *testing.T) {
	for _, content := range []string{"two", "longer than before", ""} {
		src := tree{"f": "one"}.write(t, t.TempDir())
		p, err := Pack(t.Context(), Spec{Files: parseFiles(t, src, "f")}, "")
		if err != nil {
			t.Fatal(err)
		}
		tree{"f": content}.write(t, src)
		err = transfer.Copy(t.Context(), newMemory(), p, p.Desc, []string{"v1"}, transfer.Options{})
		if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
			t.Errorf("copy of a file that became %q: %v", content, err)
		}
	}
}

// What could not be pulled is not pushed.
func TestPackRefuses(t *testing.T) {
	src := tree{"f": "1", "abs/l": "-> /etc/passwd", "up/l": "-> ../f", "twisted/l": "-> a/../../f", "wh/.wh.x": "", "ok/l": "-> sub/x", "ok/sub/l": "-> ../y"}.write(t, t.TempDir())
	file := func(args ...string) Spec { return Spec{Files: parseFiles(t, src, args...)} }
	tests := []struct {
		name string
		spec Spec
		want string // of the error; empty: none
	}{
		{"fine links", file("ok"), ""},
		{"absolute link", file("abs"), "absolute"},
		{"link out of the directory", file("up"), "leads out"},
		{"link that may lead out", file("twisted"), "within its target"},
		{"whiteout", file("wh"), "removed file"},
		{"twice", file("f", "./f"), `two files have the title "f"`},
		{"missing", file("missing"), "no such file"},
		{"device", Spec{Files: []File{{Path: os.DevNull}}}, "neither a file nor a directory"},
		{"title", Spec{Files: []File{{Path: "f", Title: "../f"}}}, "leaves the directory"},
		{"media type", Spec{Files: []File{{Path: "f", MediaType: "text"}}}, "no media type"},
		{"artifact type", Spec{ArtifactType: "x"}, "artifact type"},
		{"config without a type", Spec{Config: []byte("{}")}, "no media type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Pack(t.Context(), tt.spec, t.TempDir())
			if err == nil {
				p.Close()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Pack = %v, want %q", err, tt.want)
			}
		})
	}
}

// The last colon begins a media type only when it looks like one.
func TestParseFile(t *testing.T) {
	tests := []struct{ arg, path, mediaType, title, err string }{
		{arg: "a.txt", path: "a.txt", title: "a.txt"},
		{arg: "a.txt:text/plain", path: "a.txt", mediaType: "text/plain", title: "a.txt"},
		{arg: "./d//x/:application/vnd.x.v1+json", path: "./d//x/", mediaType: "application/vnd.x.v1+json", title: "d/x"},
		{arg: "a:b", path: "a:b", title: "a:b"},
		{arg: "a:b:text/plain", path: "a:b", mediaType: "text/plain", title: "a:b"},
		{arg: "a:b/c/d", path: "a:b/c/d", title: "a:b/c/d"},
		{arg: ".", path: ".", title: "."},
		{arg: "", err: "names no file"},
		{arg: ":text/plain", err: "names no file"},
		{arg: "/etc/passwd", err: "absolute"},
		{arg: "../x", err: "leaves the directory"},
		{arg: "a/../../x", err: "leaves the directory"},
		{arg: "a\nb", err: "control characters"},
	}
	for _, tt := range tests {
		f, err := ParseFile(tt.arg)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ParseFile(%q) = %v, want %q", tt.arg, err, tt.err)
			}
			continue
		}
		want := File{Path: tt.path, MediaType: tt.mediaType, Title: tt.title}
		if diff := cmp.Diff(want, f); diff != "" || err != nil {
			t.Errorf("ParseFile(%q) (-want +got): %v\n%s", tt.arg, err, diff)
		}
	}
}

// Whatever the argument is, what it parses to can be packed into a manifest and
// pulled below a directory.
func FuzzParseFile(f *testing.F) {
	for _, s := range []string{"a", "a:b/c", "../x:y/z", "/a", "a//b:", ":", "C:\\x:a/b", "a/./b:application/x+json"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		file, err := ParseFile(arg)
		if err != nil {
			return
		}
		if !filepath.IsLocal(file.Title) || checkTitle(file.Title) != nil || checkMediaType("", file.MediaType) != nil {
			t.Errorf("ParseFile(%q) = %+v", arg, file)
		}
		if got := file.Path + ":" + file.MediaType; got != arg && file.Path != arg {
			t.Errorf("ParseFile(%q) loses bytes: %+v", arg, file)
		}
	})
}
