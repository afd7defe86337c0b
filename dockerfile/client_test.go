package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// localClient is a gateway client that can do no more than serve local
// directories: enough for the frontend to compile what starts from scratch.
type localClient struct {
	request  *Request
	warnings []string
	// solved counts definitions whose last operation is not a local source.
	solved int
}

func (c *localClient) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{
		Opts:    c.request.FrontendOpt,
		Caps:    gwpb.Caps.CapSet(gwpb.Caps.All()),
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
	}
}

func (c *localClient) Solve(_ context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Frontend != "" {
		return nil, fmt.Errorf("frontend %s reached the builder", req.Frontend)
	}
	res := gateway.NewResult()
	name, err := localName(req.Definition)
	if err != nil {
		return nil, err
	}
	if name == "" {
		c.solved++
	}
	res.SetRef(&localRef{dir: c.request.Locals[name]})
	return res, nil
}

// localName returns the name of the local source that a definition reads, or
// nothing when it does more.
func localName(def *pb.Definition) (string, error) {
	name := ""
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.Unmarshal(dt); err != nil {
			return "", err
		}
		switch {
		case op.GetSource() != nil:
			name = strings.TrimPrefix(op.GetSource().Identifier, "local://")
		case op.Op != nil:
			return "", nil
		}
	}
	return name, nil
}

func (c *localClient) Warn(_ context.Context, _ digest.Digest, msg string, _ gateway.WarnOpts) error {
	c.warnings = append(c.warnings, msg)
	return nil
}

func (c *localClient) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

func (c *localClient) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return "", "", nil, fmt.Errorf("image %s: no registry here", ref)
}

func (c *localClient) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return nil, fmt.Errorf("source %s: no network here", op.Identifier)
}

func (c *localClient) NewContainer(context.Context, gateway.NewContainerRequest) (gateway.Container, error) {
	return nil, errors.ErrUnsupported
}

// localRef is a directory.
type localRef struct{ dir string }

func (r *localRef) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (r *localRef) Evaluate(context.Context) error { return nil }

func (r *localRef) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	return os.ReadFile(filepath.Join(r.dir, req.Filename))
}

func (r *localRef) StatFile(_ context.Context, req gateway.StatRequest) (*fstypes.Stat, error) {
	info, err := os.Stat(filepath.Join(r.dir, req.Path))
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: req.Path, Size: info.Size(), Mode: uint32(info.Mode())}, nil
}

func (r *localRef) ReadDir(context.Context, gateway.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errors.ErrUnsupported
}

// writeFiles writes a context directory.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runFrontend runs the frontend on a Dockerfile.
func runFrontend(t *testing.T, o Options) (*gateway.Result, *localClient, error) {
	t.Helper()
	request, err := o.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := request.Close(); err != nil {
			t.Error(err)
		}
	})
	client := &localClient{request: request}
	res, err := Build(context.Background(), client)
	return res, client, err
}
