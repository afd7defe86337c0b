package view

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/transfer"
)

// lines writes the files of a diff: "+ a", "~ a mode,size".
func (d *Diff) lines() []string {
	var list []string
	for _, f := range d.Files {
		s := map[string]string{"added": "+ ", "removed": "- ", "changed": "~ "}[f.Kind] + f.Path
		if f.Within {
			s += " (within)"
		}
		if len(f.What) > 0 {
			s += " " + strings.Join(f.What, ",")
		}
		list = append(list, s)
	}
	return list
}

// Every way in which files can differ is found, and nothing else.
func TestCompareFiles(t *testing.T) {
	base := []header{
		dir("d"), file("d/same", "1"), file("d/content", "12"), file("d/size", "1"), file("mode", "1"), {name: "owner", mode: 0o644, content: "1"}, symlink("link", "a"),
		file("type", "1"), {name: "dev", typ: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, {name: "xattr", mode: 0o644, xattr: "a"}, {name: "time", mode: 0o644, mtime: 5}, dir("gone"), file("gone/x", "1"), dir("gone/y"), file("f2d", "1"),
		dir("dirmode"),
	}
	d := newStore(t)
	a := open(t, d, putImage(t, d, "{}", base))
	b := open(t, d, putImage(t, d, "{}", base, []header{
		file("d/content", "21"), file("d/size", "123"), {name: "mode", content: "1", mode: 0o4755}, {name: "owner", mode: 0o644, content: "1", uid: 7}, symlink("link", "b"),
		symlink("type", "x"), {name: "dev", typ: tar.TypeChar, major: 1, minor: 5, mode: 0o666}, {name: "xattr", mode: 0o644, xattr: "b"}, {name: "time", mode: 0o644, mtime: 9}, file(".wh.gone", ""), file("new/z", "1"), file("d/same", "1"),
		file("f2d/in", "1"), {name: "dirmode", typ: tar.TypeDir, mode: 0o700},
	}))
	got, err := Compare(t.Context(), a, b, DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"~ d/content content", "~ d/size size,content", "~ dev device", "~ dirmode mode", "~ f2d type,mode", "+ f2d/in (within)", "- gone", "- gone/x (within)", "- gone/y (within)",
		"~ link target", "~ mode mode", "+ new", "+ new/z (within)", "~ owner owner", "~ type type,mode", "~ xattr xattrs",
	}
	if diff := cmp.Diff(got.lines(), want); diff != "" {
		t.Errorf("files (-got +want)\n%s", diff)
	}
	if want := (Summary{Added: 2, Removed: 2, Changed: 9 - 1, Bytes: 2 + 1 + 1 - 1 - 1 - 1}); got.Summary != want {
		t.Errorf("Summary = %+v, want %+v", got.Summary, want)
	}
	back, err := Compare(t.Context(), b, a, DiffOptions{Times: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(back.Files) != len(got.Files)+1 || !strings.Contains(strings.Join(back.lines(), "\n"), "~ time time") {
		t.Errorf("back, with times: %v", back.lines())
	}
	if back.Summary.Added != got.Summary.Removed || back.Summary.Bytes != -got.Summary.Bytes {
		t.Errorf("back: %+v, there: %+v", back.Summary, got.Summary)
	}
}

// Configurations are compared by what a container is started with, and fields
// that only some builders know as text.
func TestCompareConfig(t *testing.T) {
	d := newStore(t)
	one := []header{file("a", "1")}
	a := open(t, d, putImage(t, d, `{"Env":["A=1","B=2","E="],"Cmd":["a","b c"],"Labels":{"x":"1"},"ExposedPorts":{"80/tcp":{}},"User":"u","Healthcheck":{"Test":["NONE"]}}`, one))
	b := open(t, d, putImage(t, d, `{"Env":["B=3","A=1"],"Cmd":["a b","c"],"Labels":{"x":"1","y":"2"},"Volumes":{"/v":{}},"WorkingDir":"/w","Healthcheck":{"Test":["CMD","x"]},"Shell":["sh"]}`, one))
	got, err := Compare(t.Context(), a, b, DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got.Config {
		lines = append(lines, c.String())
	}
	want := []string{
		`- user: u`, `+ workdir: /w`, `~ cmd: ["a", "b c"] -> ["a b", "c"]`, `~ env B: 2 -> 3`, `- env E: ""`, `+ label y: 2`, `- port 80/tcp: yes`, `+ volume /v: yes`,
		`~ config.Healthcheck: {"Test":["NONE"]} -> {"Test":["CMD","x"]}`, `+ config.Shell: ["sh"]`,
	}
	if diff := cmp.Diff(lines, want); diff != "" {
		t.Errorf("config (-got +want)\n%s", diff)
	}
	if got.Same() || got.Layers.Common != 1 || len(got.Files) != 0 {
		t.Errorf("Compare = %+v", got)
	}
}

// No layer is read when both images have the same, and a shared one once.
func TestCompareReads(t *testing.T) {
	d := newStore(t)
	base, top := []header{file("a", "1")}, []header{file("b", "1")}
	src := &opened{Reader: transfer.Layout(d)}
	images := make([]*Image, 2)
	for i, desc := range []ocispec.Descriptor{putImage(t, d, "{}", base), putImage(t, d, "{}", base, top)} {
		var err error
		if images[i], err = Open(t.Context(), src, desc, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		a, b *Image
		want int
	}{{images[0], images[0], 0}, {images[0], images[1], 2}} {
		src.digests = nil
		if _, err := Compare(t.Context(), tt.a, tt.b, DiffOptions{}); err != nil {
			t.Fatal(err)
		}
		if len(src.digests) != tt.want {
			t.Errorf("%d layers are read, want %d", len(src.digests), tt.want)
		}
	}
}

// Opening refuses what has no files, and chooses the only image there is.
func TestOpen(t *testing.T) {
	d := newStore(t)
	desc := putImage(t, d, "{}", []header{file("a", "1")})
	desc.Platform = &ocispec.Platform{OS: "plan9", Architecture: "mips"}
	one, err := d.WriteIndex([]ocispec.Descriptor{desc}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if img := open(t, d, one); img.Descriptor.Digest != desc.Digest {
		t.Errorf("Open = %v, want the only image", img.Descriptor)
	}
	other := desc
	other.Platform = &ocispec.Platform{OS: "plan9", Architecture: "arm"}
	two, err := d.WriteIndex([]ocispec.Descriptor{desc, other}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), transfer.Layout(d), two, nil); err == nil || !strings.Contains(err.Error(), "plan9/arm, plan9/mips: choose one by its platform") {
		t.Errorf("Open of two for other platforms = %v", err)
	}
	config, err := d.PutBytes(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := d.PutBytes(ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"x/y","config":{"mediaType":%q,"digest":%q,"size":2},"layers":[]}`,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeEmptyJSON, config.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), transfer.Layout(d), artifact, nil); err == nil || !strings.Contains(err.Error(), "it is an artifact (x/y)") {
		t.Errorf("Open of an artifact = %v", err)
	}
}

// A damaged layer is an error of whatever looks into it.
func TestDamaged(t *testing.T) {
	d := newStore(t)
	img := open(t, d, putImage(t, d, "{}", []header{file("a", "1")}))
	img.Config.RootFS.DiffIDs[0] = digest.FromString("other")
	if _, err := img.Layers(t.Context()); err == nil || !strings.Contains(err.Error(), "diffID") {
		t.Errorf("Layers = %v", err)
	}
	if err := img.Cat(t.Context(), "a", io.Discard); err == nil {
		t.Error("Cat = nil")
	}
	for _, err := range img.Entries(t.Context()) {
		if err == nil {
			t.Error("Entries yields before it knows the layers")
		}
	}
}
