package builder

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/builder/source"
)

// sourceOp is a tree that comes from outside of the build.
type sourceOp struct{ op *pb.SourceOp }

// Kinds of sources, by the scheme of their identifier.
const (
	kindImage  = "docker-image"
	kindLayout = "oci-layout"
	kindLocal  = "local"
)

func (o sourceOp) scheme() (kind, rest string) {
	kind, rest, _ = strings.Cut(o.op.Identifier, "://")
	return kind, rest
}

func (o sourceOp) key(n *node, h cache.Hasher) error {
	switch kind, rest := o.scheme(); kind {
	case kindImage, kindLayout:
		img, err := o.image(n)
		if err != nil {
			return err
		}
		for _, l := range img.layers {
			h.String(l.blob.DiffID.String())
			n.b.layers.image(l)
		}
		n.note("image "+rest, img.top.String())
	case kindLocal:
		t, err := o.local(n, rest)
		if err != nil {
			return err
		}
		if err := t.scan(n.b.ctx, "."); err != nil {
			return err
		}
		dgst, err := digested(snapshot.PathDigest(n.b.ctx, t.local, ".", true))
		if err != nil {
			return err
		}
		h.String(dgst)
		n.note("directory "+rest, dgst)
	default:
		return fmt.Errorf("sources of type %s:// are not supported", kind)
	}
	return nil
}

func (o sourceOp) run(n *node) ([]*Tree, bool, error) {
	kind, rest := o.scheme()
	if kind == kindLocal {
		t, err := o.local(n, rest)
		return []*Tree{t}, false, err
	}
	img, err := o.image(n)
	if err != nil {
		return nil, false, err
	}
	list := make([]*Layer, len(img.layers))
	for i, l := range img.layers {
		list[i] = n.b.layers.image(l)
		list[i].keep = list[i].keep || n.exported
		list[i].event = n.event
	}
	n.event.cachedOr(allStored(list))
	return []*Tree{layersTree(list)}, false, nil
}

func allStored(list []*Layer) bool {
	for _, l := range list {
		if !l.stored() {
			return false
		}
	}
	return true
}

func (o sourceOp) image(n *node) (*image, error) {
	kind, ref := o.scheme()
	return n.b.image(kind, ref, o.op.Attrs[pb.AttrOCILayoutStoreID], o.op.Attrs[pb.AttrImageResolveMode], platformOf(n.v.Op))
}

func platformOf(op *pb.Op) *ocispecs.Platform {
	if op.Platform == nil {
		return nil
	}
	p := op.Platform.Spec()
	return &p
}

// local opens a directory as the frontend asked for it. What is read of it,
// and when, is up to those who use the tree.
func (o sourceOp) local(n *node, name string) (*Tree, error) {
	return n.local.do(func() (*Tree, error) {
		t, err := n.b.openLocal(name, o.op.Attrs)
		if err != nil {
			return nil, err
		}
		n.event.start()
		n.event.done(nil)
		return t, nil
	})
}

func (b *build) openLocal(name string, attrs map[string]string) (*Tree, error) {
	dir, ok := b.opts.Locals[name]
	if !ok {
		return nil, fmt.Errorf("no directory was given for %q", name)
	}
	opts := source.LocalOptions{Index: filepath.Join(b.opts.Root, "files")}
	for key, into := range map[string]*[]string{
		pb.AttrIncludePatterns: &opts.Include,
		pb.AttrExcludePatterns: &opts.Exclude,
		pb.AttrFollowPaths:     &opts.FollowPaths,
	} {
		if v := attrs[key]; v != "" {
			if err := json.Unmarshal([]byte(v), into); err != nil {
				return nil, fmt.Errorf("%s of local://%s: %w", key, name, err)
			}
		}
	}
	l, err := source.OpenLocal(dir, opts)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.locals = append(b.locals, l)
	b.mu.Unlock()
	return &Tree{local: l, s: b.layers}, nil
}
