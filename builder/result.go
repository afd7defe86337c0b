package builder

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder/graph"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

// load takes over what the frontend returned: one reference, or one for each
// platform.
func (r *Result) load(out *gateway.Result) error {
	if out.Ref == nil && len(out.Refs) == 0 && out.Metadata[exptypes.ExporterPlatformsKey] == nil {
		return nil // a subrequest: its answer is in the metadata
	}
	ps, err := exptypes.ParsePlatforms(out.Metadata)
	if err != nil {
		return fmt.Errorf("platforms of the result: %w", err)
	}
	r.multi = out.Ref == nil && len(out.Refs) > 0
	for _, p := range ps.Platforms {
		ref := out.Ref
		pr := platformResult{platform: p.Platform}
		if r.multi {
			ref, pr.key = out.Refs[p.ID], p.ID
		}
		if ref != nil {
			rr, ok := ref.(*reference)
			if !ok {
				return fmt.Errorf("result of type %T is not this build's", ref)
			}
			pr.edge = rr.edge
		}
		r.platforms = append(r.platforms, pr)
	}
	return nil
}

// evaluate runs what the result needs, all platforms side by side.
func (r *Result) evaluate() error {
	for _, p := range r.platforms {
		r.b.markExported(p.edge)
	}
	errs := make([]error, len(r.platforms))
	var wg sync.WaitGroup
	for i := range r.platforms {
		wg.Go(func() {
			p := &r.platforms[i]
			p.tree, errs[i] = r.b.edge(p.edge)
		})
	}
	wg.Wait()
	return firstError(errs)
}

// markExported notes which vertices put layers into the result: an operation's
// base does, what it only reads does not.
func (b *build) markExported(e graph.Edge) {
	for e.Vertex != nil {
		n := b.node(e.Vertex)
		if n.exported {
			return
		}
		n.exported = true
		next := graph.Edge{}
		for _, in := range bases(e.Vertex) {
			if next.Vertex == nil {
				next = in
				continue
			}
			b.markExported(in)
		}
		e = next
	}
}

// bases returns the inputs whose layers a vertex's outputs go on with.
func bases(v *graph.Vertex) []graph.Edge {
	switch o := v.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range o.Exec.Mounts {
			if m.Dest == pb.RootMount && m.Input >= 0 {
				return v.Inputs[m.Input : m.Input+1]
			}
		}
	case *pb.Op_File:
		var in []graph.Edge
		for _, a := range o.File.Actions {
			if a.Input >= 0 && a.Input < int64(len(v.Inputs)) {
				in = append(in, v.Inputs[a.Input])
			}
		}
		return in
	case *pb.Op_Merge, *pb.Op_Passthrough:
		return v.Inputs
	case *pb.Op_Diff:
		if i := o.Diff.Upper.Input; i >= 0 {
			return v.Inputs[i : i+1]
		}
	}
	return nil
}

// Platforms returns the platforms of the result, in the order of the build.
func (r *Result) Platforms() []ocispecs.Platform {
	list := make([]ocispecs.Platform, len(r.platforms))
	for i, p := range r.platforms {
		list[i] = p.platform
	}
	return list
}

// Multi reports whether an index was asked for.
func (r *Result) Multi() bool { return r.multi }

// Metadata returns what the frontend said beside the result, nil when nothing.
func (r *Result) Metadata(key string) []byte { return r.metadata[key] }

// Store returns the store that Commit writes to.
func (r *Result) Store() *layout.Dir { return r.b.store }

// Close ends the build and releases the store.
func (r *Result) Close() error { return r.b.close() }

// Walk streams the tree of the i-th platform, merged.
func (r *Result) Walk(i int) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		tree, err := r.platforms[i].tree.FS(r.b.ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		snapshot.Walk(tree, ".")(yield)
	}
}

// Commit packs the layers that are not packed yet and writes configuration,
// manifest and index into the store.
func (r *Result) Commit(ctx context.Context, opts CommitOptions) (Image, error) {
	ev := r.b.report.internal("exporting to image")
	ev.start()
	img, err := r.commit(ctx, ev, opts)
	ev.done(err)
	return img, err
}

func (r *Result) commit(ctx context.Context, ev *event, opts CommitOptions) (Image, error) {
	img := Image{
		Manifests: make([]ocispecs.Descriptor, len(r.platforms)),
	}
	blobs, err := r.pack(ctx, ev, opts.PackOptions)
	if err != nil {
		return Image{}, err
	}
	notes, err := parseAnnotations(opts.Annotations)
	if err != nil {
		return Image{}, err
	}
	for i, p := range r.platforms {
		spec := layout.ImageSpec{
			Config:                r.forPlatform(exptypes.ExporterImageConfigKey, p),
			BaseConfig:            r.forPlatform(exptypes.ExporterImageBaseConfigKey, p),
			Platform:              &r.platforms[i].platform,
			Layers:                blobs[i],
			Epoch:                 opts.Epoch,
			Docker:                opts.DockerTypes,
			Annotations:           notes.of(exptypes.AnnotationManifest, p.platform),
			DescriptorAnnotations: notes.of(exptypes.AnnotationManifestDescriptor, p.platform),
		}
		m, config, err := r.b.store.WriteImage(spec)
		if err != nil {
			return Image{}, fmt.Errorf("write the image for %s: %w", platforms.FormatAll(p.platform), err)
		}
		img.Manifests[i], img.Configs = m, append(img.Configs, config)
	}
	if !r.multi && len(img.Manifests) == 1 {
		img.Descriptor = img.Manifests[0]
		return img, nil
	}
	img.Descriptor, err = r.b.store.WriteIndex(img.Manifests, notes.of(exptypes.AnnotationIndex, ocispecs.Platform{}), opts.DockerTypes)
	return img, err
}

func (r *Result) forPlatform(key string, p platformResult) []byte {
	if v, ok := r.metadata[key+"/"+p.key]; ok {
		return v
	}
	return r.metadata[key]
}

// Epoch returns the time that the Dockerfile itself bounds file times with
// (ARG SOURCE_DATE_EPOCH), nil when it doesn't.
func (r *Result) Epoch() *time.Time {
	for _, p := range r.platforms {
		if s, err := strconv.ParseInt(string(r.forPlatform("source.date.epoch", p)), 10, 64); err == nil {
			t := time.Unix(s, 0).UTC()
			return &t
		}
	}
	return nil
}

// pack packs all layers of all platforms side by side.
func (r *Result) pack(ctx context.Context, ev *event, opts PackOptions) ([][]layout.LayerBlob, error) {
	done := ev.status("exporting layers", 0)
	defer done(-1)
	blobs := make([][]layout.LayerBlob, len(r.platforms))
	errs := make([]error, len(r.platforms))
	var wg sync.WaitGroup
	for i, p := range r.platforms {
		list, err := p.tree.stack(ctx)
		if err != nil {
			return nil, err
		}
		blobs[i] = make([]layout.LayerBlob, len(list))
		wg.Go(func() {
			index := make(map[*Layer]int, len(list))
			for j, l := range list {
				index[l] = j
			}
			errs[i] = eachLayer(list, func(l *Layer) error {
				b, err := l.Pack(ctx, opts)
				blobs[i][index[l]] = b
				return err
			})
		})
	}
	wg.Wait()
	return blobs, firstError(errs)
}
