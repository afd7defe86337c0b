package builder

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// execOp runs a command in a container.
type execOp struct{ op *pb.ExecOp }

func (o execOp) key(n *node, h cache.Hasher) error {
	dt, err := o.canonical().MarshalVT()
	if err != nil {
		return err
	}
	h.Bytes(dt)
	h.String(platforms.FormatAll(wanted(platformOf(n.v.Op))))
	o.noteMeta(n)
	// Keys of trees and digests of contents come side by side: a digest may
	// need its step to run.
	edges := make([]func() (string, error), len(o.op.Mounts))
	for i, m := range o.op.Mounts {
		edges[i] = func() (string, error) { return o.mountKey(n, m) }
	}
	parts, err := side(edges)
	if err != nil {
		return err
	}
	for i, p := range parts {
		h.String(p)
		if p != "" {
			n.note("mount "+o.op.Mounts[i].Dest, p)
		}
	}
	return nil
}

// side calls functions side by side and returns their values in order.
func side[T any](calls []func() (T, error)) ([]T, error) {
	vals := make([]T, len(calls))
	errs := make([]error, len(calls))
	done := make(chan struct{})
	for i, call := range calls {
		go func() {
			vals[i], errs[i] = call()
			done <- struct{}{}
		}()
	}
	for range calls {
		<-done
	}
	return vals, firstError(errs)
}

// canonical is the operation without what does not influence its result.
func (o execOp) canonical() *pb.ExecOp {
	op := o.op.CloneVT()
	op.Meta.ProxyEnv, op.Meta.CgroupParent = nil, ""
	for _, m := range op.Mounts {
		m.Input = min(m.Input, 0) // identified by content or key, not by position
		if m.CacheOpt != nil {
			m.CacheOpt.ID, m.CacheOpt.Sharing = "", 0
		}
	}
	return op
}

// noteMeta remembers what of the command may change between builds.
func (o execOp) noteMeta(n *node) {
	n.note("command", strings.Join(o.op.Meta.Args, " "))
	for _, e := range o.op.Meta.Env {
		k, v, _ := strings.Cut(e, "=")
		n.note("env "+k, v)
	}
}

// byContent reports whether a mount's input is identified by what the step can
// see of it, rather than by where it comes from. That is sound for everything
// that is not an output.
func byContent(m *pb.Mount) bool {
	return m.Dest != pb.RootMount && (m.Output < 0 || m.Readonly) && m.ContentCache != pb.MountContentCache_OFF
}

func (o execOp) mountKey(n *node, m *pb.Mount) (string, error) {
	if m.MountType != pb.MountType_BIND && m.MountType != pb.MountType_CACHE || m.Input < 0 {
		return "", nil
	}
	if m.MountType == pb.MountType_BIND && byContent(m) {
		sel := relative(m.Selector)
		return n.contentKey(m.Input, "mount", []byte(sel), sel, func(ctx context.Context, fs snapshot.FS) (string, error) {
			return digested(snapshot.PathDigest(ctx, fs, sel, true))
		})
	}
	e := n.input(m.Input)
	k, err := n.b.node(e.Vertex).key()
	return fmt.Sprintf("%s:%d", k, e.Index), err
}

func (o execOp) run(n *node) ([]*Tree, bool, error) {
	k, err := n.key()
	if err != nil {
		return nil, false, err
	}
	known, hit := n.lookup(k)
	if hit && !n.b.opts.VerifyCache {
		return known, true, nil
	}
	trees, err := n.trees()
	if err != nil {
		return nil, false, err
	}
	if n.b.running != nil {
		select {
		case n.b.running <- struct{}{}:
			defer func() { <-n.b.running }()
		case <-n.b.ctx.Done():
			return nil, false, context.Cause(n.b.ctx)
		}
	}
	var outs []*Tree
	s := &step{n: n, op: o.op, trees: trees}
	err = n.run(func() (err error) {
		outs, err = s.run(n.b.ctx)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if hit {
		if err := n.compare(known, outs); err != nil {
			return nil, false, err
		}
	}
	if s.ranOut { // with more memory it might have left something else
		n.event.warn(fmt.Sprintf("%s: a process ran out of the memory %s, though the step succeeded; its result is not cached", n.v.Name, s.memoryLimit()))
		return outs, false, nil
	}
	return outs, false, n.record(k, outs)
}

// compare warns when a step that ran again left something else than the cache
// has: names, attributes or bytes; times don't count.
func (n *node) compare(known, outs []*Tree) error {
	never := time.Unix(0, 0)
	opts := PackOptions{Compression: layer.Compression{Type: layer.Uncompressed}, Epoch: &never}
	for i := range min(len(known), len(outs)) {
		was, is := known[i].list(), outs[i].list()
		if len(was) == 0 || len(is) == 0 {
			continue
		}
		a, err := was[len(was)-1].Pack(n.b.ctx, opts)
		if err != nil {
			return err
		}
		b, err := is[len(is)-1].Pack(n.b.ctx, opts)
		if err != nil {
			return err
		}
		if a.DiffID != b.DiffID {
			n.event.warn(fmt.Sprintf("%s: ran again and left something else than the cache has", n.v.Name))
		}
	}
	return nil
}

// environment is the command's environment: what the frontend set, proxies, a
// default PATH, and secrets.
func (n *node) environment(op *pb.ExecOp) ([]string, error) {
	env := append(slices.Clone(op.Meta.Env), proxies(op.Meta.ProxyEnv)...)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, "PATH="+defaultPath)
	}
	for _, s := range op.Secretenv {
		v, ok, err := n.b.secret(s.ID)
		if err != nil {
			return nil, err
		}
		if !ok && !s.Optional {
			return nil, missingSecret(s.ID)
		}
		if ok {
			env = append(env, s.Name+"="+string(v))
		}
	}
	return env, nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func missingSecret(id string) error {
	return fmt.Errorf("secret %s: not found: give it with --secret id=%s,src=FILE or env=NAME", id, id)
}

// proxies spells a proxy configuration as programs look for it.
func proxies(p *pb.ProxyEnv) []string {
	if p == nil {
		return nil
	}
	var env []string
	for _, v := range [][2]string{
		{"http_proxy", p.HttpProxy}, {"https_proxy", p.HttpsProxy}, {"ftp_proxy", p.FtpProxy},
		{"no_proxy", p.NoProxy}, {"all_proxy", p.AllProxy},
	} {
		if v[1] != "" {
			env = append(env, strings.ToUpper(v[0])+"="+v[1], v[0]+"="+v[1])
		}
	}
	return env
}

// destination returns where a mount goes; relative ones are below the working
// directory.
func destination(op *pb.ExecOp, m *pb.Mount) string {
	if path.IsAbs(m.Dest) {
		return path.Clean(m.Dest)
	}
	return path.Join("/", op.Meta.Cwd, m.Dest)
}

// ExitError reports that a command ended with a code other than 0. The text is
// BuildKit's, which scripts look for.
type ExitError struct {
	Args []string
	Code int
	// OOM tells that the kernel ended a process because memory ran out;
	// MemoryLimit is for people, such as "limit of 64 MiB".
	OOM         bool
	MemoryLimit string
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("process %q did not complete successfully: exit code: %d", strings.Join(e.Args, " "), e.Code)
	if e.OOM {
		s += ": the step ran out of its memory " + e.MemoryLimit
	}
	return s
}
