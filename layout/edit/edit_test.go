package edit

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
	"bk.build/bk/layout/view"
)

// newStore returns an empty layout.
func newStore(t testing.TB) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// putLayer stores a layer of files: "name", "content", ... A name of a directory
// ends with a slash; content "= x" is a hard link.
func putLayer(t testing.TB, d *layout.Dir, c layer.Compression, docker bool, files ...string) layout.LayerBlob {
	t.Helper()
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if to, ok := strings.CutPrefix(files[i+1], "= "); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(tw, files[i+1])
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	p, err := layer.Repack(t.Context(), &packed, &plain, c, 1)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(c.MediaType(docker), packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return layout.LayerBlob{Descriptor: desc, DiffID: p.DiffID, CreatedBy: "RUN " + files[0]}
}

// putImage stores an image for linux/ARCH with an unknown field in its
// configuration.
func putImage(t testing.TB, d *layout.Dir, arch string, docker bool, layers ...layout.LayerBlob) ocispec.Descriptor {
	t.Helper()
	config := `{"os":"linux","architecture":"` + arch + `","x.unknown":[1],"config":{"Env":["A=1"],"Healthcheck":{"Test":["NONE"]}},"created":"2020-01-02T03:04:05Z"}`
	spec := layout.ImageSpec{Config: []byte(config), Layers: layers, Docker: docker}
	if !docker {
		spec.Annotations = map[string]string{"k": "v"}
	}
	desc, _, err := d.WriteImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// putIndex stores an index of two platforms and an attestation of the first.
func putIndex(t testing.TB, d *layout.Dir, docker bool, images ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	att, _, err := d.WriteImage(layout.ImageSpec{Config: []byte(`{"os":"unknown","architecture":"unknown"}`)})
	if err != nil {
		t.Fatal(err)
	}
	att.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{layout.AnnotationReferenceType: "attestation-manifest", annotationAbout: images[0].Digest.String()}
	desc, err := d.WriteIndex(append(images, att), nil, docker)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// collect copies a result into a new layout, checks it there and returns it.
func collect(t testing.TB, r *Result) *layout.Dir {
	t.Helper()
	d := newStore(t)
	opts := transfer.Options{Progress: func(e transfer.Event) {
		if e.State == transfer.Copied {
			t.Errorf("%s is copied from one layout to another and not linked", e.Desc.Digest)
		}
	}}
	if err := transfer.Copy(t.Context(), transfer.Layout(d), r, r.Descriptor, []string{"latest"}, opts); err != nil {
		t.Fatal(err)
	}
	skopeoReads(t, d, r.Descriptor)
	if err := layout.Validate(t.Context(), d, r.Descriptor); err != nil {
		t.Fatalf("the result is not valid: %v", err)
	}
	return d
}

// skopeoReads has skopeo inspect an image, when it is installed and the image has
// the media types that it finds in layouts.
func skopeoReads(t testing.TB, d *layout.Dir, desc ocispec.Descriptor) {
	t.Helper()
	skopeo, err := exec.LookPath("skopeo")
	if err != nil || desc.MediaType != ocispec.MediaTypeImageManifest && desc.MediaType != ocispec.MediaTypeImageIndex {
		return
	}
	out, err := exec.CommandContext(t.Context(), skopeo, "--override-os=linux", "--override-arch=amd64", "inspect", "oci:"+d.Path()+":latest").CombinedOutput()
	if err != nil {
		t.Errorf("skopeo: %v\n%s", err, out)
	}
}

// treeOf lists what an image has: "path mode content".
func treeOf(t testing.TB, r transfer.Reader, desc ocispec.Descriptor) map[string]string {
	t.Helper()
	img, err := view.Open(t.Context(), r, desc, nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]string{}
	for e, err := range img.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%c %o %d:%d %s", e.Type, e.Mode, e.UID, e.GID, e.Link)
		if e.Content != nil {
			c, err := e.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			s += " " + digest.FromBytes(b).String()
		}
		tree[e.Path] = s
	}
	return tree
}

// images lists the images of an index.
func images(t testing.TB, r transfer.Reader, desc ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	list, err := layout.Images(desc, transfer.Fetch(t.Context(), r))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func manifest(t testing.TB, r transfer.Reader, desc ocispec.Descriptor) (m ocispec.Manifest, config map[string]any) {
	t.Helper()
	b, err := transfer.ReadDocument(t.Context(), r, desc, layout.MaxManifest)
	if err == nil {
		m, err = layout.ParseManifest(desc.MediaType, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if b, err = transfer.ReadDocument(t.Context(), r, m.Config, layout.MaxConfig); err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m, config
}

var (
	gz   = layer.Compression{Type: layer.Gzip}
	zst  = layer.Compression{Type: layer.Zstd}
	none = layer.Compression{Type: layer.Uncompressed}
)

// A flattened image has one layer with the same files, whatever it is packed
// with, and the configuration but for its history; and is the same each time.
func TestFlatten(t *testing.T) {
	d := newStore(t)
	src := transfer.Layout(d)
	layers := []layout.LayerBlob{
		putLayer(t, d, gz, false, "a/", "", "a/x", "1", "a/y", "2", "gone", "3", "h", "= a/x"),
		putLayer(t, d, zst, false, ".wh.gone", "", "a/y", "new", "b/z", "4"),
		putLayer(t, d, none, false, "a/x", "5"),
	}
	index := putIndex(t, d, false, putImage(t, d, "amd64", false, layers...), putImage(t, d, "arm64", false, layers[:2]...))
	for _, c := range []layer.Compression{gz, zst, none} {
		t.Run(c.Type, func(t *testing.T) {
			r, err := Flatten(t.Context(), src, index, newStore(t), FlattenOptions{Compression: c})
			if err != nil {
				t.Fatal(err)
			}
			made := transfer.Layout(collect(t, r))
			for i, was := range images(t, src, index) {
				is := images(t, made, r.Descriptor)[i]
				if diff := cmp.Diff(treeOf(t, made, is), treeOf(t, src, was)); diff != "" {
					t.Errorf("the tree differs (-got +want)\n%s", diff)
				}
				m, config := manifest(t, made, is)
				if len(m.Layers) != 1 || m.Layers[0].MediaType != c.MediaType(false) || m.Annotations["k"] != "v" {
					t.Errorf("manifest = %+v", m)
				}
				if len(config["history"].([]any)) != 1 || config["x.unknown"] == nil || config["config"].(map[string]any)["Healthcheck"] == nil {
					t.Errorf("config = %v", config)
				}
			}
			if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "attestations") {
				t.Errorf("Notes = %q, want one about attestations", r.Notes)
			}
			again, err := Flatten(t.Context(), src, index, newStore(t), FlattenOptions{Compression: c, Jobs: 1})
			if err != nil || again.Descriptor.Digest != r.Descriptor.Digest {
				t.Errorf("again: %v, %v, want %v", again.Descriptor.Digest, err, r.Descriptor.Digest)
			}
		})
	}
}

// A rebased image has the new base's layers below its own, which are not read,
// and says so.
func TestRebase(t *testing.T) {
	for _, docker := range []bool{false, true} {
		d, n := newStore(t), newStore(t)
		old := []layout.LayerBlob{putLayer(t, d, gz, docker, "etc/", "", "etc/v", "1")}
		app := putLayer(t, d, gz, docker, "app", "app")
		oldBase := putIndex(t, d, docker, putImage(t, d, "amd64", docker, old...))
		newBase := putIndex(t, n, docker, putImage(t, n, "amd64", docker, putLayer(t, n, zst, docker, "etc/v", "2"), putLayer(t, n, gz, docker, "etc/w", "3")))
		image := putImage(t, d, "amd64", docker, append(old, app)...)
		if err := d.Remove(app.Descriptor.Digest); err != nil { // nobody may read it
			t.Fatal(err)
		}
		src := transfer.Layout(d)
		r, err := Rebase(t.Context(), src, image, newStore(t), Base{src, oldBase, ""}, Base{transfer.Layout(n), newBase, "example.com/base:2"})
		if err != nil {
			t.Fatal(err)
		}
		putLayer(t, d, gz, docker, "app", "app")
		made := transfer.Layout(collect(t, r))
		want := []string{"etc/v", "etc/w", "app"}
		tree := treeOf(t, made, r.Descriptor)
		for _, p := range want {
			if tree[p] == "" {
				t.Errorf("%s is missing: %v", p, tree)
			}
		}
		m, config := manifest(t, made, r.Descriptor)
		if got := len(config["history"].([]any)); got != 3 || len(m.Layers) != 3 {
			t.Errorf("%d entries of history and %d layers, want 3", got, len(m.Layers))
		}
		name, dg, err := BaseOf(t.Context(), made, r.Descriptor)
		if err != nil || !docker && (name != "example.com/base:2" || dg != newBase.Digest || m.Annotations["k"] != "v") || docker && name != "" {
			t.Errorf("BaseOf = %q, %v, %v", name, dg, err)
		}
		if docker && len(r.Notes) != 1 {
			t.Errorf("Notes = %q, want one about annotations", r.Notes)
		}
	}
}

// An image that is not on the old base is refused, and one for another platform.
func TestRebaseRefuses(t *testing.T) {
	d := newStore(t)
	src := transfer.Layout(d)
	a, b := putLayer(t, d, gz, false, "a", "1"), putLayer(t, d, gz, false, "b", "1")
	base := putImage(t, d, "amd64", false, a)
	other := putImage(t, d, "amd64", false, b)
	arm := putImage(t, d, "arm64", false, b)
	for _, tt := range []struct {
		name            string
		image, from, to ocispec.Descriptor
		otherBase       bool
		want            string
	}{
		{"other layers", putImage(t, d, "amd64", false, a, b), other, base, true, "layer 1 has diffID"},
		{"fewer layers", putImage(t, d, "amd64", false, a), putImage(t, d, "amd64", false, a, b), base, true, "it has 1 layers, the base"},
		{"other platform", putImage(t, d, "amd64", false, a, b), base, arm, false, "the image is for linux/amd64, the new base"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Rebase(t.Context(), src, tt.image, newStore(t), Base{src, tt.from, ""}, Base{src, tt.to, ""})
			if err == nil || errors.Is(err, ErrOtherBase) != tt.otherBase || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Rebase = %v, want %q", err, tt.want)
			}
		})
	}
}

// Converted images keep their tars, diffIDs and configurations; there and back
// is the same again.
func TestConvert(t *testing.T) {
	d := newStore(t)
	src := transfer.Layout(d)
	big := strings.Repeat("all work and no play ", 400_000) // several pieces
	layers := []layout.LayerBlob{putLayer(t, d, gz, false, "a", big), putLayer(t, d, gz, false, "b", "2")}
	index := putIndex(t, d, false, putImage(t, d, "amd64", false, layers...), putImage(t, d, "arm64", false, layers[1]))
	for _, tt := range []struct {
		name  string
		opts  ConvertOptions
		layer string
		notes int
	}{
		{"docker", ConvertOptions{MediaTypes: Docker}, layout.MediaTypeDockerLayerGzip, 3},
		{"zstd", ConvertOptions{Compression: &zst}, ocispec.MediaTypeImageLayerZstd, 1},
		{"uncompressed", ConvertOptions{Compression: &none}, ocispec.MediaTypeImageLayer, 1},
		{"docker and zstd", ConvertOptions{MediaTypes: Docker, Compression: &zst}, layout.MediaTypeDockerLayerZstd, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Convert(t.Context(), src, index, newStore(t), tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Notes) != tt.notes {
				t.Errorf("Notes = %q, want %d", r.Notes, tt.notes)
			}
			made := transfer.Layout(collect(t, r))
			for i, was := range images(t, src, index) {
				is := images(t, made, r.Descriptor)[i]
				before, _ := manifest(t, src, was)
				after, _ := manifest(t, made, is)
				if after.Config.Digest != before.Config.Digest {
					t.Errorf("the config is %s, was %s", after.Config.Digest, before.Config.Digest)
				}
				for _, l := range after.Layers {
					if l.MediaType != tt.layer {
						t.Errorf("layer has media type %q, want %q", l.MediaType, tt.layer)
					}
				}
			}
			back, err := Convert(t.Context(), made, r.Descriptor, newStore(t), ConvertOptions{MediaTypes: OCI, Compression: &gz})
			if err != nil {
				t.Fatal(err)
			}
			collect(t, back)
			if tt.name != "docker" && tt.opts.MediaTypes == "" && back.Descriptor.Digest != index.Digest {
				t.Errorf("there and back is %s, was %s", back.Descriptor.Digest, index.Digest)
			}
			entries, _ := layout.Children(r.Descriptor, transfer.Fetch(t.Context(), made))
			if got := entries[2].Annotations[annotationAbout]; got != entries[0].Digest.String() {
				t.Errorf("the attestation is about %s, want %s", got, entries[0].Digest)
			}
		})
	}
}

// Where nothing changes, the digest stays, and no layer is read.
func TestConvertNothing(t *testing.T) {
	d := newStore(t)
	l := putLayer(t, d, gz, false, "a", "1")
	index := putIndex(t, d, false, putImage(t, d, "amd64", false, l))
	if err := d.Remove(l.Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []ConvertOptions{{}, {MediaTypes: OCI}, {Compression: &gz}, {MediaTypes: OCI, Compression: &gz}} {
		r, err := Convert(t.Context(), transfer.Layout(d), index, newStore(t), opts)
		if err != nil || r.Descriptor.Digest != index.Digest {
			t.Errorf("Convert(%+v) = %v, %v, want %s", opts, r, err, index.Digest)
		}
	}
	if _, err := Convert(t.Context(), transfer.Layout(d), index, newStore(t), ConvertOptions{Compression: &gz, Force: true}); err == nil {
		t.Error("Force reads no layer")
	}
}

// A layer that is not what the configuration says is not passed on.
func TestConvertVerifies(t *testing.T) {
	d := newStore(t)
	l := putLayer(t, d, gz, false, "a", "1")
	l.DiffID = digest.FromString("other")
	_, err := Convert(t.Context(), transfer.Layout(d), putImage(t, d, "amd64", false, l), newStore(t), ConvertOptions{Compression: &zst})
	if !errors.Is(err, layer.ErrInvalid) {
		t.Errorf("Convert = %v, want an ErrInvalid", err)
	}
}
