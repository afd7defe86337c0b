package archive

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/images"
	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// corpus is a layout with images of every kind.
func corpus(t *testing.T) (*layout.Dir, map[string]ocispec.Descriptor) {
	t.Helper()
	d := newStore(t)
	all, err := images.Write(d)
	if err != nil {
		t.Fatal(err)
	}
	return d, all
}

// skopeo runs skopeo, without a policy and for a platform that images here have.
func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "skopeo", append([]string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64"}, args...)...)
}

// kinds are the images of the corpus that skopeo's version can copy unchanged.
// In a layout it finds only those of OCI's media types.
var kinds = []string{"oci", "docker", "index", "list", "zstd"}

func dockerKind(kind string) bool { return kind == "docker" || kind == "list" }

// flat writes an image as a dir: directory.
func flat(t *testing.T, src transfer.Reader, desc ocispec.Descriptor) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flat")
	if err := transfer.Copy(t.Context(), createDirectory(t, dir), src, desc, []string{""}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What skopeo writes as an oci-archive or a dir: has the same digests when we
// read it.
func TestReadsSkopeo(t *testing.T) {
	store, all := corpus(t)
	for _, kind := range kinds {
		desc, ok := all[kind]
		if !ok {
			t.Fatalf("there is no image %q, only %v", kind, all)
		}
		t.Run(kind, func(t *testing.T) {
			check := func(src transfer.Reader, err error) {
				if err != nil {
					t.Fatal(err)
				}
				got, err := src.Resolve(t.Context(), "")
				if err != nil || got.Digest != desc.Digest {
					t.Fatalf("%v, %v; want %s", got.Digest, err, desc.Digest)
				}
				copyOut(t, src, got)
			}
			tar, dir := filepath.Join(t.TempDir(), "a.tar"), t.TempDir()
			skopeo(t, "copy", "--all", "dir:"+flat(t, transfer.Layout(store), desc), "dir:"+dir)
			d, err := OpenDirectory(dir)
			check(d, err)
			defer d.Close()
			if dockerKind(kind) {
				return
			}
			skopeo(t, "copy", "--all", "oci:"+store.Path()+":"+kind, "oci-archive:"+tar+":v1")
			a, err := Open(t.Context(), tar)
			check(a, err)
			defer a.Close()
		})
	}
}

// What we write as an oci-archive or a dir: has the same digests when skopeo
// reads it.
func TestSkopeoReads(t *testing.T) {
	store, all := corpus(t)
	src := transfer.Layout(store)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			tar, dir := filepath.Join(t.TempDir(), "a.tar"), flat(t, src, all[kind])
			err := File(tar, func(w io.Writer) error { return WriteOCI(t.Context(), w, src, all[kind], []string{"v1"}) })
			if err != nil {
				t.Fatal(err)
			}
			for i, from := range []string{"oci-archive:" + tar + ":v1", "dir:" + dir} {
				if dockerKind(kind) && i == 0 {
					continue
				}
				out := filepath.Join(t.TempDir(), fmt.Sprint(i))
				skopeo(t, "copy", "--all", from, "dir:"+out)
				if t.Failed() {
					return
				}
				d, err := OpenDirectory(out)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if got, err := d.Resolve(t.Context(), ""); err != nil || got.Digest != all[kind].Digest {
					t.Errorf("%s: %v, %v; want %s", from, got.Digest, err, all[kind].Digest)
				}
			}
		})
	}
}

// docker-archives keep the config and the layers' tars, whoever writes them and
// whoever reads them.
func TestDockerArchives(t *testing.T) {
	store, all := corpus(t)
	src := transfer.Layout(store)
	want := strs(parts(t, src, all["docker"]))
	check := func(t *testing.T, path string) {
		t.Helper()
		a, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		desc, err := a.Resolve(t.Context(), "app:v1")
		if err != nil {
			desc, err = a.Resolve(t.Context(), "localhost/app:v1") // as podman has it
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strs(parts(t, a, desc)); !slices.Equal(got, want) {
			t.Errorf("config and layers %v, want %v", got, want)
		}
		copyOut(t, a, desc)
	}
	ours := filepath.Join(t.TempDir(), "ours.tar")
	err := File(ours, func(w io.Writer) error {
		return WriteDocker(t.Context(), w, src, all["docker"], []string{"docker.io/library/app:v1"}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("ours", func(t *testing.T) { check(t, ours) })
	t.Run("skopeo", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.tar")
		skopeo(t, "copy", "dir:"+flat(t, src, all["docker"]), "docker-archive:"+path+":app:v1")
		check(t, path)
	})
	t.Run("skopeo reads ours", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.tar")
		skopeo(t, "copy", "docker-archive:"+ours+":app:v1", "docker-archive:"+path+":app:v1")
		check(t, path)
	})
	t.Run("podman", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("podman's own storage needs root here")
		}
		base := t.TempDir()
		podman := func(args ...string) string {
			return run(t, "podman", append([]string{"--root", base + "/root", "--runroot", base + "/run", "--storage-driver", "vfs"}, args...)...)
		}
		if out := podman("load", "-i", ours); !strings.Contains(out, "app:v1") {
			t.Errorf("podman load: %s", out)
		}
		for _, format := range []string{"docker-archive", "docker-dir"} {
			path := filepath.Join(base, format)
			podman("save", "--format", format, "-o", path, "docker.io/library/app:v1")
			if t.Failed() {
				return
			}
			if format == "docker-archive" {
				check(t, path)
				continue
			}
			d, err := OpenDirectory(path)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			desc, err := d.Resolve(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if got := strs(parts(t, d, desc)); !slices.Equal(got, want) {
				t.Errorf("docker-dir: config and layers %v, want %v", got, want)
			}
			// Its media types say gzip, and its layers are plain: read, but not valid.
		}
	})
}
