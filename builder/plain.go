package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner"
	"bk.build/bk/runner/host"
)

// A step without overlayfs (Options.PlainCopy) works in a workTree. In the
// isolation chroot nothing can be mounted either: what other steps find mounted
// is put into the tree, and taken out of it again, whatever the step's end was.
//
//	bind      a copy of the files; what the step writes to it is lost
//	cache     the cache's own directory, moved there and back: one step at a time
//	tmpfs     an empty directory, of no limit
//	secret    a file on the store's file system, for the time of the step
//	ssh       the agent's socket
//
// The builder's process that is killed in between leaves all this in the store's
// tmp, which the next one sweeps; a cache that was there is lost.

// jailed reports whether the step has no mounts.
func (s *step) jailed() bool { return s.n.b.opts.Isolation == host.Chroot }

// plain reports whether the step's trees are directories of their own.
func (s *step) plain() bool { return s.n.b.opts.PlainCopy || s.jailed() }

// takeTree returns a tree of its own for the step.
func (s *step) takeTree(ctx context.Context, t *Tree) (*workTree, error) {
	w, err := s.n.b.workTree(ctx, t)
	if err != nil {
		return nil, err
	}
	s.release = append(s.release, func() { s.n.b.workTrees.put(w) })
	return w, nil
}

// plainUpper is upper for a step without overlayfs.
func (s *step) plainUpper(ctx context.Context, m *pb.Mount, t *Tree) (runner.Tree, error) {
	w, err := s.takeTree(ctx, t)
	if err != nil {
		return runner.Tree{}, err
	}
	w.spoiled = true // until its changes are a layer
	if m.Output >= 0 {
		s.outs = append(s.outs, pending{index: m.Output, base: t, work: w})
	}
	return runner.Tree{Upper: w.root()}, s.enterTree(w)
}

// enterTree prepares a tree for mount points, and to be left as it was found.
func (s *step) enterTree(w *workTree) error {
	p, err := newPlaces(w)
	if err != nil {
		return err
	}
	s.release = append(s.release, func() {
		if err := p.restore(); err != nil {
			w.spoiled = true
		}
	})
	if s.places == nil {
		s.places = map[string]*places{}
	}
	s.places[w.root()] = p
	return nil
}

// plainPoints makes the mount points that are missing in the trees of a step
// that has mounts.
func (s *step) plainPoints(t *runner.Tree, targets []snapshot.Target) error {
	p := s.places[t.Upper]
	for _, m := range targets {
		if err := p.point(m.Path, m.File); err != nil {
			return fmt.Errorf("mount point %s: %w", m.Path, err)
		}
	}
	return nil
}

// settle ends the preparation: what is done to the trees from now on are the
// step's changes.
func (s *step) settle() error {
	for _, p := range s.places {
		if err := p.settle(); err != nil {
			return err
		}
		p.w.index.Settle()
	}
	return nil
}

// commitPlain makes a layer of what the step did to a tree.
func (s *step) commitPlain(ctx context.Context, w *workTree, l *Layer) error {
	dir, err := s.n.b.tmp.mkdir("layer")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w.spoiled = false
	if err := w.writeLayer(ctx, filepath.Join(dir, l.s.fs)); err != nil {
		return err
	}
	if err := l.install(dir, l.s.fs); err != nil {
		return err
	}
	w.stack = append(w.stack, l.path(l.s.fs))
	return nil
}

// fill puts into the root what other steps find mounted.
func (s *step) fill(ctx context.Context) error {
	p := s.places[s.rootTree.Upper]
	mounts := append(s.systemMounts(), s.mounts...)
	slices.SortStableFunc(mounts, func(a, b mount) int { return strings.Compare(a.Destination, b.Destination) })
	for i := range mounts {
		m := &mounts[i]
		from, err := s.content(ctx, m)
		if err == nil {
			err = p.put(m.Destination, from, m.host != "")
		}
		if err != nil {
			return fmt.Errorf("put %s into the step's files: %w", m.Destination, err)
		}
	}
	return nil
}

// systemMounts are the file systems that every step has, as directories: of
// those only /dev has something in it.
func (s *step) systemMounts() []mount {
	var list []mount
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if !slices.ContainsFunc(s.mounts, func(m mount) bool { return m.Destination == p }) {
			list = append(list, mount{Mount: specs.Mount{Destination: p, Type: "system"}})
		}
	}
	return list
}

// content makes what a mount shows, beside the root.
func (s *step) content(ctx context.Context, m *mount) (string, error) {
	name := filepath.Join(s.tmp, "content-"+randomID())
	switch {
	case m.Destination == "/dev" && m.Type == "system" && !runner.Traced():
		complete, err := makeDevices(name)
		if err == nil && !complete {
			s.n.event.warn("no devices can be made here: /dev/null is an ordinary file for this step, and the others are missing")
		}
		return name, err
	case m.Type == "system" && runner.Traced():
		return name, os.Mkdir(name, 0o755) // which can be moved without privileges
	case m.Type == "system":
		return name, errors.Join(os.Mkdir(name, 0o755), os.Chmod(name, 0o555))
	case m.tree != nil:
		return name, s.copyMount(ctx, m, name)
	case m.file != nil:
		return name, writeFile(name, m.file.Content, os.FileMode(m.file.Mode), int(m.file.UID), int(m.file.GID))
	case m.host != "":
		return m.host, nil
	case m.Type == "tmpfs":
		return name, errors.Join(os.Mkdir(name, 0o700), os.Chmod(name, 0o777|os.ModeSticky))
	}
	st, err := os.Lstat(m.Source)
	if err != nil {
		return "", err
	}
	if st.Mode().Type() == fs.ModeSocket {
		return m.Source, nil
	}
	text, err := os.ReadFile(m.Source) // of addHostFiles
	if err != nil {
		return "", err
	}
	return name, writeFile(name, text, 0o644, 0, 0)
}

// copyMount copies what a bind mount shows of a tree.
func (s *step) copyMount(ctx context.Context, m *mount, name string) error {
	entries := snapshot.Walk(m.view, m.at)
	e, err := m.view.Lstat(m.at)
	if err != nil {
		return err
	}
	if e.Type == layer.Directory {
		_, err = layer.Apply(ctx, below(entries, m.at), name, layer.ApplyOptions{Merged: true})
		return err
	}
	dir := name + ".d"
	file := *e
	file.Path = "file"
	if _, err := layer.Apply(ctx, stream([]*layer.Entry{&file}), dir, layer.ApplyOptions{Merged: true}); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, "file"), name)
}

// lockCaches takes the caches that the step moves into its root, in one order
// for all steps, so that none waits for another that waits for it.
func (s *step) lockCaches(ctx context.Context) error {
	var list []*pb.Mount
	for _, m := range s.op.Mounts {
		if m.MountType == pb.MountType_CACHE && m.Dest != pb.RootMount {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b *pb.Mount) int {
		return cmp.Or(strings.Compare(a.CacheOpt.GetID(), b.CacheOpt.GetID()), strings.Compare(a.Selector, b.Selector))
	})
	s.caches = map[*pb.Mount]string{}
	for i, m := range list {
		if i > 0 && m.CacheOpt.GetID() == list[i-1].CacheOpt.GetID() && m.Selector == list[i-1].Selector && m.Input == list[i-1].Input {
			return fmt.Errorf("mount %s: the cache %q is mounted on %s too: in the isolation chroot a cache can be in one place only", m.Dest, m.CacheOpt.GetID(), list[i-1].Dest)
		}
		alone := m.CloneVT()
		if alone.CacheOpt.GetSharing() == pb.CacheSharingOpt_SHARED {
			alone.CacheOpt = &pb.CacheOpt{ID: m.CacheOpt.GetID(), Sharing: pb.CacheSharingOpt_LOCKED}
		}
		dir, release, err := s.n.b.cacheMount(ctx, alone, s.input(m))
		if err != nil {
			return err
		}
		s.release = append(s.release, release)
		s.caches[m] = dir
	}
	return nil
}

// writeFile makes a file.
func writeFile(name string, text []byte, mode os.FileMode, uid, gid int) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if uid != os.Geteuid() || gid != os.Getegid() {
		errOwner := f.Chown(uid, gid)
		if errors.Is(errOwner, fs.ErrPermission) && uid|gid == 0 {
			errOwner = nil // the step takes this process's user for root
		}
		err = errors.Join(err, errOwner)
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}
