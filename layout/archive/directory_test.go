package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

var (
	_ transfer.Reader = (*Directory)(nil)
	_ transfer.Writer = (*Directory)(nil)
	_ transfer.Lister = (*Directory)(nil)
	_ transfer.Writer = (*Writer)(nil)
)

func createDirectory(t *testing.T, path string) *Directory {
	t.Helper()
	d, err := CreateDirectory(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// putReferrer stores an artifact about an image.
func putReferrer(t *testing.T, d *layout.Dir, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	config, err := d.PutBytes("application/vnd.example.sbom", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config,
		"layers": []ocispec.Descriptor{config}, "subject": subject, "annotations": map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(ocispec.MediaTypeImageManifest, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetRef("", desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

// An index and what refers to it go into a directory and come out the same.
// manifest.json is written last, and only the image's.
func TestDirectory(t *testing.T) {
	store := newStore(t)
	list := putIndex(t, store, putImage(t, store, "amd64"), putImage(t, store, "arm64"))
	sbom := putReferrer(t, store, list)
	path := filepath.Join(t.TempDir(), "new", "dir")
	d := createDirectory(t, path)
	src := transfer.Layout(store)
	if _, err := d.Resolve(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	for range 2 {
		if err := transfer.Copy(t.Context(), d, src, list, []string{""}, transfer.Options{Referrers: true}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := d.Resolve(t.Context(), ""); err != nil || got.Digest != list.Digest || got.MediaType != list.MediaType {
		t.Errorf("Resolve = %v, %v", got, err)
	}
	names := entries(t, path)
	docs := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return !strings.HasSuffix(s, manifestSuffix) })
	if len(docs) != 3 || slices.Contains(docs, list.Digest.Encoded()+manifestSuffix) || len(names) != 2+3+6 {
		t.Errorf("files: %v", names)
	}
	if b, err := os.ReadFile(filepath.Join(path, "version")); err != nil || string(b) != "Directory Transport Version: 1.1\n" {
		t.Errorf("version %q, %v", b, err)
	}
	got, err := d.Referrers(t.Context(), list.Digest)
	if err != nil || len(got) != 1 || got[0].Digest != sbom.Digest || got[0].ArtifactType != "application/vnd.example.sbom" {
		t.Errorf("Referrers = %+v, %v", got, err)
	}
	out, err := OpenDirectory(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	copyOut(t, out, list)
	if desc, err := out.Resolve(t.Context(), sbom.Digest.String()); err != nil || desc.Digest != sbom.Digest {
		t.Errorf("Resolve by digest: %v, %v", desc, err)
	}
	if _, err := out.Resolve(t.Context(), "v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve by name: %v", err)
	}
	// Another image takes its place.
	other := putImage(t, store, "s390x")
	if err := transfer.Copy(t.Context(), d, src, other, []string{"app:v1"}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := out.Resolve(t.Context(), ""); err != nil || got.Digest != other.Digest {
		t.Errorf("Resolve = %v, %v", got, err)
	}
}

// A copy that fails leaves the image that was there.
func TestDirectoryFails(t *testing.T) {
	store := newStore(t)
	img, other := putImage(t, store, "amd64"), putImage(t, store, "arm64")
	d := createDirectory(t, t.TempDir())
	src := transfer.Layout(store)
	if err := transfer.Copy(t.Context(), d, src, img, []string{""}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	l := putLayer(t, store, "arch", "arm64").Descriptor
	path, _ := store.BlobPath(l.Digest)
	os.Remove(path)
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), int(l.Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := transfer.Copy(t.Context(), d, src, other, []string{""}, transfer.Options{}); err == nil {
		t.Error("a corrupt layer was copied")
	}
	if got, err := d.Resolve(t.Context(), ""); err != nil || got.Digest != img.Digest {
		t.Errorf("Resolve = %v, %v", got, err)
	}
	for _, name := range entries(t, d.path) {
		if strings.HasSuffix(name, ".tmp") || name == l.Digest.Encoded() {
			t.Errorf("left behind: %s", name)
		}
	}
}

// Directories that hold other things are left alone; files in one that are not
// what they should be are refused, and links are not followed.
func TestDirectoryRefuses(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	version := func(s string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "version"), []byte(s), 0o644) }
	}
	for _, tt := range []struct {
		what string
		prep func(*testing.T, string)
		want string
	}{
		{"other files", func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "precious"), nil, 0o644) }, `"precious" is in it`},
		{"a version of the future", version("Directory Transport Version: 2.0\n"), "Version: 2.0"},
		{"a version file of another", version("1"), `says "1"`},
		{"a version that is a link", func(t *testing.T, dir string) { os.Symlink("/etc/hostname", filepath.Join(dir, "version")) }, "not a regular file"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := t.TempDir()
			tt.prep(t, dir)
			if d, err := CreateDirectory(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("CreateDirectory: %v, %v; want %s", d, err, tt.want)
			}
			if d, err := OpenDirectory(dir); err == nil {
				t.Errorf("OpenDirectory: %v", d)
			}
		})
	}
	d := createDirectory(t, t.TempDir())
	if err := transfer.Copy(t.Context(), d, transfer.Layout(store), img, []string{""}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	l := putLayer(t, store, "arch", "amd64").Descriptor
	blob := filepath.Join(d.path, l.Digest.Encoded())
	secret := filepath.Join(t.TempDir(), "secret")
	content, _ := os.ReadFile(blob)
	if err := errors.Join(os.WriteFile(secret, content, 0o644), os.Remove(blob), os.Symlink(secret, blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(t.Context(), l); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a link: %v", err)
	}
	os.Remove(blob)
	os.WriteFile(blob, bytes.Repeat([]byte("x"), int(l.Size)), 0o644)
	r, err := d.Open(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var corrupt *layout.CorruptError
	if _, err := io.Copy(io.Discard, r); !errors.As(err, &corrupt) {
		t.Errorf("a corrupt blob: %v", err)
	}
	l.Digest = digest.Digest("sha256:../../../../" + strings.Repeat("a", 52))
	if _, err := d.Open(t.Context(), l); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a digest with ../: %v", err)
	}
	if err := d.PutBlob(t.Context(), l, strings.NewReader("x")); err == nil {
		t.Error("PutBlob of a digest with ../")
	}
}

// What a Writer was given, in the order that a copy has, becomes an archive with
// everything in it; or nothing.
func TestWriter(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	sbom := putReferrer(t, store, img)
	path := filepath.Join(t.TempDir(), "out.tar")
	w, err := CreateOCI(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := transfer.Copy(t.Context(), w, transfer.Layout(store), img, []string{"docker.io/library/app:v1"}, transfer.Options{Referrers: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	a, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got, err := a.Referrers(t.Context(), img.Digest); err != nil || len(got) != 1 || got[0].Digest != sbom.Digest {
		t.Errorf("Referrers = %v, %v", got, err)
	}
	if got, err := a.Resolve(t.Context(), "app:v1"); err != nil || got.Digest != img.Digest {
		t.Errorf("Resolve = %v, %v", got, err)
	}
	copyOut(t, a, img)
	if w, err = CreateOCI(path); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit of nothing")
	}
	w.Close()
	if got := entries(t, filepath.Dir(path)); !slices.Equal(got, []string{"out.tar"}) {
		t.Errorf("left behind: %v", got)
	}
}
