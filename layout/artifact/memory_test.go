package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// memory is a place in memory: a Reader, a Writer and a Lister that knows
// referrers by their subjects.
type memory struct {
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	refs      map[string]ocispec.Descriptor
	manifests []ocispec.Descriptor
	// claims are referrers that it makes up.
	claims map[digest.Digest][]ocispec.Descriptor
}

func newMemory() *memory {
	return &memory{blobs: map[digest.Digest][]byte{}, refs: map[string]ocispec.Descriptor{}, claims: map[digest.Digest][]ocispec.Descriptor{}}
}

func (m *memory) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if desc, ok := m.refs[ref]; ok {
		return desc, nil
	}
	for _, desc := range m.manifests {
		if desc.Digest.String() == ref {
			return desc, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("%q: %w", ref, fs.ErrNotExist)
}

func (m *memory) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[desc.Digest]
	if !ok || int64(len(b)) != desc.Size {
		return nil, fmt.Errorf("%s: %w", desc.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.blobs[desc.Digest]
	return ok, nil
}

func (m *memory) PutBlob(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if got := digest.FromBytes(b); got != desc.Digest {
		return fmt.Errorf("got %s, want %s", got, desc.Digest)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[desc.Digest] = b
	return nil
}

func (m *memory) PutManifest(_ context.Context, desc ocispec.Descriptor, b []byte, names ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[desc.Digest] = b
	m.manifests = append(m.manifests, desc)
	for _, name := range names {
		m.refs[name] = desc
	}
	return nil
}

func (m *memory) Referrers(_ context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.Clone(m.claims[subject])
	for _, desc := range m.manifests {
		h, err := parseHead(desc.MediaType, m.blobs[desc.Digest])
		if err == nil && h.subject != nil && h.subject.Digest == subject {
			list = append(list, desc)
		}
	}
	return list, nil
}

func (m *memory) Tags(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.refs)), nil
}

// blob stores bytes.
func (m *memory) blob(t *testing.T, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := m.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return desc
}

// document stores a manifest or an index.
func (m *memory) document(t *testing.T, v any, names ...string) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := layout.DetectMediaType(b)
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := m.PutManifest(t.Context(), desc, b, names...); err != nil {
		t.Fatal(err)
	}
	return desc
}
