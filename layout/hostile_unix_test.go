//go:build unix

package layout_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/archive"
	"bk.build/bk/layout/transfer"
)

// hostile is a layout that a test spoils: files by name, as nothing but an
// attacker would write them.
type hostile struct {
	t    *testing.T
	path string
}

func newHostile(t *testing.T) hostile {
	h := hostile{t, filepath.Join(t.TempDir(), "hostile")}
	if _, err := layout.Create(h.path); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h hostile) file(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.path, name)
	os.Remove(path)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// blob stores content under its digest and returns its descriptor as JSON.
func (h hostile) blob(mediaType, content string) string {
	dg := digest.FromString(content)
	h.file("blobs/sha256/"+dg.Encoded(), content)
	return descriptor(mediaType, dg, int64(len(content)))
}

// index writes index.json with these entries.
func (h hostile) index(entries ...string) {
	h.file("index.json", `{"schemaVersion":2,"manifests":[`+strings.Join(entries, ",")+`]}`)
}

// image stores a manifest and enters it.
func (h hostile) image(config string, layers ...string) {
	h.index(h.blob(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"config":`+config+`,"layers":[`+strings.Join(layers, ",")+`]}`))
}

func (h hostile) config() string {
	return h.blob(ocispec.MediaTypeImageConfig, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`)
}

func descriptor(mediaType string, dg digest.Digest, size int64) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, dg, size)
}

// copyAll resolves the only image of a layout, and copies it to a layout and to
// an archive.
func copyAll(t *testing.T, path, dst string) error {
	d, err := layout.Open(path)
	if err != nil {
		return err
	}
	src := transfer.Layout(d)
	desc, err := src.Resolve(t.Context(), "")
	if err != nil {
		return err
	}
	out, err := layout.Create(dst)
	if err != nil {
		return err
	}
	err = transfer.Copy(t.Context(), transfer.Layout(out), src, desc, []string{"v1"}, transfer.Options{Referrers: true})
	if named, rerr := out.Resolve("v1"); err != nil && rerr == nil {
		t.Errorf("the copy failed, and has a name: %v", named)
	}
	if werr := archive.WriteOCI(t.Context(), io.Discard, src, desc, nil); (werr == nil) != (err == nil) {
		t.Errorf("copied to a layout: %v; to an archive: %v", err, werr)
	}
	return err
}

// A layout that leads out of itself, or is not what it says, is refused with a
// clear error; what was there around it and its copy stays as it was.
func TestHostileLayouts(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	secretLayer := descriptor(ocispec.MediaTypeImageLayer, digest.FromString("secret"), 6)
	for _, tt := range []struct {
		what string
		make func(t *testing.T, h hostile)
		want string
	}{
		{"a blob that is a link", func(t *testing.T, h hostile) {
			os.Symlink(secret, filepath.Join(h.path, "blobs/sha256", digest.FromString("secret").Encoded()))
			h.image(h.config(), secretLayer)
		}, "not a regular file"},
		{"a blob that is a FIFO", func(t *testing.T, h hostile) {
			if err := syscall.Mkfifo(filepath.Join(h.path, "blobs/sha256", digest.FromString("secret").Encoded()), 0o600); err != nil {
				t.Skip(err)
			}
			h.image(h.config(), secretLayer)
		}, "not a regular file"},
		{"index.json is a link", func(t *testing.T, h hostile) {
			h.image(h.config())
			os.Rename(filepath.Join(h.path, "index.json"), filepath.Join(h.path, "elsewhere"))
			os.Symlink("elsewhere", filepath.Join(h.path, "index.json"))
		}, "not a regular file"},
		{"index.json is a FIFO", func(t *testing.T, h hostile) {
			os.Remove(filepath.Join(h.path, "index.json"))
			if err := syscall.Mkfifo(filepath.Join(h.path, "index.json"), 0o600); err != nil {
				t.Skip(err)
			}
		}, "not a regular file"},
		{"blobs are elsewhere", func(t *testing.T, h hostile) {
			h.image(h.config())
			os.Rename(filepath.Join(h.path, "blobs"), filepath.Join(h.path, "elsewhere"))
			os.Symlink("elsewhere", filepath.Join(h.path, "blobs"))
		}, "not a directory"},
		{"../ in the digest of an entry", func(t *testing.T, h hostile) {
			h.index(descriptor(ocispec.MediaTypeImageManifest, "sha256:../../../"+digest.Digest(strings.Repeat("a", 55)), 6))
		}, "invalid checksum digest"},
		{"../ in the digest of a layer", func(t *testing.T, h hostile) {
			h.image(h.config(), descriptor(ocispec.MediaTypeImageLayer, "sha256:../../../secret", 6))
		}, "invalid checksum digest"},
		{"../ as the algorithm", func(t *testing.T, h hostile) {
			h.image(h.config(), descriptor(ocispec.MediaTypeImageLayer, "../..:"+digest.Digest(strings.Repeat("a", 64)), 6))
		}, "digest"},
		{"a field twice", func(t *testing.T, h hostile) {
			c := h.config()
			h.index(h.blob(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"config":`+c+`,"layers":[],"layers":[`+secretLayer+`]}`))
		}, "there twice"},
		{"a manifest that is an index too", func(t *testing.T, h hostile) {
			h.index(h.blob(ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"config":`+h.config()+`,"layers":[],"manifests":[]}`))
		}, "ambiguous document"},
		{"a manifest as a layer and as itself", func(t *testing.T, h hostile) {
			m := `{"schemaVersion":2,"config":` + h.config() + `,"layers":[]}`
			manifest := h.blob(ocispec.MediaTypeImageManifest, m)
			h.index(h.blob(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[`+manifest+`,`+strings.Replace(manifest, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, 1)+`]}`))
		}, "ambiguous document"},
		{"two sizes of one blob", func(t *testing.T, h hostile) {
			c := h.config()
			l := h.blob(ocispec.MediaTypeImageLayer, "layer")
			h.image(c, l, strings.Replace(l, `"size":5`, `"size":6`, 1))
		}, ""},
		{"other bytes", func(t *testing.T, h hostile) {
			h.image(h.config(), secretLayer)
			h.file("blobs/sha256/"+digest.FromString("secret").Encoded(), "public")
		}, "is corrupt"},
		{"more bytes", func(t *testing.T, h hostile) {
			h.image(h.config(), secretLayer)
			h.file("blobs/sha256/"+digest.FromString("secret").Encoded(), "secret and more")
		}, "is corrupt: it has 15 bytes, want 6"},
		{"a terabyte of manifest", func(t *testing.T, h hostile) {
			dg := digest.FromString("terabyte")
			if err := os.Truncate(h.file("blobs/sha256/"+dg.Encoded(), ""), 1<<40); err != nil {
				t.Skip(err)
			}
			h.index(descriptor(ocispec.MediaTypeImageManifest, dg, 1<<40))
		}, "at most 8388608 are read"},
		{"a hole as a layer", func(t *testing.T, h hostile) {
			dg := digest.FromString("terabyte")
			if err := os.Truncate(h.file("blobs/sha256/"+dg.Encoded(), ""), 1<<40); err != nil {
				t.Skip(err)
			}
			h.image(h.config(), descriptor(ocispec.MediaTypeImageLayer, dg, 1<<20))
		}, "has 1099511627776 bytes, want 1048576"},
		{"a negative size", func(t *testing.T, h hostile) {
			h.image(h.config(), descriptor(ocispec.MediaTypeImageLayer, digest.FromString("secret"), -6))
		}, "size -6"},
		{"deep JSON", func(t *testing.T, h hostile) {
			h.index(h.blob(ocispec.MediaTypeImageManifest, strings.Repeat(`{"a":`, 1<<20)))
		}, "nested deeper"},
		{"deep indexes", func(t *testing.T, h hostile) {
			desc := h.blob(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[]}`)
			for range 30 {
				desc = h.blob(ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[`+desc+`]}`)
			}
			h.index(desc)
		}, "indexes within each other"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			h := newHostile(t)
			tt.make(t, h)
			around := t.TempDir()
			err := copyAll(t, h.path, filepath.Join(around, "copy"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000 {
				t.Errorf("%.2000v, want %q", err, tt.want)
			}
			if got := names(t, around); len(got) > 0 && !slices.Equal(got, []string{"copy"}) {
				t.Errorf("beside the copy: %v", got)
			}
			if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
				t.Errorf("the file that is none of ours: %q, %v", b, err)
			}
		})
	}
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// A config without diff_ids, or with others than its layers', is copied, because
// it is only content, but it is not valid.
func TestHostileDiffIDs(t *testing.T) {
	for what, rootfs := range map[string]string{"none": `{"type":"layers"}`, "null": `null`, "too many": `{"diff_ids":["` + digest.FromString("layer").String() + `","` + digest.FromString("x").String() + `"]}`,
		"another": `{"diff_ids":["` + digest.FromString("x").String() + `"]}`, "no digest": `{"diff_ids":["../../x"]}`} {
		t.Run(what, func(t *testing.T) {
			h := newHostile(t)
			h.image(h.blob(ocispec.MediaTypeImageConfig, `{"os":"linux","architecture":"amd64","rootfs":`+rootfs+`}`),
				h.blob(ocispec.MediaTypeImageLayer, strings.Repeat("\x00", 1024)))
			out := filepath.Join(t.TempDir(), "out")
			if err := copyAll(t, h.path, out); err != nil {
				t.Fatal(err)
			}
			d, err := layout.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			desc, err := d.Resolve("v1")
			if err != nil {
				t.Fatal(err)
			}
			if err := layout.Validate(t.Context(), d, desc); err == nil {
				t.Error("it is valid")
			}
		})
	}
}

// However many entries index.json has, reading it takes a bounded amount of
// memory.
func TestHostileIndexMemory(t *testing.T) {
	entry := descriptor(ocispec.MediaTypeImageManifest, digest.FromString("x"), 1)
	for what, content := range map[string]string{
		"a million entries":  `{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", 1_000_000) + entry + `]}`,
		"as many as fit":     `{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", layout.MaxManifest/(len(entry)+1)-1) + entry + `]}`,
		"empty objects":      `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", layout.MaxManifest/3-20) + `{}]}`,
		"different names":    manyNames(),
		"a long string":      `{"schemaVersion":2,"manifests":[{"mediaType":"` + strings.Repeat("x", layout.MaxManifest-100) + `"}]}`,
		"escapes in strings": `{"schemaVersion":2,"manifests":[{"mediaType":"` + strings.Repeat(`\u0000`, layout.MaxManifest/6-20) + `"}]}`,
	} {
		t.Run(what, func(t *testing.T) {
			h := newHostile(t)
			h.file("index.json", content)
			d, err := layout.Open(h.path)
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = d.Index()
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("it is accepted")
			}
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 128 {
				t.Errorf("%d MB were allocated", n)
			} else {
				t.Logf("%d MB were allocated: %.100v", n, err)
			}
		})
	}
}

// manyNames is an object with as many names as fit.
func manyNames() string {
	var b strings.Builder
	b.WriteString(`{"schemaVersion":2,"manifests":[{"mediaType":"a","annotations":{`)
	for i := 0; b.Len() < layout.MaxManifest-100; i++ {
		fmt.Fprintf(&b, `"%x":"",`, i)
	}
	b.WriteString(`"":""}}]}`)
	return b.String()
}
