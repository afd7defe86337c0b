package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner"
	"bk.build/bk/runner/ids"
)

// prepare collects the mounts. Those of parents come before those below them.
func (s *step) prepare(ctx context.Context) error {
	if s.jailed() {
		if err := s.lockCaches(ctx); err != nil {
			return err
		}
	}
	mounts := slices.Clone(s.op.Mounts)
	slices.SortStableFunc(mounts, func(a, b *pb.Mount) int {
		return strings.Compare(destination(s.op, a), destination(s.op, b))
	})
	for _, m := range mounts {
		var err error
		if m.Dest == pb.RootMount {
			err = s.prepareRoot(ctx, m)
		} else {
			err = s.prepareMount(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
	}
	return nil
}

func (s *step) input(m *pb.Mount) *Tree {
	if m.Input < 0 {
		return nil
	}
	return s.trees[m.Input]
}

func (s *step) prepareRoot(ctx context.Context, m *pb.Mount) (err error) {
	if m.MountType != pb.MountType_BIND {
		return errors.New("the root is not a bind mount")
	}
	t := s.input(m)
	if s.root, err = t.FS(ctx); err != nil {
		return err
	}
	s.readonly = m.Readonly
	s.rootTree, err = s.upper(ctx, m, t, s.root)
	return err
}

// upper returns a tree that the command can write to, an output if the mount
// asks for one.
func (s *step) upper(ctx context.Context, m *pb.Mount, t *Tree, view snapshot.FS) (runner.Tree, error) {
	if s.plain() {
		return s.plainUpper(ctx, m, t)
	}
	dir, err := s.n.b.tmp.path("layer")
	if err != nil {
		return runner.Tree{}, err
	}
	s.release = append(s.release, func() { os.RemoveAll(dir) })
	rt, err := t.writable(ctx, dir, s.n.b.layers.fs)
	if err != nil {
		return runner.Tree{}, err
	}
	if err := s.n.b.layers.likeRoot(rt.Upper, view); err != nil {
		return runner.Tree{}, err
	}
	if m.Output >= 0 {
		s.outs = append(s.outs, pending{index: m.Output, base: t, dir: dir})
	}
	return rt, nil
}

// likeRoot gives a new upper directory, which will be the root of the tree, the
// attributes of the root that it covers.
func (s *layers) likeRoot(dir string, view snapshot.FS) error {
	e, err := view.Lstat(".")
	if err != nil {
		return nil // an empty tree
	}
	if s.remembers {
		if err := ids.SetPath(dir, inodeOf(e)); err != nil {
			return err
		}
	} else if err := os.Lchown(dir, e.UID, e.GID); err != nil && os.Geteuid() == 0 {
		return err // the runner says what others lack
	}
	return os.Chmod(dir, fileMode(e)&^fs.ModeDir)
}

func (s *step) prepareMount(ctx context.Context, m *pb.Mount) error {
	switch m.MountType {
	case pb.MountType_BIND:
		return s.prepareBind(ctx, m)
	case pb.MountType_CACHE:
		return s.prepareCache(ctx, m)
	case pb.MountType_TMPFS:
		opts := []string{"nosuid"}
		if size := m.TmpfsOpt.GetSize(); size > 0 {
			opts = append(opts, fmt.Sprintf("size=%d", size))
		}
		s.add(m, false, specs.Mount{Type: "tmpfs", Source: "tmpfs", Options: opts})
	case pb.MountType_SECRET:
		return s.prepareSecret(m)
	case pb.MountType_SSH:
		return s.prepareSSH(m)
	default:
		return fmt.Errorf("type %s is not supported", m.MountType)
	}
	return nil
}

// add appends a mount; file says that its mount point is a file.
func (s *step) add(m *pb.Mount, file bool, sm specs.Mount) *mount {
	sm.Destination = destination(s.op, m)
	s.targets = append(s.targets, snapshot.Target{Path: sm.Destination, File: file})
	s.mounts = append(s.mounts, mount{Mount: sm})
	return &s.mounts[len(s.mounts)-1]
}

func (s *step) prepareBind(ctx context.Context, m *pb.Mount) error {
	t := s.input(m)
	view, err := t.FS(ctx)
	if err != nil {
		return err
	}
	at, err := snapshot.Resolve(view, relative(m.Selector), 0)
	if err != nil {
		return err
	}
	e, err := view.Lstat(at)
	if err != nil {
		return err
	}
	var rt runner.Tree
	opts := []string{"rbind"}
	switch readonly := m.Readonly && t != nil; {
	case readonly:
		rt, err = s.readable(ctx, t)
		opts = append(opts, "ro")
		if m.Output >= 0 {
			s.outs = append(s.outs, pending{index: m.Output, base: t})
		}
	case !s.jailed():
		rt, err = s.upper(ctx, m, t, view)
	case m.Output >= 0:
		err = errors.New("the isolation chroot has no mounts that are results of a step")
	}
	if err != nil {
		return err
	}
	mt := s.add(m, e.Type != layer.Directory, specs.Mount{Type: "bind", Source: "/" + at, Options: opts})
	mt.tree, mt.view, mt.at = &rt, view, at
	return nil
}

// readable returns a tree that the command can't write to.
func (s *step) readable(ctx context.Context, t *Tree) (runner.Tree, error) {
	switch {
	case s.jailed():
		return runner.Tree{}, nil // its files are copied
	case s.plain():
		w, err := s.takeTree(ctx, t)
		if err != nil {
			return runner.Tree{}, err
		}
		return runner.Tree{Upper: w.root()}, s.enterTree(w)
	}
	return t.readable(ctx)
}

func (s *step) prepareCache(ctx context.Context, m *pb.Mount) error {
	dir, locked := s.caches[m]
	if !locked {
		var release func()
		var err error
		if dir, release, err = s.n.b.cacheMount(ctx, m, s.input(m)); err != nil {
			return err
		}
		s.release = append(s.release, release)
	}
	opts := []string{"rbind"}
	if m.Readonly {
		opts = append(opts, "ro")
	}
	s.add(m, false, specs.Mount{Type: "bind", Source: dir, Options: opts}).host = dir
	if m.Output >= 0 {
		s.outs = append(s.outs, pending{index: m.Output, base: s.input(m)})
	}
	return nil
}

func (s *step) prepareSecret(m *pb.Mount) error {
	opt := m.SecretOpt
	if opt == nil || opt.ID == "" {
		return errors.New("secret without an id")
	}
	v, ok, err := s.n.b.secret(opt.ID)
	if err != nil {
		return err
	}
	if !ok {
		if opt.Optional {
			return nil
		}
		return missingSecret(opt.ID)
	}
	mt := s.add(m, true, specs.Mount{Type: "bind", Options: []string{"ro", "nosuid", "nodev", "noexec"}})
	mt.file = &runner.File{Content: v, Mode: opt.Mode & 0o777, UID: opt.Uid, GID: opt.Gid}
	return nil
}

func (s *step) prepareSSH(m *pb.Mount) error {
	opt := m.SSHOpt
	if opt == nil {
		return errors.New("ssh mount without options")
	}
	id := cmp.Or(opt.ID, "default")
	sock, release, err := s.n.b.sshSocket(id, s.tmp, opt)
	if err != nil {
		return err
	}
	if sock == "" {
		if opt.Optional {
			return nil
		}
		return fmt.Errorf("ssh agent %q: not found: give it with --ssh %[1]s=SOCKET|KEY", id)
	}
	s.release = append(s.release, release)
	s.add(m, true, specs.Mount{Type: "bind", Source: sock, Options: []string{"bind", "nosuid", "nodev", "noexec"}})
	return nil
}
