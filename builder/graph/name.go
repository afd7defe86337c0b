package graph

import (
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// name describes a vertex that the frontend gave no name.
func name(v *Vertex) string {
	switch o := v.Op.Op.(type) {
	case *pb.Op_Source:
		return o.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(o.Exec.Meta.Args, " ")
	case *pb.Op_File:
		names := make([]string, len(o.File.Actions))
		for i, a := range o.File.Actions {
			names[i] = actionName(a)
		}
		return strings.Join(names, ", ")
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	default:
		return "passthrough"
	}
}

func actionName(a *pb.FileAction) string {
	switch act := a.Action.(type) {
	case *pb.FileAction_Copy:
		return "copy " + act.Copy.GetSrc() + " " + act.Copy.GetDest()
	case *pb.FileAction_Mkfile:
		return "mkfile " + act.Mkfile.GetPath()
	case *pb.FileAction_Mkdir:
		return "mkdir " + act.Mkdir.GetPath()
	case *pb.FileAction_Rm:
		return "rm " + act.Rm.GetPath()
	case *pb.FileAction_Symlink:
		return "symlink " + act.Symlink.GetNewpath() + " -> " + act.Symlink.GetOldpath()
	}
	return "unknown"
}
