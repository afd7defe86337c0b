package builder

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner"
)

// addStubs makes the mount points that are missing, in layers of their own on
// top of the trees that they are in, so that they are never part of an output.
func (s *step) addStubs(ctx context.Context) error {
	inside := make([][]snapshot.Target, len(s.mounts)+1) // the last is the root's
	for _, t := range s.targets {
		i := s.owner(t.Path)
		inside[i] = append(inside[i], t)
	}
	for i := range s.mounts {
		if err := s.stubMount(ctx, &s.mounts[i], inside[i]); err != nil {
			return err
		}
	}
	return s.stub(ctx, &s.rootTree, s.root, inside[len(s.mounts)])
}

// owner returns the index of the mount that a mount point lies in, which is the
// number of mounts for the root.
func (s *step) owner(target string) int {
	best, at := len(s.mounts), ""
	for i, m := range s.mounts {
		if d := m.Destination; d != target && strings.HasPrefix(target, strings.TrimSuffix(d, "/")+"/") && len(d) > len(at) {
			best, at = i, d
		}
	}
	return best
}

func (s *step) stubMount(ctx context.Context, m *mount, targets []snapshot.Target) error {
	if len(targets) == 0 {
		return nil
	}
	for i := range targets {
		rel := strings.TrimPrefix(targets[i].Path, m.Destination)
		targets[i].Path = path.Join("/", m.at, rel)
	}
	switch {
	case m.tree != nil:
		return s.stub(ctx, m.tree, m.view, targets)
	case m.host != "":
		return stubHost(m.host, targets)
	}
	return nil // a fresh file system: the runner makes them
}

// stub puts a layer with the missing mount points on top of a tree.
func (s *step) stub(ctx context.Context, t *runner.Tree, view snapshot.FS, targets []snapshot.Target) error {
	if s.plain() {
		return s.plainPoints(t, targets)
	}
	entries, err := collect(snapshot.Stubs(view, targets))
	if err != nil {
		return err
	}
	// The root's attributes are those of the layer above this one.
	entries = slices.DeleteFunc(entries, func(e *layer.Entry) bool { return e.Path == "." })
	if len(entries) == 0 {
		return nil
	}
	dir, err := s.n.b.stubLayer(ctx, entries)
	if err != nil {
		return err
	}
	t.Lower = append([]string{dir}, t.Lower...)
	return nil
}

// stubLayer makes a layer of mount points; steps that lack the same ones share
// it.
func (b *build) stubLayer(ctx context.Context, entries []*layer.Entry) (string, error) {
	parts := make([]string, len(entries))
	for i, e := range entries {
		parts[i] = fmt.Sprint(e.Path, e.Type, e.Mode, e.UID, e.GID, e.ModTime.UnixNano(), e.Xattrs)
	}
	name := shortHash(parts...)
	return b.stubs.do(name, func() (string, error) {
		dir, err := b.tmp.path("stubs")
		if err != nil {
			return "", err
		}
		opts, _ := b.layers.applying()
		_, err = layer.Apply(ctx, stream(entries), dir, opts)
		return dir, err
	})
}

// stubHost makes mount points in a directory that steps share.
func stubHost(dir string, targets []snapshot.Target) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, t := range targets {
		p := relative(t.Path)
		if _, err := root.Stat(p); err == nil {
			continue
		}
		d := p
		if t.File {
			d = path.Dir(p)
		}
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if t.File {
			f, err := root.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			f.Close()
		}
	}
	return nil
}
