package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

func newStore(t *testing.T) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// putImage stores an image of two layers, one of which all images share.
func putImage(t *testing.T, d *layout.Dir, arch string) ocispec.Descriptor {
	t.Helper()
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": arch, "created": "2024-01-01T00:00:00Z",
		"config": map[string]any{"Cmd": []string{"/bin/true"}}})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := d.WriteImage(layout.ImageSpec{Config: config, Layers: []layout.LayerBlob{
		putLayer(t, d, "shared", "shared"), putLayer(t, d, "arch", arch),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func putLayer(t *testing.T, d *layout.Dir, name, content string) layout.LayerBlob {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
	_, err2 := io.WriteString(tw, content)
	zw := gzip.NewWriter(&packed)
	err3 := tw.Close()
	_, err4 := zw.Write(plain.Bytes())
	if err := errors.Join(err, err2, err3, err4, zw.Close()); err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return layout.LayerBlob{Descriptor: desc, DiffID: digest.FromBytes(plain.Bytes())}
}

func putIndex(t *testing.T, d *layout.Dir, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	desc, err := d.WriteIndex(manifests, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// An exported directory is a valid layout that holds the image and nothing
// else, and a second export adds to it.
func TestExportDir(t *testing.T) {
	store := newStore(t)
	list := putIndex(t, store, putImage(t, store, "amd64"), putImage(t, store, "arm64"))
	dir := filepath.Join(t.TempDir(), "out")
	if err := ExportDir(t.Context(), transfer.Layout(store), list, []string{"docker.io/library/app:v1", "docker.io/library/app:v2"}, dir); err != nil {
		t.Fatal(err)
	}
	out, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := out.Verify(t.Context(), 1, false)
	if err != nil || len(rep.Problems) != 0 || rep.Blobs != 8 || rep.Unused != 0 {
		t.Errorf("Verify = %+v, %v; want 8 blobs", rep, err)
	}
	for _, name := range []string{"v1", "docker.io/library/app:v2"} {
		got, err := out.Resolve(name)
		if err != nil || got.Digest != list.Digest {
			t.Errorf("Resolve(%q) = %v, %v", name, got, err)
		}
	}
	if err := layout.Validate(t.Context(), out, list); err != nil {
		t.Error(err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"blobs", "index.json", "oci-layout"}) {
		t.Errorf("the directory has %v", got)
	}
	other := putImage(t, store, "s390x")
	if err := ExportDir(t.Context(), transfer.Layout(store), other, nil, dir); err != nil {
		t.Fatal(err)
	}
	if got, err := out.Resolve("latest"); err != nil || got.Digest != other.Digest {
		t.Errorf("Resolve(latest) = %v, %v", got, err)
	}
	if got, err := out.Resolve("v1"); err != nil || got.Digest != list.Digest {
		t.Errorf("Resolve(v1) after the second export = %v, %v", got, err)
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// An export that fails names nothing in index.json.
func TestExportDirFails(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	if err := store.Remove(putLayer(t, store, "arch", "amd64").Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := ExportDir(t.Context(), transfer.Layout(store), img, nil, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ExportDir: %v", err)
	}
	out, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if index, err := out.Index(); err != nil || len(index.Manifests) != 0 {
		t.Errorf("index.json = %v, %v", index, err)
	}
	for name, write := range map[string]func(io.Writer) error{
		"OCI":    func(w io.Writer) error { return WriteOCI(t.Context(), w, transfer.Layout(store), img, nil) },
		"docker": func(w io.Writer) error { return WriteDocker(t.Context(), w, transfer.Layout(store), img, nil, nil) },
	} {
		var b bytes.Buffer
		if err := write(&b); !errors.Is(err, fs.ErrNotExist) || b.Len() != 0 {
			t.Errorf("%s: %d bytes, %v; want nothing written", name, b.Len(), err)
		}
	}
}

// readTar returns the files of an archive and its names in order.
func readTar(t *testing.T, b []byte) (map[string]string, []string) {
	t.Helper()
	files, names := map[string]string{}, []string{}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files, names
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s: time %v, owner %d:%d %q", h.Name, h.ModTime, h.Uid, h.Gid, h.Uname)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		files[h.Name] = string(content)
	}
}

// The tar of an OCI layout, unpacked, is that layout; it is the same every time.
func TestWriteOCI(t *testing.T) {
	store := newStore(t)
	list := putIndex(t, store, putImage(t, store, "amd64"), putImage(t, store, "arm64"))
	write := func() []byte {
		var b bytes.Buffer
		if err := WriteOCI(t.Context(), &b, transfer.Layout(store), list, []string{"docker.io/library/app:v1"}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	b := write()
	if !bytes.Equal(b, write()) {
		t.Error("two archives differ")
	}
	files, names := readTar(t, b)
	if !slices.IsSorted(names) || len(names) != 2+8+2 {
		t.Errorf("names %v", names)
	}
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var err error
		if path := filepath.Join(dir, name); strings.HasSuffix(name, "/") {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(files[name]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := out.Resolve("v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), out, desc); err != nil {
		t.Error(err)
	}
}

// A Docker archive has manifest.json beside the layout, for one platform.
func TestWriteDocker(t *testing.T) {
	store := newStore(t)
	amd64, arm64 := putImage(t, store, "amd64"), putImage(t, store, "arm64")
	attestation := putImage(t, store, "unknown")
	attestation.Annotations = map[string]string{layout.AnnotationReferenceType: "attestation-manifest"}
	names := []string{"docker.io/library/app:v1", "host:5000/me/app:v2", "docker.io/library/app@sha256:" + strings.Repeat("a", 64)}

	var b bytes.Buffer
	if err := WriteDocker(t.Context(), &b, transfer.Layout(store), putIndex(t, store, amd64, attestation), names, nil); err != nil {
		t.Fatal(err)
	}
	files, _ := readTar(t, b.Bytes())
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal([]byte(files["manifest.json"]), &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest.json: %v, %d entries", err, len(manifest))
	}
	if diff := cmp.Diff([]string{"app:v1", "host:5000/me/app:v2"}, manifest[0].RepoTags); diff != "" {
		t.Error(diff)
	}
	for _, name := range append(manifest[0].Layers, manifest[0].Config) {
		if files[name] == "" {
			t.Errorf("manifest.json names %s, which is not there", name)
		}
	}
	if len(manifest[0].Layers) != 2 || !strings.Contains(files[manifest[0].Config], `"amd64"`) {
		t.Errorf("manifest.json: %+v", manifest[0])
	}

	both := putIndex(t, store, amd64, arm64)
	if err := WriteDocker(t.Context(), io.Discard, transfer.Layout(store), both, names, nil); err == nil || !strings.Contains(err.Error(), "name a platform") {
		t.Errorf("WriteDocker of two images: %v", err)
	}
	b.Reset()
	if err := WriteDocker(t.Context(), &b, transfer.Layout(store), both, names, &ocispec.Platform{OS: "linux", Architecture: "arm64"}); err != nil {
		t.Fatal(err)
	}
	files, _ = readTar(t, b.Bytes())
	if !strings.Contains(files["index.json"], arm64.Digest.String()) || strings.Contains(files["index.json"], amd64.Digest.String()) {
		t.Errorf("index.json of arm64: %s", files["index.json"])
	}
}

// A blob that is corrupt ends the archive with an error.
func TestWriteCorrupt(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	l := putLayer(t, store, "arch", "amd64").Descriptor
	path, err := store.BlobPath(l.Digest)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), int(l.Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.tar")
	err = File(out, func(w io.Writer) error { return WriteOCI(t.Context(), w, transfer.Layout(store), img, nil) })
	var corrupt *layout.CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("File(WriteOCI): %v", err)
	}
	if got := entries(t, filepath.Dir(out)); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

// File replaces its target at once or not at all, through links, and writes to
// devices in place.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	hello := func(w io.Writer) error { _, err := io.WriteString(w, "hello"); return err }
	if err := File(path, hello); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := File(path, func(w io.Writer) error { io.WriteString(w, "partial"); return boom }); !errors.Is(err, boom) {
		t.Errorf("File: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "hello" {
		t.Errorf("content %q, %v", b, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("out", link); err != nil {
		t.Skip(err)
	}
	if err := File(link, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new" {
		t.Errorf("behind the link: %q", b)
	}
	if err := File(os.DevNull, hello); err != nil {
		t.Errorf("File(%s): %v", os.DevNull, err)
	}
	if err := File(dir, hello); err == nil {
		t.Error("File of a directory succeeds")
	}
	if err := File(filepath.Join(dir, "none", "out"), hello); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), ".tmp") {
		t.Errorf("File in a missing directory: %v", err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"link", "out"}) {
		t.Errorf("the directory has %v", got)
	}
}

// tool returns a command of another project, or skips the test.
func tool(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "XDG_RUNTIME_DIR="+t.TempDir())
	return cmd
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, name, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Other tools read what we export.
func TestInterop(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	list := putIndex(t, store, img, putImage(t, store, "arm64"))
	dir := filepath.Join(t.TempDir(), "layout")
	if err := ExportDir(t.Context(), transfer.Layout(store), list, []string{"docker.io/library/app:v1"}, dir); err != nil {
		t.Fatal(err)
	}
	ociTar, dockerTar := filepath.Join(t.TempDir(), "oci.tar"), filepath.Join(t.TempDir(), "docker.tar")
	err := errors.Join(
		File(ociTar, func(w io.Writer) error {
			return WriteOCI(t.Context(), w, transfer.Layout(store), img, []string{"docker.io/library/app:v1"})
		}),
		File(dockerTar, func(w io.Writer) error {
			return WriteDocker(t.Context(), w, transfer.Layout(store), img, []string{"docker.io/library/app:v1"}, nil)
		}))
	if err != nil {
		t.Fatal(err)
	}
	policy := []string{"--insecure-policy", "--override-os=linux", "--override-arch=amd64"}
	t.Run("skopeo oci", func(t *testing.T) {
		if out := run(t, "skopeo", append(policy, "inspect", "oci:"+dir+":v1")...); !strings.Contains(out, `"Architecture": "amd64"`) {
			t.Errorf("inspect: %s", out)
		}
		run(t, "skopeo", append(policy, "copy", "--all", "oci:"+dir+":v1", "oci:"+t.TempDir()+":copy")...)
		run(t, "skopeo", append(policy, "copy", "oci:"+dir+":v1", "docker-archive:"+filepath.Join(t.TempDir(), "a.tar")+":app:v1")...)
	})
	t.Run("skopeo oci-archive", func(t *testing.T) {
		run(t, "skopeo", append(policy, "copy", "oci-archive:"+ociTar, "dir:"+t.TempDir())...)
	})
	t.Run("skopeo docker-archive", func(t *testing.T) {
		if out := run(t, "skopeo", append(policy, "inspect", "docker-archive:"+dockerTar+":app:v1")...); !strings.Contains(out, `"Architecture": "amd64"`) {
			t.Errorf("inspect: %s", out)
		}
		run(t, "skopeo", append(policy, "copy", "docker-archive:"+dockerTar+":app:v1", "dir:"+t.TempDir())...)
	})
	t.Run("podman load", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("podman's own storage needs root here")
		}
		base := t.TempDir()
		args := []string{"--root", base + "/root", "--runroot", base + "/run", "--storage-driver", "vfs"}
		for _, path := range []string{dockerTar, ociTar} {
			if out := run(t, "podman", append(args, "load", "-i", path)...); !strings.Contains(out, "app:v1") {
				t.Errorf("load %s: %s", filepath.Base(path), out)
			}
		}
	})
	t.Run("umoci", func(t *testing.T) {
		single := filepath.Join(t.TempDir(), "layout")
		if err := ExportDir(t.Context(), transfer.Layout(store), img, []string{"v1"}, single); err != nil {
			t.Fatal(err)
		}
		if out := run(t, "umoci", "ls", "--layout", single); strings.TrimSpace(out) != "v1" {
			t.Errorf("ls: %q", out)
		}
		bundle := filepath.Join(t.TempDir(), "bundle")
		run(t, "umoci", "unpack", "--rootless", "--image", single+":v1", bundle)
		if b, err := os.ReadFile(filepath.Join(bundle, "rootfs/arch")); err != nil || string(b) != "amd64" {
			t.Errorf("unpacked file: %q, %v", b, err)
		}
	})
}
