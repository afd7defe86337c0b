package layer

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// run runs another program, which must be installed and succeed.
func run(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
	return stdout.String()
}

// GNU gzip and zstd unpack our chunks as one file, without a warning.
func TestInteropDecompress(t *testing.T) {
	files := randomTree(8, 12, 600<<10)
	plain, _ := pack(t, files, packed(Uncompressed))
	for _, kind := range []string{Gzip, Zstd} {
		b, _ := pack(t, files, packed(kind))
		if got := run(t, b, kind, "-dc"); got != string(plain) {
			t.Errorf("%s -dc gives %d bytes, want the %d of the tar", kind, len(got), len(plain))
		}
	}
}

// GNU tar extracts our tar to the same files, and we read the tar that it makes
// of them.
func TestInteropTar(t *testing.T) {
	needRoot(t)
	files := slices.DeleteFunc(rootOnly(), func(f file) bool {
		return f.Type == Whiteout || strings.HasPrefix(f.Path, "long-name/")
	})
	for i := range files {
		files[i].Opaque = false
	}
	b, _ := pack(t, files, PackOptions{Root: true, Compression: Compression{Type: Uncompressed}})
	dir := t.TempDir()
	run(t, b, "tar", "-C", dir, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-")
	if diff := cmp.Diff(files, collect(t, Walk(dir))); diff != "" {
		t.Errorf("extracted by tar (-want +got):\n%s", diff)
	}
	for _, format := range []string{"gnu", "posix", "pax"} {
		args := []string{"-C", dir, "--sort=name", "--numeric-owner", "--format=" + format}
		if format == "pax" {
			args = append(args, "--xattrs", "--xattrs-include=*")
		}
		theirs := run(t, nil, "tar", append(args, "-cf", "-", ".")...)
		want := files
		if format != "pax" {
			want = withoutXattrs(files)
		}
		if diff := cmp.Diff(want, collect(t, Read(strings.NewReader(theirs), Limits{}))); diff != "" {
			t.Errorf("tar of format %s (-want +got):\n%s", format, diff)
		}
	}
}

func withoutXattrs(files []file) []file {
	files = slices.Clone(files)
	for i := range files {
		files[i].Xattrs = nil
	}
	return files
}

// GNU tar's sparse files are read whole.
func TestInteropSparse(t *testing.T) {
	dir := t.TempDir()
	data := string(make([]byte, 1<<20)) + "x" + string(make([]byte, 1<<20))
	apply(t, filepath.Join(dir, "in"), []file{fileOf("f", data)}, ApplyOptions{})
	for _, version := range []string{"--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0", "--format=gnu"} {
		b := run(t, nil, "tar", "-C", filepath.Join(dir, "in"), "--sparse", "--format=posix", version, "-cf", "-", "f")
		if len(b) > len(data)/2 {
			t.Errorf("%s: %d bytes are not sparse", version, len(b))
		}
		for _, f := range collect(t, Read(strings.NewReader(b), Limits{})) {
			if f.Path != "f" || f.Data != data {
				t.Errorf("%s: %q with %d bytes", version, f.Path, len(f.Data))
			}
		}
	}
}

// ociLayout writes an image of the given layers.
func ociLayout(t *testing.T, layers [][]file, comp Compression) string {
	t.Helper()
	dir := t.TempDir()
	put := func(mediaType string, b []byte) v1.Descriptor {
		d := digest.FromBytes(b)
		p := filepath.Join(dir, "blobs/sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, files := range layers {
		b, p := pack(t, files, PackOptions{Compression: comp})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, p.DiffID)
		manifest.Layers = append(manifest.Layers, put(comp.MediaType(false), b))
	}
	manifest.Config = put(v1.MediaTypeImageConfig, encode(config))
	m := put(v1.MediaTypeImageManifest, encode(manifest))
	m.Annotations = map[string]string{v1.AnnotationRefName: "test"}
	index := encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{m}})
	for name, b := range map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stacked are layers that add, replace, remove and hide, and the names that
// remain of them.
func stacked() (layers [][]file, want []string) {
	opaque := dirOf("o")
	opaque.Opaque = true
	lower := []file{
		dirOf("d"), fileOf("d/gone", ""), fileOf("d/kept", "k"), fileOf("f", "old"),
		dirOf("o"), dirOf("o/hidden"), fileOf("o/hidden/f", ""), fileOf("o/x", "lower"), dirOf("r"), fileOf("r/f", ""),
	}
	upper := []file{dirOf("d"), goneOf("d/gone"), fileOf("f", "new"), opaque, fileOf("o/x", "upper"), goneOf("r"), fileOf("z", "")}
	want = []string{"5 d", "0 d/kept", "0 f", "5 o", "0 o/x", "0 z"}
	return [][]file{lower, upper, randomTree(9, 5, 900<<10)}, append(want[:5:5], "5 tree", "0 tree/0000", "0 tree/0001", "0 tree/0002", "0 tree/0003", "0 tree/0004", "0 z")
}

// umoci takes our layers, and whiteouts mean the same to it.
func TestInteropUmoci(t *testing.T) {
	needRoot(t)
	layers, want := stacked()
	dir := ociLayout(t, layers, Compression{})
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, nil, "umoci", "unpack", "--image", dir+":test", bundle)
	if diff := cmp.Diff(want, tree(t, filepath.Join(bundle, "rootfs"))); diff != "" {
		t.Errorf("unpacked by umoci (-want +got):\n%s", diff)
	}
	merged := filepath.Join(t.TempDir(), "merged")
	for _, files := range layers {
		apply(t, merged, files, ApplyOptions{Merged: true})
	}
	if diff := cmp.Diff(want, tree(t, merged)); diff != "" {
		t.Errorf("merged here (-want +got):\n%s", diff)
	}
}

// skopeo copies our layers to Docker's archive, which checks each digest and
// diffID, and unpacks both compressions.
func TestInteropSkopeo(t *testing.T) {
	layers, _ := stacked()
	copyTo := func(dir, flag, to string) {
		run(t, nil, "skopeo", "--insecure-policy", "copy", flag, "oci:"+dir+":test", to)
	}
	zipped := ociLayout(t, layers, Compression{})
	copyTo(zipped, "--quiet", "docker-archive:"+filepath.Join(t.TempDir(), "archive.tar"))
	copyTo(zipped, "--dest-decompress", "dir:"+filepath.Join(t.TempDir(), "d"))
	copyTo(ociLayout(t, layers, Compression{Type: Zstd}), "--dest-decompress", "dir:"+filepath.Join(t.TempDir(), "d"))
}

// An image layer that another engine packed is unpacked and packed by us to the
// entries that it had.
func TestInteropUmociRepack(t *testing.T) {
	needRoot(t)
	layers, _ := stacked()
	dir := ociLayout(t, layers[:1], Compression{})
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, nil, "umoci", "unpack", "--image", dir+":test", bundle)
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/d/new"), []byte("n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(bundle, "rootfs/r")); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "umoci", "repack", "--image", dir+":next", bundle)
	var m struct{ Layers []v1.Descriptor }
	if err := json.Unmarshal([]byte(run(t, nil, "skopeo", "inspect", "--raw", "oci:"+dir+":next")), &m); err != nil {
		t.Fatal(err)
	}
	top := m.Layers[len(m.Layers)-1]
	f, err := os.Open(filepath.Join(dir, "blobs/sha256", top.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked := filepath.Join(t.TempDir(), "layer")
	if _, err := Unpack(context.Background(), f, unpacked, UnpackOptions{Digest: top.Digest, Size: top.Size}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"5 d", "0 d/new", "w r"}, tree(t, unpacked)); diff != "" {
		t.Errorf("umoci's layer (-want +got):\n%s", diff)
	}
	if _, err := Pack(context.Background(), io.Discard, Walk(unpacked), PackOptions{}); err != nil {
		t.Error(err)
	}
}
