// Package dockerfile turns a Dockerfile and its contexts into a build.
//
// The language itself is BuildKit's own frontend, run in this process. Data
// goes through the package in this order:
//
//	Options  what the user asked for          (flags, by their meaning)
//	   | Prepare
//	   v
//	Request  what the gateway protocol says   (FrontendOpt, Locals, Layouts)
//	   | builder.Build(ctx, dockerfile.Build, ...)
//	   v
//	Build    BuildKit's frontend              (asks the builder's client to solve)
//	   |
//	   v
//	Describe | Call.Print                     (errors, and answers to --call)
//
// A "# syntax=docker/dockerfile:1" line is answered by the frontend that is
// built in: nothing is pulled for it.
package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	upstream "github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// Build is BuildKit's Dockerfile frontend. It reads the options that a
// [Request] holds from client, and solves through it.
func Build(ctx context.Context, client gateway.Client) (*gateway.Result, error) {
	opts := client.BuildOpts()
	opts.Opts = maps.Clone(opts.Opts)
	inputs, err := targetContexts(ctx, client, opts)
	if err != nil {
		return nil, err
	}
	return upstream.Build(ctx, &syntaxClient{Client: client, opts: opts, inputs: inputs})
}

// syntaxClient is a gateway client that runs docker/dockerfile images by
// re-entering the built-in frontend.
type syntaxClient struct {
	gateway.Client
	opts gateway.BuildOpts
	// inputs, when not nil, replace those of Client.
	inputs map[string]llb.State
}

// BuildOpts returns the options of this run of the frontend: the frontend
// writes into the map, so it never is the caller's.
func (c *syntaxClient) BuildOpts() gateway.BuildOpts { return c.opts }

// Inputs returns the frontend inputs of this run.
func (c *syntaxClient) Inputs(ctx context.Context) (map[string]llb.State, error) {
	if c.inputs != nil {
		return c.inputs, nil
	}
	return c.Client.Inputs(ctx)
}

// Solve answers a request for a frontend in an image; all others pass.
func (c *syntaxClient) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Frontend != "gateway.v0" {
		return c.Client.Solve(ctx, req)
	}
	image := req.FrontendOpt["source"]
	if !builtin(image) {
		return nil, &SyntaxError{Image: image}
	}
	inputs, err := states(req.FrontendInputs)
	if err != nil {
		return nil, fmt.Errorf("frontend inputs for %s: %w", image, err)
	}
	opts := c.opts
	opts.Opts = maps.Clone(req.FrontendOpt)
	if _, ok := opts.Opts["cmdline"]; !ok {
		opts.Opts["cmdline"] = image // what keeps the frontend from forwarding again
	}
	return upstream.Build(ctx, &syntaxClient{Client: c.Client, opts: opts, inputs: inputs})
}

// A SyntaxError reports a "# syntax=" line, or BUILDKIT_SYNTAX build argument,
// that names a frontend other than docker/dockerfile.
type SyntaxError struct {
	Image string // as written
}

// Error says what the image is and how to build without it.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("syntax %q: a frontend other than docker/dockerfile cannot run here: "+
		"if the file needs no more than docker/dockerfile, drop the line or pass --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1", e.Image)
}

// builtin reports whether image is a release of the frontend that is built in:
// docker/dockerfile or docker/dockerfile-upstream of Docker Hub, any tag or digest.
func builtin(image string) bool {
	named, err := reference.ParseNormalizedNamed(strings.TrimSpace(image))
	if err != nil {
		return false
	}
	switch named.Name() {
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream":
		return true
	}
	return false
}

// states decodes frontend inputs; nil stays nil.
func states(defs map[string]*pb.Definition) (map[string]llb.State, error) {
	if defs == nil {
		return nil, nil
	}
	out := make(map[string]llb.State, len(defs))
	for name, def := range defs {
		op, err := llb.NewDefinitionOp(def)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = llb.NewState(op)
	}
	return out, nil
}
