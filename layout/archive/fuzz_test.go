package archive

import (
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// No bytes make the table panic or give it a name that leads elsewhere or a
// place outside of the file; and what is in it is what a reader of the stream
// sees.
func FuzzTable(f *testing.F) {
	f.Add(makeTar(f, member{name: "a/"}, member{name: "./a/b", content: "x"}, member{name: "a/c", link: "../d"}))
	f.Add(makeTar(f, member{name: strings.Repeat("long/", 50) + "ä", content: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := readTable(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for name, e := range tab {
			if name != path.Clean(name) || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || !plain(name) {
				t.Errorf("name %q", name)
			}
			if strings.HasPrefix(e.link, "../") || path.IsAbs(e.link) {
				t.Errorf("link %q -> %q", name, e.link)
			}
			if e, err := tab.follow(name); err == nil && (e.off < 0 || e.size < 0 || e.off+e.size > int64(len(b))) {
				t.Errorf("%q is at %d, %d bytes, of %d", name, e.off, e.size, len(b))
			}
		}
	})
}

// What is accepted as manifest.json has images whose names are safe to print and
// whose files can be looked up.
func FuzzDockerManifest(f *testing.F) {
	f.Add([]byte(`[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["l/layer.tar"]}]`))
	f.Add([]byte(`[{"Config":"c","RepoTags":null,"Layers":null,"Parent":"x"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		images, err := parseDockerManifest(b)
		if err != nil {
			return
		}
		for _, img := range images {
			for _, tag := range img.RepoTags {
				if !plain(tag) || layout.NormalizeName(tag) == "" {
					t.Errorf("RepoTag %q", tag)
				}
			}
			if _, err := (table{}).follow(img.Config); err == nil {
				t.Errorf("%q is in an empty archive", img.Config)
			}
		}
	})
}

// Whatever an archive is, it opens or not, and every blob that it offers is
// verified.
func FuzzArchive(f *testing.F) {
	one := tarOf(f, "a", "one")
	f.Add([]byte(dockerConfig(one)), []byte(`[{"Config":"c","Layers":["l"]}]`), []byte(one))
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`), []byte(`{"schemaVersion":2,"manifests":[]}`), []byte("x"))
	f.Fuzz(func(t *testing.T, config, list, content []byte) {
		for _, b := range [][]byte{
			makeTar(t, member{name: "c", content: string(config)}, member{name: dockerManifestFile, content: string(list)}, member{name: "l", content: string(content)}),
			makeTar(t, member{name: "oci-layout", content: string(config)}, member{name: "index.json", content: string(list)}, member{name: "blobs/sha256/" + strings.Repeat("a", 64), content: string(content)}),
		} {
			a, err := Open(t.Context(), writeFile(t, b))
			if err != nil {
				continue
			}
			for _, desc := range a.index {
				checkArchive(t, a, desc)
			}
			a.Close()
		}
	})
}

// checkArchive reads all of an image.
func checkArchive(t *testing.T, a *Archive, desc ocispec.Descriptor) {
	blobs, err := layout.Closure(desc, transfer.Fetch(context.Background(), a))
	if err != nil {
		return
	}
	for _, blob := range blobs {
		r, err := a.Open(t.Context(), blob)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err == nil && blob.Digest.Algorithm().FromBytes(b) != blob.Digest {
			t.Errorf("blob %s is not verified", blob.Digest)
		}
	}
}
