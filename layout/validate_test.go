package layout

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// noted is an Opener that notes what is read.
type noted struct {
	dirOpener
	mu     sync.Mutex
	opened []string // media types
}

func (n *noted) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	n.mu.Lock()
	n.opened = append(n.opened, desc.MediaType)
	n.mu.Unlock()
	return n.dirOpener.Open(ctx, desc)
}

func (n *noted) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	return n.HasDescriptor(desc), nil
}

// Check goes on after what is wrong: one run tells everything.
func TestCheckTellsAll(t *testing.T) {
	d := newLayout(t)
	a, b := putLayer(t, d, "a", "1"), putLayer(t, d, "b", "2")
	good, bad, lost := putImage(t, d, "linux", "amd64", a), putImage(t, d, "linux", "arm64", b), putImage(t, d, "linux", "s390x", a)
	list, err := d.WriteIndex([]ocispec.Descriptor{good, bad, lost}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, d, b.Descriptor.Digest, strings.Repeat("x", int(b.Descriptor.Size)))
	if err := d.Remove(lost.Digest); err != nil {
		t.Fatal(err)
	}
	c, err := Check(t.Context(), dirOpener{d}, list, CheckOptions{Jobs: 1})
	if err != nil {
		t.Fatal(err)
	}
	var where []string
	for _, p := range c.Problems {
		where = append(where, p.Where)
	}
	if want := []string{b.Descriptor.Digest.String(), lost.Digest.String()}; !slices.Equal(where, want) {
		t.Errorf("problems at %v, want %v: %v", where, want, c.Err())
	}
	if c.Documents != 4 || c.Blobs != 4 || !errors.Is(c.Err(), fs.ErrNotExist) {
		t.Errorf("Check = %+v", c)
	}
}

// A fast check reads documents and configurations, and notices a layer that is
// not there.
func TestCheckFast(t *testing.T) {
	d := newLayout(t)
	l := putLayer(t, d, "a", "1")
	img := putImage(t, d, "linux", "amd64", l)
	overwrite(t, d, l.Descriptor.Digest, strings.Repeat("x", int(l.Descriptor.Size)))
	n := &noted{dirOpener: dirOpener{d}}
	c, err := Check(t.Context(), n, img, CheckOptions{Fast: true})
	if err != nil || c.Err() != nil {
		t.Errorf("Check = %v, %v", err, c.Err())
	}
	if slices.Contains(n.opened, l.Descriptor.MediaType) {
		t.Errorf("the layer was read: %v", n.opened)
	}
	if err := d.Remove(l.Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	for _, src := range []Opener{n, dirOpener{d}} {
		if c, err = Check(t.Context(), src, img, CheckOptions{Fast: true}); err != nil || !errors.Is(c.Err(), fs.ErrNotExist) {
			t.Errorf("Check without the layer = %v, %v", err, c.Err())
		}
	}
}

// A layer that is not distributed need not be there.
func TestCheckElsewhere(t *testing.T) {
	d := newLayout(t)
	l := putLayer(t, d, "a", "1")
	l.Descriptor.MediaType = mediaTypeNondistributableGz
	l.Descriptor.URLs = []string{"https://example.com/layer"}
	img := putImage(t, d, "linux", "amd64", l)
	for _, want := range []int{0, 1} {
		c, err := Check(t.Context(), dirOpener{d}, img, CheckOptions{})
		if err != nil || c.Err() != nil || c.Elsewhere != want {
			t.Errorf("Check = %+v, %v, want %d elsewhere", c, err, want)
		}
		if err := d.Remove(l.Descriptor.Digest); err != nil {
			t.Fatal(err)
		}
	}
}
