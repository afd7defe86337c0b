package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// Kind says how a document came to be in a tree.
type Kind string

// Kinds of nodes.
const (
	KindRoot        Kind = "root"
	KindPlatform    Kind = "platform"    // an image of the index above
	KindEntry       Kind = "entry"       // another entry of the index above: an attestation of BuildKit's
	KindReferrer    Kind = "referrer"    // its subject is the document above
	KindSignature   Kind = "signature"   // tagged sha256-HEX.sig (cosign)
	KindAttestation Kind = "attestation" // tagged sha256-HEX.att (cosign)
	KindSBOM        Kind = "sbom"        // tagged sha256-HEX.sbom (cosign)
)

// cosignTags are the suffixes of cosign's tags for a digest.
var cosignTags = []struct {
	suffix string
	kind   Kind
}{{".sig", KindSignature}, {".att", KindAttestation}, {".sbom", KindSBOM}}

// Bounds on a tree: a registry may say anything.
const (
	maxTreeDepth = 16
	maxTreeNodes = 10_000
	lookups      = 8 // documents that are asked about at once
)

// Node is a document and what belongs to it.
type Node struct {
	// Desc has artifactType and annotations as the document itself says them.
	Desc ocispec.Descriptor
	Kind Kind
	// Tag is cosign's tag that leads to the document, if one does.
	Tag      string
	Children []*Node
	// Missing says that something names the document and it is not there.
	Missing bool
}

// Discover returns the tree below desc: the entries of an index, and of every
// document what refers to it, by subject (as a Lister knows it) and by cosign's
// tags. A document that is in the tree already is not followed a second time.
// That desc itself has no referrers, or that r is no Lister, is no error.
func Discover(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor) (*Node, error) {
	root := &Node{Desc: desc, Kind: KindRoot}
	d := discovery{r: r, seen: map[digest.Digest]bool{desc.Digest: true}, nodes: 1}
	level := []*Node{root}
	for depth := 0; len(level) > 0 && depth < maxTreeDepth; depth++ {
		next, err := d.expand(ctx, level)
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", desc.Digest, err)
		}
		level = next
	}
	return root, nil
}

type discovery struct {
	r     transfer.Reader
	mu    sync.Mutex
	seen  map[digest.Digest]bool
	nodes int
}

// expand fills in the children of a level and returns those to go on with.
func (d *discovery) expand(ctx context.Context, level []*Node) ([]*Node, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lookups)
	for _, n := range level {
		g.Go(func() error {
			if err := d.fill(gctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.Desc.Digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var next []*Node
	for _, n := range level { // in order, so that of two the same one is followed every time
		for _, c := range n.Children {
			if !d.seen[c.Desc.Digest] && !c.Missing {
				d.seen[c.Desc.Digest] = true
				next = append(next, c)
			}
		}
	}
	return next, nil
}

// fill looks up the children of one node.
func (d *discovery) fill(ctx context.Context, n *Node) error {
	if layout.IsIndex(n.Desc.MediaType) {
		if err := d.entries(ctx, n); err != nil {
			return err
		}
	}
	if l, ok := d.r.(transfer.Lister); ok {
		if err := d.referrers(ctx, l, n); err != nil {
			return err
		}
	}
	for _, t := range cosignTags {
		tag := strings.Replace(n.Desc.Digest.String(), ":", "-", 1) + t.suffix
		desc, err := d.r.Resolve(ctx, tag)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		child := &Node{Desc: desc, Kind: t.kind, Tag: tag}
		if err := d.add(ctx, n, child, false); err != nil {
			return err
		}
	}
	return nil
}

// entries adds what an index names.
func (d *discovery) entries(ctx context.Context, n *Node) error {
	b, err := transfer.ReadDocument(ctx, d.r, n.Desc, layout.MaxManifest)
	if err != nil {
		return err
	}
	index, err := layout.ParseIndex(n.Desc.MediaType, b)
	if err != nil {
		return err
	}
	for _, m := range index.Manifests {
		if !layout.IsManifest(m.MediaType) && !layout.IsIndex(m.MediaType) {
			continue
		}
		kind := KindPlatform
		if layout.IsAttestation(m) {
			kind = KindEntry
		}
		if err := d.count(); err != nil {
			return err
		}
		n.Children = append(n.Children, &Node{Desc: m, Kind: kind})
	}
	return nil
}

// referrers adds what has n as subject.
func (d *discovery) referrers(ctx context.Context, l transfer.Lister, n *Node) error {
	list, err := l.Referrers(ctx, n.Desc.Digest)
	if err != nil {
		return err
	}
	listed := map[digest.Digest]bool{}
	for _, desc := range list {
		if listed[desc.Digest] || !layout.IsManifest(desc.MediaType) && !layout.IsIndex(desc.MediaType) {
			continue
		}
		listed[desc.Digest] = true
		if err := d.add(ctx, n, &Node{Desc: desc, Kind: KindReferrer}, true); err != nil {
			return err
		}
	}
	return nil
}

// add reads a document, whose own word counts and not that of a list, and adds
// it below n. A referrer that has another subject is left out.
func (d *discovery) add(ctx context.Context, n, child *Node, subject bool) error {
	if err := d.count(); err != nil {
		return err
	}
	b, err := transfer.ReadDocument(ctx, d.r, child.Desc, layout.MaxManifest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		child.Missing = true
		n.Children = append(n.Children, child)
		return nil
	case err != nil:
		return err
	}
	h, err := parseHead(child.Desc.MediaType, b)
	if err != nil {
		return fmt.Errorf("%s: %w", child.Desc.Digest, err)
	}
	if subject && (h.subject == nil || h.subject.Digest != n.Desc.Digest) {
		return nil
	}
	child.Desc.ArtifactType, child.Desc.Annotations = h.artifactType, h.annotations
	n.Children = append(n.Children, child)
	return nil
}

func (d *discovery) count() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes++; d.nodes > maxTreeNodes {
		return fmt.Errorf("more than %d documents refer to each other", maxTreeNodes)
	}
	return nil
}

// head is what manifests and indexes say about themselves.
type head struct {
	artifactType string
	subject      *ocispec.Descriptor
	annotations  map[string]string
}

// parseHead parses a manifest or an index. An artifact without artifactType has
// that of its config (distribution-spec, "Listing Referrers").
func parseHead(mediaType string, b []byte) (head, error) {
	if layout.IsIndex(mediaType) {
		index, err := layout.ParseIndex(mediaType, b)
		return head{index.ArtifactType, index.Subject, index.Annotations}, err
	}
	m, err := layout.ParseManifest(mediaType, b)
	h := head{m.ArtifactType, m.Subject, m.Annotations}
	if h.artifactType == "" {
		h.artifactType = m.Config.MediaType
	}
	return h, err
}

// Referrers returns the tree without the entries of indexes: what refers to the
// root, and to that. With an artifact type, only what is of it is left, and what
// leads there.
func (n *Node) Referrers(artifactType string) *Node {
	kept := *n
	kept.Children = nil
	for _, c := range n.Children {
		if c.Kind == KindPlatform || c.Kind == KindEntry {
			continue
		}
		c = c.Referrers(artifactType)
		if artifactType == "" || c.Desc.ArtifactType == artifactType || len(c.Children) > 0 {
			kept.Children = append(kept.Children, c)
		}
	}
	return &kept
}
