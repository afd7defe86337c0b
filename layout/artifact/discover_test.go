package artifact

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifest stores a manifest that is told from others by its artifact type.
func (m *memory) manifest(t *testing.T, artifactType string, subject *ocispec.Descriptor, names ...string) ocispec.Descriptor {
	t.Helper()
	return m.document(t, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       m.blob(t, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:       []ocispec.Descriptor{},
		Subject:      subject,
	}, names...)
}

// outline writes a tree as indented lines.
func outline(n *Node) string {
	var b bytes.Buffer
	var walk func(*Node, int)
	walk = func(n *Node, depth int) {
		fmt.Fprintf(&b, "%s%s %s", strings.Repeat("  ", depth), n.Kind, n.Desc.ArtifactType)
		if n.Missing {
			b.WriteString(" missing")
		}
		b.WriteString("\n")
		for _, c := range n.Children {
			walk(c, depth+1)
		}
	}
	walk(n, 0)
	return b.String()
}

// A tree holds the entries of an index, referrers of referrers, and what
// cosign's tags lead to.
func TestDiscover(t *testing.T) {
	m := newMemory()
	image := m.manifest(t, "image", nil)
	image.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	statement := m.manifest(t, "statement", nil)
	statement.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	index := m.document(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{image, statement},
	})
	sbom := m.manifest(t, "sbom", &image)
	m.manifest(t, "signature", &sbom)
	m.manifest(t, "scan", &index)
	m.manifest(t, "cosign", nil, strings.Replace(index.Digest.String(), ":", "-", 1)+".sig")

	root, err := Discover(t.Context(), m, index)
	if err != nil {
		t.Fatal(err)
	}
	want := `root 
  platform 
    referrer sbom
      referrer signature
  entry 
  referrer scan
  signature cosign
`
	if diff := cmp.Diff(want, outline(root)); diff != "" {
		t.Errorf("Discover (-want +got):\n%s", diff)
	}
	if got, want := outline(root.Referrers("")), "root \n  referrer scan\n  signature cosign\n"; got != want {
		t.Errorf("Referrers = %q, want %q", got, want)
	}

	root, err = Discover(t.Context(), m, image)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := outline(root.Referrers("signature")), "root \n  referrer sbom\n    referrer signature\n"; got != want {
		t.Errorf("Referrers(signature) = %q, want %q", got, want)
	}
	if got, want := outline(root.Referrers("scan")), "root \n"; got != want {
		t.Errorf("Referrers(scan) = %q, want %q", got, want)
	}
}

// What a registry claims is believed only as far as the documents say it too: a
// referrer has the subject, and no claim makes the walk endless.
func TestDiscoverHostile(t *testing.T) {
	m := newMemory()
	image := m.manifest(t, "image", nil)
	sbom := m.manifest(t, "sbom", &image)
	other := m.manifest(t, "other", &sbom)
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}
	m.claims[image.Digest] = []ocispec.Descriptor{other, gone}
	m.claims[sbom.Digest] = []ocispec.Descriptor{image, sbom}

	root, err := Discover(t.Context(), m, image)
	if err != nil {
		t.Fatal(err)
	}
	want := "root \n  referrer  missing\n  referrer sbom\n    referrer other\n"
	if diff := cmp.Diff(want, outline(root)); diff != "" {
		t.Errorf("Discover (-want +got):\n%s", diff)
	}

	for i := range maxTreeNodes + 1 {
		m.claims[other.Digest] = append(m.claims[other.Digest],
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
	}
	if _, err := Discover(t.Context(), m, image); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("Discover of %d claims: %v, want an error", maxTreeNodes+1, err)
	}
}
