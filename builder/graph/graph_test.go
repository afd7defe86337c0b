package graph

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// marshal returns a state's definition.
func marshal(t *testing.T, st llb.State) *pb.Definition {
	t.Helper()
	def, err := st.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return def.ToPB()
}

// What two definitions have in common is one vertex.
func TestAddSharesVertices(t *testing.T) {
	base := llb.Image("example.com/base")
	g := New()
	a, err := g.Add(marshal(t, base.Run(llb.Shlex("a")).Root()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := g.Add(marshal(t, base.Run(llb.Shlex("b")).Root()))
	if err != nil {
		t.Fatal(err)
	}
	if a.Vertex == b.Vertex {
		t.Fatal("different commands are one vertex")
	}
	if a.Vertex.Inputs[0].Vertex != b.Vertex.Inputs[0].Vertex {
		t.Error("the common base is two vertices")
	}
	if got := a.Vertex.Name; got != "a" {
		t.Errorf("Name = %q, want %q", got, "a")
	}
}

// An empty definition is an empty tree, not an error.
func TestAddEmpty(t *testing.T) {
	e, err := New().Add(marshal(t, llb.Scratch()))
	if err != nil || e.Vertex != nil {
		t.Fatalf("Add(scratch) = %v, %v; want no vertex", e, err)
	}
}

// op returns a definition of one operation, for what the client library would
// not let pass.
func op(t *testing.T, o *pb.Op) *pb.Definition {
	t.Helper()
	dt, err := o.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	end := &pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(dt))}}}
	last, err := end.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Definition{Def: [][]byte{dt, last}}
}

// Definitions are foreign bytes: what a later stage would stumble over is
// refused here, with a reason.
func TestAddRefuses(t *testing.T) {
	exec := func(change func(*pb.ExecOp)) *pb.Op {
		e := &pb.ExecOp{
			Meta:   &pb.Meta{Args: []string{"true"}, Cwd: "/"},
			Mounts: []*pb.Mount{{Input: -1, Dest: "/", Output: 0}},
		}
		change(e)
		return &pb.Op{Op: &pb.Op_Exec{Exec: e}}
	}
	file := func(a *pb.FileAction) *pb.Op {
		return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{a}}}}
	}
	mkdir := &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/a"}}
	for _, c := range []struct {
		name string
		op   *pb.Op
		want string
	}{
		{"no command", exec(func(e *pb.ExecOp) { e.Meta.Args = nil }), "command"},
		{"no root", exec(func(e *pb.ExecOp) { e.Mounts[0].Dest = "/x" }), "root mount"},
		{"negative input", exec(func(e *pb.ExecOp) { e.Mounts[0].Input = -2 }), "input -2"},
		{"input beyond", exec(func(e *pb.ExecOp) { e.Mounts[0].Input = 0 }), "input 0 of 0"},
		{"many outputs", exec(func(e *pb.ExecOp) { e.Mounts[0].Output = 1 << 40 }), "out of range"},
		{"security mode", exec(func(e *pb.ExecOp) { e.Security = 7 }), "security mode 7"},
		{"network mode", exec(func(e *pb.ExecOp) { e.Network = 9 }), "network mode 9"},
		{"mount type", exec(func(e *pb.ExecOp) { e.Mounts[0].MountType = 99 }), "mount type 99"},
		{"nil action", file(&pb.FileAction{Input: -1, SecondaryInput: -1}), "nil action"},
		{"later action", file(&pb.FileAction{Input: 0, SecondaryInput: -1, Action: mkdir}), "input 0 of 0"},
		{"no actions", &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{}}}, "actions"},
		{"merge of nothing", &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{}}}}}, "inputs"},
		{"diff", &pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}, "lower"},
		{"build", &pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{}}}, "not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New().Add(op(t, c.op))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Add = %v, want an error with %q", err, c.want)
			}
		})
	}
}

// No bytes make the loader panic or loop.
func FuzzAdd(f *testing.F) {
	dt, err := llb.Image("example.com/base").Run(llb.Shlex("a")).Root().Marshal(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	def := dt.ToPB()
	for _, d := range def.Def {
		f.Add(d, def.Def[len(def.Def)-1])
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		e, err := New().Add(&pb.Definition{Def: [][]byte{a, b}})
		if err == nil && e.Vertex != nil && e.Vertex.Op.Op == nil {
			t.Error("a vertex without an operation")
		}
	})
}
