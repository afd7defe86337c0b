// Package graph turns LLB definitions into typed vertices and edges.
//
// A definition is a list of marshalled operations that name their inputs by
// digest; the last one is a stub whose single input is the result. [Graph.Add]
// checks all of that (definitions are foreign bytes) and adds the vertices to a
// graph that any number of definitions share: what two platforms have in
// common is one vertex. The package is pure; it runs nothing.
package graph

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Vertex is one operation.
type Vertex struct {
	Digest digest.Digest // of the marshalled operation
	Op     *pb.Op
	Inputs []Edge
	Name   string // for people
	named  bool   // by a definition

	// IgnoreCache asks to run the operation even when a result is known.
	IgnoreCache bool
	Group       *pb.ProgressGroup
	Resources   *pb.LinuxResources
	// Sources are the places of the Dockerfile that the vertex comes from,
	// one for each definition that located it.
	Sources []Location
}

// Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Index  int
}

// Location is where in a file a vertex comes from.
type Location struct {
	Info   *pb.SourceInfo
	Ranges []*pb.Range
}

// Graph is a set of vertices by digest.
type Graph struct {
	vertices map[digest.Digest]*Vertex
}

// New returns an empty graph.
func New() *Graph { return &Graph{vertices: map[digest.Digest]*Vertex{}} }

// maxOps bounds the operations of one definition.
const maxOps = 100_000

// Add loads a definition and returns the edge that it asks for. A definition
// that asks for nothing (an empty result, as FROM scratch gives) returns an
// Edge without a vertex.
func (g *Graph) Add(def *pb.Definition) (Edge, error) {
	if def == nil || len(def.Def) == 0 {
		return Edge{}, nil
	}
	if len(def.Def) > maxOps {
		return Edge{}, fmt.Errorf("definition with %d operations: more than %d", len(def.Def), maxOps)
	}
	l := loader{graph: g, def: def, ops: make(map[digest.Digest]*pb.Op, len(def.Def)), done: map[digest.Digest]*Vertex{}}
	var last digest.Digest
	for i, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return Edge{}, fmt.Errorf("operation %d of the definition: %w", i, err)
		}
		last = digest.FromBytes(dt)
		l.ops[last] = op
	}
	result := l.ops[last]
	if result.Op != nil || len(result.Inputs) != 1 {
		return Edge{}, errors.New("definition does not end in a result with one input")
	}
	return l.edge(result.Inputs[0])
}

type loader struct {
	graph *Graph
	def   *pb.Definition
	ops   map[digest.Digest]*pb.Op
	done  map[digest.Digest]*Vertex // nil while a vertex's inputs are being loaded
}

func (l *loader) edge(in *pb.Input) (Edge, error) {
	if in == nil {
		return Edge{}, errors.New("nil input")
	}
	v, err := l.vertex(digest.Digest(in.Digest))
	if err != nil {
		return Edge{}, err
	}
	if n := outputs(v.Op); in.Index < 0 || in.Index >= int64(n) {
		return Edge{}, fmt.Errorf("%s has no output %d", v.Name, in.Index)
	}
	return Edge{Vertex: v, Index: int(in.Index)}, nil
}

func (l *loader) vertex(dgst digest.Digest) (*Vertex, error) {
	if v, ok := l.done[dgst]; ok {
		if v == nil {
			return nil, fmt.Errorf("operation %s depends on itself", dgst)
		}
		return v, nil
	}
	op, ok := l.ops[dgst]
	if !ok {
		return nil, fmt.Errorf("operation %s is not in the definition", dgst)
	}
	l.done[dgst] = nil
	v := &Vertex{Digest: dgst, Op: op}
	for _, in := range op.Inputs {
		e, err := l.edge(in)
		if err != nil {
			return nil, err
		}
		v.Inputs = append(v.Inputs, e)
	}
	if err := validate(op); err != nil {
		return nil, fmt.Errorf("operation %s: %w", dgst, err)
	}
	if known := l.graph.vertices[dgst]; known != nil {
		v = known
	} else {
		v.Name = name(v)
		l.graph.vertices[dgst] = v
	}
	l.describe(v)
	l.done[dgst] = v
	return v, nil
}

// describe adds what the definition says about a vertex beside its operation.
func (l *loader) describe(v *Vertex) {
	if md := l.def.Metadata[string(v.Digest)]; md != nil {
		// What platforms share has a name of each; the order in which they
		// come must not matter.
		if n := md.Description["llb.customname"]; n != "" && (!v.named || n < v.Name) {
			v.Name, v.named = n, true
		}
		v.IgnoreCache = v.IgnoreCache || md.IgnoreCache
		v.Group = md.ProgressGroup
		v.Resources = md.LinuxResources
	}
	src := l.def.Source
	if src == nil || len(v.Sources) > 0 {
		return
	}
	locs := src.Locations[string(v.Digest)]
	if locs == nil {
		return
	}
	for _, loc := range locs.Locations {
		if loc != nil && loc.SourceIndex >= 0 && int(loc.SourceIndex) < len(src.Infos) {
			v.Sources = append(v.Sources, Location{Info: src.Infos[loc.SourceIndex], Ranges: loc.Ranges})
		}
	}
}

// outputs returns how many outputs an operation has.
func outputs(op *pb.Op) int {
	n := 0
	switch o := op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range o.Exec.GetMounts() {
			n = max(n, int(m.GetOutput())+1)
		}
	case *pb.Op_File:
		for _, a := range o.File.GetActions() {
			n = max(n, int(a.GetOutput())+1)
		}
	case *pb.Op_Passthrough:
		n = len(o.Passthrough.GetOutputs())
	default:
		n = 1
	}
	return n
}
