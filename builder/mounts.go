package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// maxSecret bounds a secret's size, as BuildKit does.
const maxSecret = 500 << 10

// secret returns the bytes of a secret; ok is false when none was given.
func (b *build) secret(id string) (value []byte, ok bool, err error) {
	s, ok := b.opts.Secrets[id]
	if !ok {
		return nil, false, nil
	}
	if s.Env != "" {
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, false, fmt.Errorf("secret %s: environment variable %s is not set", id, s.Env)
		}
		return []byte(v), true, nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return nil, false, fmt.Errorf("secret %s: %w", id, err)
	}
	defer f.Close()
	dt, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, false, fmt.Errorf("secret %s: %w", id, err)
	}
	if len(dt) > maxSecret {
		return nil, false, fmt.Errorf("secret %s: larger than %d bytes", id, maxSecret)
	}
	return dt, true, nil
}

// cacheMount returns the directory of a RUN --mount=type=cache and what
// releases it. The directory belongs to the id and to what it starts from.
func (b *build) cacheMount(ctx context.Context, m *pb.Mount, from *Tree) (dir string, release func(), err error) {
	ids, err := from.ids(ctx)
	if err != nil {
		return "", nil, err
	}
	root := filepath.Join(b.opts.Root, "mounts")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", nil, err
	}
	name := []string{m.CacheOpt.GetID(), m.Selector}
	if b.layers.fs != "fs" { // of other owners on disk
		name = append(name, b.layers.fs)
	}
	base := filepath.Join(root, shortHash(append(name, ids...)...))
	for i := 0; ; i++ {
		dir := base
		if i > 0 {
			dir = fmt.Sprintf("%s-%d", base, i)
		}
		lock, err := lockMount(ctx, dir, m.CacheOpt.GetSharing())
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			return "", nil, fmt.Errorf("cache mount %s: %w", m.Dest, err)
		}
		if err := b.fillMount(ctx, dir, m.Selector, from); err != nil {
			lock.Close()
			return "", nil, fmt.Errorf("cache mount %s: %w", m.Dest, err)
		}
		return dir, func() { lock.Close() }, nil
	}
}

var errBusy = errors.New("in use")

// lockMount takes a cache mount's lock as its sharing mode asks for: shared
// mounts don't exclude each other, locked ones wait, private ones look for a
// free directory.
func lockMount(ctx context.Context, dir string, sharing pb.CacheSharingOpt) (*os.File, error) {
	f, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch sharing {
	case pb.CacheSharingOpt_SHARED:
		err = lockFile(f, false, true)
	case pb.CacheSharingOpt_LOCKED:
		err = waitLock(ctx, f)
	case pb.CacheSharingOpt_PRIVATE:
		if lockFile(f, true, false) != nil {
			err = errBusy
		}
	default:
		err = fmt.Errorf("sharing mode %d is not known", sharing)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// waitLock takes an exclusive lock, unless the context ends first.
func waitLock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for lockFile(f, true, false) != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// fillMount gives a new cache mount its first content.
func (b *build) fillMount(ctx context.Context, dir, selector string, from *Tree) error {
	if st, err := os.Stat(dir); err == nil {
		cache.Touch(dir, st.ModTime())
		return nil
	}
	tmp, err := b.tmp.path("mount")
	if err != nil {
		return err
	}
	if from == nil {
		if err := os.Mkdir(tmp, 0o755); err != nil {
			return err
		}
	} else if err := b.copyTree(ctx, from, selector, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !exists(dir) {
		return err
	}
	return nil
}

// copyTree writes a directory of a tree, with its attributes, as dir.
func (b *build) copyTree(ctx context.Context, t *Tree, selector, dir string) error {
	fs, err := t.FS(ctx)
	if err != nil {
		return err
	}
	root, err := snapshot.Resolve(fs, relative(selector), 0)
	if err != nil {
		return err
	}
	opts, _ := b.layers.applying()
	_, err = layer.Apply(ctx, below(snapshot.Walk(fs, root), root), dir, opts)
	return err
}

// below renames the entries of a directory's walk as if the directory were the
// root.
func below(entries layer.Entries, root string) layer.Entries {
	if root == "." {
		return entries
	}
	rename := func(p string) string {
		if p == root {
			return "."
		}
		return strings.TrimPrefix(p, root+"/")
	}
	return func(yield func(*layer.Entry, error) bool) {
		for e, err := range entries {
			if err == nil {
				c := *e
				c.Path = rename(e.Path)
				if e.Type == layer.Hardlink {
					c.Link = rename(e.Link)
				}
				e = &c
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// sshSocket serves an agent on a fresh socket for one step.
func (b *build) sshSocket(id string, dir string, opt *pb.SSHOpt) (path string, release func(), err error) {
	a, ok := b.opts.SSH[id]
	if !ok {
		return "", nil, nil
	}
	path = filepath.Join(dir, "agent")
	ln, err := listenIn(dir, "agent")
	if err != nil {
		return "", nil, fmt.Errorf("ssh agent %s: %w", id, err)
	}
	serve, err := a.server()
	if err == nil {
		err = errors.Join(os.Chmod(path, os.FileMode(opt.Mode&0o777)), os.Chown(path, int(opt.Uid), int(opt.Gid)))
	}
	if err != nil {
		ln.Close()
		return "", nil, fmt.Errorf("ssh agent %s: %w", id, err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return path, func() { ln.Close() }, nil
}

// listenIn listens on a socket in a directory whose path may be longer than
// socket addresses are.
func listenIn(dir, name string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	ln, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // by then the number is another file's
	return ln, nil
}

// server returns what answers one connection.
func (a SSHAgent) server() (func(net.Conn), error) {
	if len(a.Keys) == 0 {
		return func(c net.Conn) {
			up, err := net.Dial("unix", a.Socket)
			if err != nil {
				return
			}
			defer up.Close()
			go func() {
				_, _ = io.Copy(up, c)
				up.Close()
			}()
			_, _ = io.Copy(c, up)
		}, nil
	}
	ring := agent.NewKeyring()
	for _, name := range a.Keys {
		dt, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		key, err := ssh.ParseRawPrivateKey(dt)
		if err != nil {
			return nil, fmt.Errorf("parse key %s: %w", name, err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
	}
	return func(c net.Conn) { _ = agent.ServeAgent(readOnly{ring}, c) }, nil
}

// readOnly is a key ring that steps can use but not change.
type readOnly struct{ agent.Agent }

var errReadOnly = errors.New("the agent is read-only")

func (readOnly) Add(agent.AddedKey) error   { return errReadOnly }
func (readOnly) Remove(ssh.PublicKey) error { return errReadOnly }
func (readOnly) RemoveAll() error           { return errReadOnly }
func (readOnly) Lock([]byte) error          { return errReadOnly }
