package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	upstream "github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// Keys of the gateway protocol.
const (
	keyContext       = "context:"
	keyInput         = "input:"
	keyInputMetadata = "input-metadata:"
	keyTarget        = "target"
	keyRequest       = "requestid"
)

// targetContexts builds the stages that "target:STAGE" contexts name, from the
// same Dockerfile, and hands them to the main build as frontend inputs: one for
// each platform, with the stage's image configuration, so that it can be FROM
// as well as COPY --from.
func targetContexts(ctx context.Context, client gateway.Client, opts gateway.BuildOpts) (map[string]llb.State, error) {
	var inputs map[string]llb.State
	for key, value := range maps.Clone(opts.Opts) {
		name, isContext := strings.CutPrefix(key, keyContext)
		stage, isTarget := strings.CutPrefix(value, "target:")
		if !isContext || !isTarget {
			continue
		}
		delete(opts.Opts, key)
		if inputs == nil {
			inputs = map[string]llb.State{}
		}
		if err := addTarget(ctx, client, opts, name, stage, inputs); err != nil {
			return nil, fmt.Errorf("build-context %s=target:%s: %w", name, stage, err)
		}
	}
	return inputs, nil
}

func addTarget(ctx context.Context, client gateway.Client, opts gateway.BuildOpts, name, stage string, inputs map[string]llb.State) error {
	sub := opts
	sub.Opts = maps.Clone(opts.Opts)
	sub.Opts[keyTarget] = stage
	delete(sub.Opts, keyRequest) // the main build's question is not about this stage
	for key, value := range sub.Opts {
		if strings.HasPrefix(key, keyContext) && strings.HasPrefix(value, "target:") {
			delete(sub.Opts, key)
		}
	}
	res, err := upstream.Build(ctx, &syntaxClient{Client: client, opts: sub})
	if err != nil {
		return err
	}
	ps, err := exptypes.ParsePlatforms(res.Metadata)
	if err != nil {
		return err
	}
	for _, p := range ps.Platforms {
		ref, ok := res.Refs[p.ID]
		if !ok {
			ref = res.Ref
		}
		st := llb.Scratch()
		if ref != nil {
			if st, err = ref.ToState(); err != nil {
				return err
			}
		}
		id := name + "::" + p.ID
		config := exptypes.ParseKey(res.Metadata, exptypes.ExporterImageConfigKey, &p)
		md, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: config})
		if err != nil {
			return err
		}
		inputs[id] = st
		opts.Opts[keyContext+id] = keyInput + id
		opts.Opts[keyInputMetadata+id] = string(md)
	}
	return nil
}
