package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"

	"bk.build/bk/builder/graph"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// engine is the build as a frontend sees it: a gateway client.
type engine struct{ b *build }

// product names the engine to frontends.
const product = "bk"

// BuildOpts tells a frontend what was asked for and what the engine can do.
func (c *engine) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{
		Opts:      c.b.opts.FrontendOpt,
		SessionID: "bk",
		Product:   product,
		LLBCaps:   pb.Caps.CapSet(pb.Caps.All()),
		Caps:      gwpb.Caps.CapSet(gwpb.Caps.All()),
		Workers: []gateway.WorkerInfo{{
			ID:        "bk",
			Platforms: []ocispecs.Platform{platforms.Normalize(platforms.DefaultSpec())},
		}},
	}
}

// Inputs returns the definitions that a caller passed as named contexts.
func (c *engine) Inputs(context.Context) (map[string]llb.State, error) {
	return map[string]llb.State{}, nil
}

// ResolveImageConfig returns the digest of what ref names, and the image
// configuration for a platform.
func (c *engine) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	kind, store, mode := kindImage, "", ""
	var platform *ocispecs.Platform
	switch {
	case opt.OCILayoutOpt != nil:
		kind, store, platform = kindLayout, opt.OCILayoutOpt.Store.StoreID, opt.OCILayoutOpt.Platform
	case opt.ImageOpt != nil:
		mode, platform = opt.ImageOpt.ResolveMode, opt.ImageOpt.Platform
	}
	name := opt.LogName
	if name == "" {
		name = "load metadata for " + ref
	}
	ev := c.b.report.internal(name)
	ev.start()
	img, err := c.b.image(kind, ref, store, mode, platform)
	ev.done(err)
	if err != nil {
		return "", "", nil, err
	}
	return ref, img.top, img.config, nil
}

// ResolveSourceMetadata pins a source.
func (c *engine) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	kind, ref := sourceOp{op}.scheme()
	resp := &sourceresolver.MetaResponse{Op: op}
	if kind != kindImage && kind != kindLayout {
		return resp, nil
	}
	if kind == kindLayout && opt.OCILayoutOpt == nil {
		opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{
			Store: sourceresolver.ResolveImageConfigOptStore{StoreID: op.Attrs[pb.AttrOCILayoutStoreID]},
		}
		if opt.ImageOpt != nil {
			opt.OCILayoutOpt.Platform = opt.ImageOpt.Platform
		}
	}
	_, dgst, config, err := c.ResolveImageConfig(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	resp.Image = &sourceresolver.ResolveImageResponse{Digest: dgst, Config: config}
	return resp, nil
}

// Solve adds a definition to the build's graph. It is evaluated when a file of
// the result is read, or when the build's own result is.
func (c *engine) Solve(_ context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Frontend != "" {
		return nil, fmt.Errorf("frontend %q is not supported", req.Frontend)
	}
	c.b.mu.Lock()
	edge, err := c.b.graph.Add(req.Definition)
	c.b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("load the definition: %w", err)
	}
	res := gateway.NewResult()
	if edge.Vertex == nil {
		return res, nil
	}
	if err := c.b.permit(edge); err != nil {
		return nil, c.b.fail(err)
	}
	ref := &reference{b: c.b, edge: edge, def: req.Definition}
	if req.Evaluate {
		if _, err := c.b.edge(edge); err != nil {
			return nil, err
		}
	}
	res.SetRef(ref)
	return res, nil
}

// NewContainer is for interactive frontends.
func (c *engine) NewContainer(context.Context, gateway.NewContainerRequest) (gateway.Container, error) {
	return nil, errors.New("containers for frontends are not supported")
}

// Warn shows a frontend's warning.
func (c *engine) Warn(_ context.Context, dgst digest.Digest, msg string, opts gateway.WarnOpts) error {
	c.b.report.emit(&bkclient.SolveStatus{Warnings: []*bkclient.VertexWarning{{
		Vertex: dgst, Level: opts.Level, Short: []byte(msg), Detail: opts.Detail, URL: opts.URL,
		SourceInfo: opts.SourceInfo, Range: opts.Range,
	}}})
	return nil
}

// reference is a result that may not be evaluated yet.
type reference struct {
	b    *build
	edge graph.Edge
	def  *pb.Definition
}

func (r *reference) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

func (r *reference) Evaluate(context.Context) error {
	_, err := r.b.edge(r.edge)
	return err
}

func (r *reference) fs() (snapshot.FS, error) {
	t, err := r.b.edge(r.edge)
	if err != nil {
		return nil, err
	}
	return t.FS(r.b.ctx)
}

// maxReadFile bounds what a frontend reads at once.
const maxReadFile = 64 << 20

func (r *reference) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	tree, err := r.fs()
	if err != nil {
		return nil, err
	}
	b, err := snapshot.ReadFile(tree, relative(req.Filename), maxReadFile)
	if err != nil {
		return nil, notExist(err, req.Filename)
	}
	if rg := req.Range; rg != nil {
		if rg.Offset < 0 || rg.Length < 0 {
			return nil, fmt.Errorf("read %s: negative range", req.Filename)
		}
		b = b[min(rg.Offset, len(b)):]
		b = b[:min(rg.Length, len(b))]
	}
	return b, nil
}

// notExist gives frontends the error that they look for.
func notExist(err error, name string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return err
}

// relative turns a path of a request into one of a tree.
func relative(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

func (r *reference) StatFile(_ context.Context, req gateway.StatRequest) (*fstypes.Stat, error) {
	tree, err := r.fs()
	if err != nil {
		return nil, err
	}
	p, err := snapshot.Resolve(tree, relative(req.Path), 0)
	if err != nil {
		return nil, notExist(err, req.Path)
	}
	e, err := tree.Lstat(p)
	if err != nil {
		return nil, notExist(err, req.Path)
	}
	return stat(e), nil
}

func (r *reference) ReadDir(_ context.Context, req gateway.ReadDirRequest) ([]*fstypes.Stat, error) {
	tree, err := r.fs()
	if err != nil {
		return nil, err
	}
	dir, err := snapshot.Resolve(tree, relative(req.Path), 0)
	if err != nil {
		return nil, notExist(err, req.Path)
	}
	names, err := tree.ReadDir(dir)
	if err != nil {
		return nil, notExist(err, req.Path)
	}
	var list []*fstypes.Stat
	for _, name := range names {
		if req.IncludePattern != "" {
			if ok, err := path.Match(req.IncludePattern, name); err != nil || !ok {
				continue
			}
		}
		e, err := tree.Lstat(path.Join(dir, name))
		if err != nil {
			return nil, err
		}
		list = append(list, stat(e))
	}
	return list, nil
}

// stat describes an entry as fsutil does.
func stat(e *layer.Entry) *fstypes.Stat {
	s := &fstypes.Stat{
		Path: path.Base(e.Path), Mode: uint32(fileMode(e)), Uid: uint32(e.UID), Gid: uint32(e.GID),
		Size: e.Size, ModTime: e.ModTime.UnixNano(), Devmajor: int64(e.DevMajor), Devminor: int64(e.DevMinor),
	}
	if e.Type == layer.Symlink {
		s.Linkname = e.Link
	}
	return s
}

func fileMode(e *layer.Entry) fs.FileMode {
	m := fs.FileMode(e.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&bit != 0 {
			m |= flag
		}
	}
	switch e.Type {
	case layer.Directory:
		m |= fs.ModeDir
	case layer.Symlink:
		m |= fs.ModeSymlink
	case layer.Char:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case layer.Block:
		m |= fs.ModeDevice
	case layer.Fifo:
		m |= fs.ModeNamedPipe
	}
	return m
}
