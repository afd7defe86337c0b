package layout

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verify counts a good layout and finds what is wrong in a bad one.
func TestVerify(t *testing.T) {
	d := newLayout(t)
	layer := putLayer(t, d, "f", "content")
	img := putImage(t, d, "linux", "amd64", layer)
	if err := d.SetRef("docker.io/library/app:v1", img); err != nil {
		t.Fatal(err)
	}
	stray := put(t, d, "text/plain", []byte("stray"))
	rep, err := d.Verify(t.Context(), 2, false)
	if err != nil || len(rep.Problems) != 0 || rep.Blobs != 4 || rep.Images != 1 || rep.Unused != 1 || rep.Bytes == 0 {
		t.Fatalf("Verify = %+v, %v", rep, err)
	}
	overwrite(t, d, stray.Digest, "strax")
	if err := d.Remove(layer.Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path(), "blobs/sha256/README"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	rep, err = d.Verify(t.Context(), 2, false)
	want := []string{"blobs/sha256/README: its name is not a digest", "docker.io/library/app:v1: blob " + layer.Descriptor.Digest.String(),
		stray.Digest.String() + ": blob"}
	if err != nil || len(rep.Problems) != len(want) {
		t.Fatalf("Verify = %v, %v", rep.Problems, err)
	}
	for i, p := range rep.Problems {
		if !strings.HasPrefix(p.String(), want[i]) {
			t.Errorf("problem %d: %s, want %q", i, p, want[i])
		}
	}
	if rep, err = d.Verify(t.Context(), 2, true); err != nil || len(rep.Problems) != 2 {
		t.Errorf("Verify with lazy layers = %v, %v", rep.Problems, err)
	}
	if !d.Has(stray.Digest) {
		t.Error("Verify removed a blob")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Verify(ctx, 1, true); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify after cancel: %v", err)
	}
}

// Validate accepts every kind of layer and finds each lie of an image.
func TestValidate(t *testing.T) {
	plain := tarOf(t, "f", "content")
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(plain, nil)
	config := func(v map[string]any) func(map[string]any) {
		return func(m map[string]any) {
			for k, e := range v {
				m[k] = e
			}
		}
	}
	for name, tt := range map[string]struct {
		layer     []byte
		mediaType string
		config    func(map[string]any)
		want      string
	}{
		"gzip":          {},
		"zstd":          {layer: packed, mediaType: ocispec.MediaTypeImageLayerZstd},
		"tar":           {layer: plain, mediaType: ocispec.MediaTypeImageLayer},
		"docker tar":    {layer: plain, mediaType: MediaTypeDockerLayer},
		"zstd as gzip":  {layer: packed, mediaType: ocispec.MediaTypeImageLayerGzip, want: "the layer is zstd"},
		"tar as gzip":   {layer: plain, mediaType: ocispec.MediaTypeImageLayerGzip, want: "the layer is uncompressed"},
		"not a tar":     {layer: []byte(strings.Repeat("x", 1024)), mediaType: ocispec.MediaTypeImageLayer, want: "invalid"},
		"truncated zip": {layer: packed[:len(packed)-3], mediaType: ocispec.MediaTypeImageLayerZstd, want: "EOF"},
		"other diffID":  {config: config(map[string]any{"rootfs": map[string]any{"type": "layers", "diff_ids": []string{someDigest}}}), want: "has diffID"},
		"no diffIDs":    {config: config(map[string]any{"rootfs": nil}), want: "0 diffIDs, the manifest 1 layers"},
		"history":       {config: config(map[string]any{"history": []any{map[string]any{}, map[string]any{}}}), want: "entries for 2 layers"},
		"no platform":   {config: config(map[string]any{"os": ""}), want: "no os"},
		"platform":      {config: config(map[string]any{"architecture": "arm64"}), want: "the index says platform linux/amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newLayout(t)
			l := putLayer(t, d, "f", "content")
			if tt.layer != nil {
				l.Descriptor = put(t, d, tt.mediaType, tt.layer)
			}
			img := putImage(t, d, "linux", "amd64", l)
			if tt.config != nil {
				img = withConfig(t, d, img, tt.config)
			}
			list, err := d.WriteIndex([]ocispec.Descriptor{img}, nil, false)
			if err != nil {
				t.Fatal(err)
			}
			err = Validate(t.Context(), d, list)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Validate: %v, want %q", err, tt.want)
			}
		})
	}
}

// withConfig stores img again with a changed configuration.
func withConfig(t *testing.T, d *Dir, img ocispec.Descriptor, change func(map[string]any)) ocispec.Descriptor {
	t.Helper()
	b, err := d.ReadBlob(img, MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseManifest(img.MediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = d.ReadBlob(m.Config, MaxConfig); err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	change(fields)
	m.Config = putJSON(t, d, m.Config.MediaType, fields)
	out := putJSON(t, d, m.MediaType, m)
	out.Platform = img.Platform
	return out
}

// Validate reports what is missing or corrupt, and stops with its context.
func TestValidateBlobs(t *testing.T) {
	d := newLayout(t)
	l := putLayer(t, d, "f", "content")
	img := putImage(t, d, "linux", "amd64", l)
	overwrite(t, d, l.Descriptor.Digest, strings.Repeat("x", int(l.Descriptor.Size)))
	if err := Validate(t.Context(), d, img); err == nil {
		t.Error("Validate of a corrupt layer = nil")
	}
	if err := d.Remove(l.Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	if err := Validate(t.Context(), d, img); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Validate of a missing layer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Validate(ctx, d, img); !errors.Is(err, context.Canceled) {
		t.Errorf("Validate after cancel: %v", err)
	}
	if err := Validate(t.Context(), d, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("none"), Size: 4}); err == nil {
		t.Error("Validate of nothing = nil")
	}
}
