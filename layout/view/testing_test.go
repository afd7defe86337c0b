package view

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
)

// header is a header of a layer under test, with content.
type header struct {
	name, link, content string
	typ                 byte
	mode                int64
	uid                 int
	xattr               string // user.x
	major, minor        int64
	mtime               int64
}

func dir(name string) header           { return header{name: name, typ: tar.TypeDir, mode: 0o755} }
func file(name, content string) header { return header{name: name, content: content, mode: 0o644} }
func symlink(name, to string) header {
	return header{name: name, link: to, typ: tar.TypeSymlink, mode: 0o777}
}
func hardlink(name, to string) header {
	return header{name: name, link: to, typ: tar.TypeLink, mode: 0o644}
}

// tarOf writes headers in their order.
func tarOf(t testing.TB, headers []header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		typ := h.typ
		if typ == 0 {
			typ = tar.TypeReg
		}
		hdr := &tar.Header{
			Typeflag: typ, Name: h.name, Linkname: h.link, Mode: h.mode, Uid: h.uid, Size: int64(len(h.content)),
			Devmajor: h.major, Devminor: h.minor, ModTime: time.Unix(h.mtime, 0), Format: tar.FormatPAX,
		}
		if h.xattr != "" {
			hdr.PAXRecords = map[string]string{"SCHILY.xattr.user.x": h.xattr}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, h.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newStore returns an empty layout.
func newStore(t testing.TB) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// putLayer stores a gzip layer.
func putLayer(t testing.TB, d *layout.Dir, plain []byte) layout.LayerBlob {
	t.Helper()
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return layout.LayerBlob{Descriptor: desc, DiffID: digest.FromBytes(plain)}
}

// putImage stores an image for linux/amd64. config is JSON of the config's
// config.
func putImage(t testing.TB, d *layout.Dir, config string, layers ...[]header) ocispec.Descriptor {
	t.Helper()
	spec := layout.ImageSpec{Config: json.RawMessage(`{"os":"linux","architecture":"amd64","config":` + config + `}`)}
	for i, headers := range layers {
		l := putLayer(t, d, tarOf(t, headers))
		l.CreatedBy = fmt.Sprintf("step %d", i+1)
		spec.Layers = append(spec.Layers, l)
	}
	desc, _, err := d.WriteImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// newImage is an image of hand-made layers, from the bottom up.
func newImage(t testing.TB, layers ...[]header) *Image {
	t.Helper()
	d := newStore(t)
	return open(t, d, putImage(t, d, "{}", layers...))
}

func open(t testing.TB, d *layout.Dir, desc ocispec.Descriptor) *Image {
	t.Helper()
	img, err := Open(t.Context(), transfer.Layout(d), desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// describe lists the entries of an image: "etc/ 755", "etc/a 644 content",
// "l -> a", "h = a".
func describe(t testing.TB, img *Image) []string {
	t.Helper()
	var list []string
	for e, err := range img.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, describeEntry(t, e))
	}
	return list
}

func describeEntry(t testing.TB, e *layer.Entry) string {
	t.Helper()
	s := fmt.Sprintf("%s %o", e.Path, e.Mode)
	switch e.Type {
	case layer.Directory:
		s = fmt.Sprintf("%s/ %o", e.Path, e.Mode)
	case layer.Symlink:
		s = e.Path + " -> " + e.Link
	case layer.Hardlink:
		s = e.Path + " = " + e.Link
	case layer.Char, layer.Block:
		s += fmt.Sprintf(" %c%d:%d", e.Type, e.DevMajor, e.DevMinor)
	case layer.Fifo:
		s += " fifo"
	}
	if e.UID != 0 {
		s += fmt.Sprintf(" uid=%d", e.UID)
	}
	if len(e.Xattrs) > 0 {
		s += fmt.Sprint(" ", e.Xattrs)
	}
	if e.Content != nil {
		r, err := e.Content.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		s += " " + strings.TrimSpace(string(b))
	}
	return s
}
