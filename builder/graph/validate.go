package graph

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
)

// maxOutputs bounds the outputs of one operation.
const maxOutputs = 1000

// validate checks an operation alone: nothing that runs it has to look for nil
// messages or indexes out of range again.
func validate(op *pb.Op) error {
	n := int64(len(op.Inputs))
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		if o.Source == nil || n != 0 {
			return errors.New("a source has no inputs and an identifier")
		}
	case *pb.Op_Exec:
		return validateExec(o.Exec, n)
	case *pb.Op_File:
		return validateFile(o.File, n)
	case *pb.Op_Merge:
		return validateMerge(o.Merge, n)
	case *pb.Op_Diff:
		if o.Diff == nil || o.Diff.Lower == nil || o.Diff.Upper == nil {
			return errors.New("a diff has a lower and an upper input")
		}
		return errors.Join(input(o.Diff.Lower.Input, n), input(o.Diff.Upper.Input, n))
	case *pb.Op_Passthrough:
		return validatePassthrough(o.Passthrough, n)
	default:
		return fmt.Errorf("operation of type %T is not supported", op.Op)
	}
	return nil
}

// input checks an index into an operation's inputs; -1 stands for an empty tree.
func input(i, n int64) error {
	if i < -1 || i >= n {
		return fmt.Errorf("input %d of %d", i, n)
	}
	return nil
}

func output(i int64) error {
	if i < -1 || i >= maxOutputs {
		return fmt.Errorf("output %d is out of range", i)
	}
	return nil
}

func validateExec(e *pb.ExecOp, n int64) error {
	if e == nil || e.Meta == nil || len(e.Meta.Args) == 0 {
		return errors.New("an exec has a command")
	}
	if _, ok := pb.SecurityMode_name[int32(e.Security)]; !ok {
		return fmt.Errorf("security mode %d is not known", e.Security)
	}
	if _, ok := pb.NetMode_name[int32(e.Network)]; !ok {
		return fmt.Errorf("network mode %d is not known", e.Network)
	}
	root := false
	for _, m := range e.Mounts {
		if m == nil {
			return errors.New("nil mount")
		}
		if _, ok := pb.MountType_name[int32(m.MountType)]; !ok {
			return fmt.Errorf("mount type %d is not known", m.MountType)
		}
		if err := errors.Join(input(m.Input, n), output(m.Output)); err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		root = root || m.Dest == pb.RootMount
	}
	if !root {
		return errors.New("an exec has a root mount")
	}
	return nil
}

func validateFile(f *pb.FileOp, n int64) error {
	if f == nil || len(f.Actions) == 0 {
		return errors.New("a file operation has actions")
	}
	for i, a := range f.Actions {
		if a == nil || a.Action == nil {
			return fmt.Errorf("nil action %d", i)
		}
		// An action sees the operation's inputs and the actions before it.
		limit := n + int64(i)
		if err := errors.Join(input(a.Input, limit), input(a.SecondaryInput, limit), output(a.Output)); err != nil {
			return fmt.Errorf("action %d: %w", i, err)
		}
		for _, o := range owners(a) {
			if by, ok := o.GetUser().(*pb.UserOpt_ByName); ok {
				if by.ByName == nil || by.ByName.Input < 0 {
					return fmt.Errorf("action %d: owner by name without an input", i)
				}
				if err := input(by.ByName.Input, limit); err != nil {
					return fmt.Errorf("action %d: owner: %w", i, err)
				}
			}
		}
	}
	return nil
}

// Owner returns the owner that an action sets, or nil.
func Owner(a *pb.FileAction) *pb.ChownOpt {
	switch act := a.Action.(type) {
	case *pb.FileAction_Copy:
		return act.Copy.GetOwner()
	case *pb.FileAction_Mkfile:
		return act.Mkfile.GetOwner()
	case *pb.FileAction_Mkdir:
		return act.Mkdir.GetOwner()
	case *pb.FileAction_Symlink:
		return act.Symlink.GetOwner()
	}
	return nil
}

func owners(a *pb.FileAction) []*pb.UserOpt {
	o := Owner(a)
	return []*pb.UserOpt{o.GetUser(), o.GetGroup()}
}

func validateMerge(m *pb.MergeOp, n int64) error {
	if m == nil || int64(len(m.Inputs)) != n {
		return errors.New("a merge uses each of its inputs")
	}
	for _, in := range m.Inputs {
		if in == nil {
			return errors.New("nil input")
		}
		if err := input(in.Input, n); err != nil {
			return err
		}
	}
	return nil
}

func validatePassthrough(p *pb.PassthroughOp, n int64) error {
	if p == nil || len(p.Outputs) == 0 || len(p.Outputs) > maxOutputs {
		return errors.New("a passthrough has outputs")
	}
	for _, i := range p.Outputs {
		if i < 0 || i >= n {
			return fmt.Errorf("input %d of %d", i, n)
		}
	}
	return nil
}
