// Package builder runs builds.
//
// A frontend produces definitions by asking a gateway client ([engine]) for
// configurations, files and solutions. The definitions become one [graph.Graph]
// that all platforms share. Each vertex is a [node] with two futures: its cache
// key, which comes up from the sources, and its result, which is computed only
// when no record of the key exists and somebody needs it. A result is a [Tree]:
// a stack of [Layer]s, each with a packed and an unpacked form made on demand.
// [Result.Commit] packs what the image needs and writes it into the store,
// which is an OCI layout.
package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/graph"
	"bk.build/bk/builder/source"
	"bk.build/bk/layout"
	"bk.build/bk/layout/remote"
	"bk.build/bk/runner"
	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/network"
	"bk.build/bk/runner/seccomp"
)

// build is one build: what its vertices share.
type build struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	opts    Options
	store   *layout.Dir
	cache   *cache.Dir
	tmp     *scratch
	layers  *layers
	remote  *remote.Client
	report  *reporter
	lock    *os.File      // shared, while the build uses the store
	running chan struct{} // bounds RUN steps; nil without a bound

	mu     sync.Mutex
	graph  *graph.Graph
	nodes  map[*graph.Vertex]*node
	locals []*source.Local

	images    futures[*image]
	stubs     futures[string]
	emulators futures[*emulate.Emulator]
	described future[*cdi.Cache]
	networks  future[*network.Network]
	filters   seccomp.Cache
	cgroups   cgroup.Own
	hostFiles futures[string]
	workTrees workTrees
	packing   sync.WaitGroup
	hits      sync.Map // *node whose ancestors were reported as cached
}

// Build runs a frontend and then all steps that its result needs. The caller
// closes the result, which holds the store's lock.
func Build(ctx context.Context, frontend Frontend, opts Options, progress Progress) (*Result, error) {
	b, err := newBuild(ctx, opts, progress)
	if err != nil {
		return nil, err
	}
	res, err := b.solve(frontend)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return res, nil
}

func newBuild(ctx context.Context, opts Options, progress Progress) (*build, error) {
	// What steps write is nobody else's to read, and keeps its setuid bits.
	if err := os.MkdirAll(opts.Root, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", err)
	}
	store, err := layout.Create(opts.Root)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	fs, err := form(opts.Isolation)
	if err != nil {
		return nil, err
	}
	lock, err := openLock(opts.Root)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	b := &build{
		opts:   opts,
		store:  store,
		lock:   lock,
		cache:  cache.Open(filepath.Join(opts.Root, "actions")),
		tmp:    &scratch{parent: filepath.Join(opts.Root, "tmp")},
		remote: &remote.Client{Insecure: opts.InsecureRegistries, Hosts: opts.Hosts},
		report: &reporter{send: progress},
		graph:  graph.New(),
		nodes:  map[*graph.Vertex]*node{},
	}
	if opts.Jobs > 0 {
		b.running = make(chan struct{}, opts.Jobs)
	}
	b.layers = &layers{
		fs: fs, remembers: opts.Isolation == host.SingleID || opts.Isolation == host.Chroot && runner.Traced(), dir: filepath.Join(opts.Root, "snapshots"), store: store, tmp: b.tmp,
		byID: map[string]*Layer{}, slots: make(chan struct{}, max(4, 2*runtime.NumCPU())),
	}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	sweep(b.tmp.parent)
	return b, nil
}

// lockName is the file whose lock tells the collector that a build runs.
const lockName = "lock"

// openLock takes the store's lock, shared with other builds.
func openLock(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f, false, true); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (b *build) close() error {
	b.cancel(nil)
	b.packing.Wait()
	b.workTrees.close()
	noted := b.layers.notePlanned()
	for _, l := range b.locals {
		l.Close()
	}
	return errors.Join(noted, b.closeNetworks(), b.cgroups.Close(), b.tmp.close(), b.lock.Close(), b.collect())
}

// solve runs the frontend and evaluates what it returns.
func (b *build) solve(frontend Frontend) (*Result, error) {
	out, err := frontend(b.ctx, &engine{b: b})
	if err != nil {
		return nil, b.cause(err)
	}
	res := &Result{b: b, metadata: out.Metadata}
	if err := res.load(out); err != nil {
		return nil, err
	}
	if err := res.evaluate(); err != nil {
		return nil, b.cause(err)
	}
	return res, b.saveLocals()
}

// cause prefers the error that made the build stop to the cancellations that
// followed from it.
func (b *build) cause(err error) error {
	if c := context.Cause(b.ctx); c != nil && errors.Is(err, context.Canceled) {
		return c
	}
	return err
}

// fail stops the build: the first error is the one that is told.
func (b *build) fail(err error) error {
	if err != nil {
		b.cancel(err)
	}
	return err
}

func (b *build) saveLocals() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.locals {
		if err := l.Save(); err != nil {
			return fmt.Errorf("store the digests of context files: %w", err)
		}
	}
	return nil
}

// node returns the vertex's state.
func (b *build) node(v *graph.Vertex) *node {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[v]
	if n == nil {
		n = &node{b: b, v: v, event: b.report.vertex(v)}
		b.nodes[v] = n
	}
	return n
}

// edge returns the tree of an edge; nil for an edge without a vertex.
func (b *build) edge(e graph.Edge) (*Tree, error) {
	if e.Vertex == nil {
		return nil, nil
	}
	outs, err := b.node(e.Vertex).result()
	if err != nil {
		return nil, err
	}
	return outs[e.Index], nil
}

// Result is an evaluated build: all steps have run.
type Result struct {
	b         *build
	metadata  map[string][]byte
	platforms []platformResult
	multi     bool // an index was asked for
}

type platformResult struct {
	key      string // as the frontend names it; empty for a single result
	platform ocispecs.Platform
	edge     graph.Edge
	tree     *Tree
}

var _ gateway.Client = (*engine)(nil)
