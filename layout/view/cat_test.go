package view

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// A path leads where it would in a container, whatever layer has its parts.
func TestCat(t *testing.T) {
	img := newImage(t,
		[]header{
			dir("usr"), dir("usr/lib"), file("usr/lib/os-release", "base"), symlink("etc", "usr"), dir("opt"),
			symlink("lib", "usr/lib"), symlink("abs", "/usr/lib/os-release"), symlink("up", "../../../../usr/lib/os-release"),
			symlink("loop", "loop2"), symlink("loop2", "/loop"), file("below", "below"), hardlink("opt/hard", "below"),
			symlink("opt/here", "../lib/../x"), dir("gone"), file("gone/f", "1"), file("shadow", "1"), dir("opq"), file("opq/f", "1"), file("x", "root x"), dir("usr/lib/dir"), file("usr/x", "usr x"),
			symlink("dangling", "nowhere/os-release"),
		},
		[]header{file("etc/conf", "etc is a directory now"), hardlink("hard", "below"), file(".wh.gone", ""), dir("shadow"), file("opq/.wh..wh..opq", ""), file("opq/g", "2"), file("empty", "")},
		[]header{file("below", "replaced"), {name: "dev", typ: tar.TypeChar, major: 1, minor: 3}},
	)
	for _, tt := range []struct{ path, want, err string }{
		{path: "usr/lib/os-release", want: "base"},
		{path: "/usr/lib/os-release", want: "base"},
		{path: "../usr//lib/./os-release", want: "base"},
		{path: "lib/os-release", want: "base"},
		{path: "abs", want: "base"},
		{path: "up", want: "base"},
		{path: "etc/conf", want: "etc is a directory now"},
		{path: "etc/lib/os-release", err: `file does not exist; there is "/usr/lib/os-release"`},
		{path: "below", want: "replaced"},
		{path: "opt/hard", want: "below"},
		{path: "hard", want: "below"},
		{path: "opt/here", want: "usr x"}, // lib leads to usr/lib, whose parent is usr
		{path: "empty", want: ""},
		{path: "opq/g", want: "2"},
		{path: "opq/f", err: "file does not exist"},
		{path: "gone/f", err: "file does not exist"},
		{path: "shadow", err: "it is a directory"},
		{path: "x/y", err: "file does not exist"},
		{path: "loop", err: "more than 40 symbolic links"},
		{path: "dangling", err: "file does not exist"},
		{path: "usr/lib", err: `it is a directory; "bk image export" writes whole trees`},
		{path: "/", err: "it is a directory"},
		{path: "dev", err: "character device"},
		{path: "nothing", err: "file does not exist"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			var b bytes.Buffer
			err := img.Cat(t.Context(), tt.path, &b)
			switch {
			case tt.err == "" && (err != nil || b.String() != tt.want):
				t.Errorf("Cat = %q, %v, want %q", b.String(), err, tt.want)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("Cat: %v, want %q", err, tt.err)
			case strings.HasPrefix(tt.err, "file does not exist") && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("Cat: %v is no fs.ErrNotExist", err)
			}
		})
	}
}

// opened notes what is read.
type opened struct {
	transfer.Reader
	digests []digest.Digest
}

func (o *opened) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	o.digests = append(o.digests, desc.Digest)
	return o.Reader.Open(ctx, desc)
}

// Layers below the one that decides are not read, and a small file needs its
// layer once.
func TestCatReadsFromTheTop(t *testing.T) {
	d := newStore(t)
	big := strings.Repeat("0123456789abcdef", grabMax/16+1)
	desc := putImage(t, d, "{}", []header{file("a", "1"), file("low", "x")}, []header{dir("d"), file("d/.wh..wh..opq", "")}, []header{file("a", "2"), file("big", big)})
	for _, tt := range []struct {
		path string
		want []int // layers
	}{
		{"a", []int{2}}, {"big", []int{2, 2}}, {"d/x", []int{2, 1}}, {"low", []int{2, 1, 0}},
	} {
		src := &opened{Reader: transfer.Layout(d)}
		img, err := Open(t.Context(), src, desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		src.digests = nil
		_ = img.Cat(t.Context(), tt.path, io.Discard)
		var got []int
		for _, dg := range src.digests {
			got = append(got, slices.IndexFunc(img.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == dg }))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("Cat(%q) reads layers %v, want %v", tt.path, got, tt.want)
		}
	}
}

// A file comes from a layer that is what the image promises, or not at all.
func TestCatVerifies(t *testing.T) {
	d := newStore(t)
	good := putLayer(t, d, tarOf(t, []header{file("a", "good")}))
	other := putLayer(t, d, tarOf(t, []header{file("a", "evil")}))
	other.DiffID = good.DiffID
	desc, _, err := d.WriteImage(layout.ImageSpec{Config: []byte(`{"os":"linux","architecture":"amd64"}`), Layers: []layout.LayerBlob{other}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := open(t, d, desc).Cat(t.Context(), "a", &b); err == nil || b.Len() > 0 {
		t.Errorf("Cat = %q, %v, want an error and no bytes", b.String(), err)
	}
}
