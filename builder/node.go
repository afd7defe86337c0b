package builder

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/graph"
)

// node is a vertex in one build.
type node struct {
	b     *build
	v     *graph.Vertex
	event *event

	keyFuture    future[cache.Key]
	resultFuture future[[]*Tree]
	local        future[*Tree]

	inputs   []cache.Input // parts of the key, once it is known
	exported bool          // the node's layers are part of the build's result
}

// op is what a node does. There is one for each kind of operation.
type op interface {
	// key digests the operation and what identifies its inputs.
	key(n *node, h cache.Hasher) error
	// run returns the operation's outputs, and whether they were known already.
	// It asks for the key only if it needs it: that of a directory is the
	// digest of all that is in it.
	run(n *node) (outs []*Tree, cached bool, err error)
}

func (n *node) op() op {
	switch o := n.v.Op.Op.(type) {
	case *pb.Op_Source:
		return sourceOp{o.Source}
	case *pb.Op_Exec:
		return execOp{o.Exec}
	case *pb.Op_File:
		return fileOp{o.File}
	case *pb.Op_Merge:
		return mergeOp{o.Merge}
	case *pb.Op_Diff:
		return diffOp{o.Diff}
	case *pb.Op_Passthrough:
		return passthroughOp{o.Passthrough}
	}
	return invalidOp{}
}

// key returns the vertex's cache key.
func (n *node) key() (cache.Key, error) {
	return n.keyFuture.do(func() (cache.Key, error) {
		if err := n.b.ctx.Err(); err != nil {
			return cache.Key{}, context.Cause(n.b.ctx)
		}
		h := cache.NewHasher(fmt.Sprintf("%T.v1", n.v.Op.Op))
		if err := n.op().key(n, h); err != nil {
			return cache.Key{}, n.failed(err)
		}
		return h.Sum(), nil
	})
}

// result returns the vertex's outputs, by index.
func (n *node) result() ([]*Tree, error) {
	return n.resultFuture.do(func() ([]*Tree, error) {
		if err := n.b.ctx.Err(); err != nil {
			return nil, context.Cause(n.b.ctx)
		}
		outs, cached, err := n.op().run(n)
		if err != nil {
			return nil, n.failed(err)
		}
		if cached {
			n.markCached()
		}
		if n.exported {
			n.packAhead(outs)
		}
		return outs, nil
	})
}

// markCached reports the node and all that it made unnecessary as cached.
func (n *node) markCached() {
	if _, done := n.b.hits.LoadOrStore(n, true); done || n.event.v.Started != nil {
		return
	}
	for _, in := range n.v.Inputs {
		n.b.node(in.Vertex).markCached()
	}
	n.event.cached()
}

// packAhead starts to pack what the result will need, beside the steps that
// still run.
func (n *node) packAhead(outs []*Tree) {
	for _, t := range outs {
		list := t.list()
		if len(list) == 0 {
			continue
		}
		for i, p := range n.b.opts.Pack {
			ahead := list[len(list)-1:] // those below are of the nodes before
			if n.v.Op.GetSource() != nil && p.Remote {
				ahead = list // nothing is fetched for it
			}
			for _, l := range ahead {
				n.b.packing.Go(func() {
					if b, err := l.Pack(n.b.ctx, p); err == nil { // Commit asks again, and gets the error
						n.b.ready(i, b.Descriptor)
					}
				})
			}
		}
	}
}

// failed stops the build because of an error of this vertex.
func (n *node) failed(err error) error {
	var known *StepError
	if !errors.As(err, &known) && !errors.Is(err, context.Canceled) {
		if n.event.v.Completed == nil {
			n.event.done(err)
		}
		err = &StepError{Name: n.v.Name, Vertex: n.v, Err: err}
	}
	return n.b.fail(err)
}

// StepError is the failure of one step.
type StepError struct {
	Name   string // as the frontend names the step
	Vertex *graph.Vertex
	Err    error
}

func (e *StepError) Error() string { return e.Name + ": " + e.Err.Error() }

func (e *StepError) Unwrap() error { return e.Err }

// run shows the node as running while f works.
func (n *node) run(f func() error) error {
	n.event.start()
	err := f()
	shown := err
	if other := (*StepError)(nil); errors.As(err, &other) {
		shown = context.Canceled // because of what happened elsewhere
	}
	n.event.done(shown)
	return err
}

// input returns the vertex's i-th input edge; an edge without a vertex for -1.
func (n *node) input(i int64) graph.Edge {
	if i < 0 {
		return graph.Edge{}
	}
	return n.v.Inputs[i]
}

// tree returns the i-th input's tree; nil for -1.
func (n *node) tree(i int64) (*Tree, error) { return n.b.edge(n.input(i)) }

// inputKey adds what identifies the i-th input as a whole.
func (n *node) inputKey(h cache.Hasher, name string, i int64) error {
	e := n.input(i)
	if e.Vertex == nil {
		h.String("scratch")
		return nil
	}
	k, err := n.b.node(e.Vertex).key()
	if err != nil {
		return err
	}
	h.Key(k)
	h.Int(e.Index)
	n.note(name, k.String())
	return nil
}

// note remembers a part of the key for those who ask why it changed.
func (n *node) note(name, dgst string) {
	n.inputs = append(n.inputs, cache.Input{Name: name, Digest: dgst})
}

// inputKeys computes the keys of all inputs in parallel, so that sources
// resolve side by side.
func (n *node) inputKeys() error {
	if len(n.v.Inputs) < 2 {
		return nil
	}
	errs := make([]error, len(n.v.Inputs))
	var wg sync.WaitGroup
	for i, in := range n.v.Inputs {
		wg.Go(func() { _, errs[i] = n.b.node(in.Vertex).key() })
	}
	wg.Wait()
	return firstError(errs)
}

func firstError(errs []error) error {
	var first error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if first == nil || errors.Is(first, context.Canceled) {
			first = err
		}
	}
	return first
}

// lookup returns the trees of a record whose layers can all be had.
func (n *node) lookup(k cache.Key) ([]*Tree, bool) {
	if n.v.IgnoreCache {
		return nil, false
	}
	rec, ok := n.b.cache.Get(k)
	if !ok {
		return nil, false
	}
	outs := make([]*Tree, len(rec.Outputs))
	for i, ids := range rec.Outputs {
		list := make([]*Layer, len(ids))
		for j, id := range ids {
			list[j] = n.b.layers.get(id)
			if !list[j].available() {
				return nil, false
			}
		}
		outs[i] = layersTree(list)
	}
	return outs, true
}

// record stores the trees under the key.
func (n *node) record(k cache.Key, outs []*Tree) error {
	rec := cache.Record{Name: n.v.Name, Inputs: n.inputs, Created: time.Now().UTC()}
	for _, t := range outs {
		ids, err := t.ids(n.b.ctx)
		if err != nil {
			return err
		}
		rec.Outputs = append(rec.Outputs, ids)
	}
	return n.b.cache.Put(k, &rec)
}

type invalidOp struct{}

func (invalidOp) key(n *node, _ cache.Hasher) error {
	return fmt.Errorf("operation of type %T is not supported", n.v.Op.Op)
}

func (o invalidOp) run(n *node) ([]*Tree, bool, error) {
	return nil, false, o.key(n, cache.Hasher{})
}
