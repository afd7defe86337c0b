package images

import (
	"maps"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

func newDir(t *testing.T) *layout.Dir {
	t.Helper()
	d, err := layout.Create(t.TempDir() + "/layout")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The images are valid and the same each time; tests that compare digests depend on it.
func TestWrite(t *testing.T) {
	var made [2]map[string]ocispec.Descriptor
	for i := range made {
		d := newDir(t)
		var err error
		if made[i], err = Write(d); err != nil {
			t.Fatal(err)
		}
		for name, desc := range made[i] {
			got, err := d.Resolve(name)
			if err != nil || got.Digest != desc.Digest {
				t.Errorf("%s leads to %s, %v; want %s", name, got.Digest, err, desc.Digest)
			}
			if err := layout.Validate(t.Context(), d, desc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if got, want := slices.Sorted(maps.Keys(made[0])), slices.Sorted(slices.Values(Names)); !slices.Equal(got, want) {
		t.Errorf("images %v, want %v", got, want)
	}
	for name, desc := range made[0] {
		if desc.Digest != made[1][name].Digest {
			t.Errorf("%s has digests %s and %s", name, desc.Digest, made[1][name].Digest)
		}
	}
}

// A large image has layers of the sizes that were asked for.
func TestLarge(t *testing.T) {
	d := newDir(t)
	desc, err := Large(d, "large", 5_000_192, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), d, desc); err != nil {
		t.Error(err)
	}
	parts, err := layout.Children(desc, d.ReadBlob)
	if err != nil || len(parts) != 3 || parts[1].Size != 5_000_192 || parts[2].Size != 4096 {
		t.Errorf("parts %v, %v", parts, err)
	}
}
