package builder

import (
	"fmt"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"

	"bk.build/bk/builder/graph"
)

// Entitlements are the rights beyond the default ones that steps may ask for:
// network.host, security.insecure, and devices. What a Dockerfile asks for and
// the build was not allowed is refused before anything runs.
type Entitlements = entitlements.Set

// ParseEntitlements reads values of --allow: "network.host",
// "security.insecure", "device" for every device, or "device=NAME[,alias=NAME]".
func ParseEntitlements(values []string) (Entitlements, error) {
	list := make([]entitlements.Entitlement, len(values))
	for i, v := range values {
		list[i] = entitlements.Entitlement(v)
	}
	set, err := entitlements.WhiteList(list, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: must be network.host, security.insecure or device[=NAME]", err)
	}
	return set, nil
}

// permit refuses the edge when it, or what it is made from, asks for more than
// the build allows.
func (b *build) permit(e graph.Edge) error {
	seen := map[*graph.Vertex]bool{}
	var visit func(v *graph.Vertex) error
	visit = func(v *graph.Vertex) error {
		if v == nil || seen[v] {
			return nil
		}
		seen[v] = true
		if exec := v.Op.GetExec(); exec != nil {
			if err := b.permitExec(exec); err != nil {
				return &StepError{Name: v.Name, Vertex: v, Err: err}
			}
		}
		for _, in := range v.Inputs {
			if err := visit(in.Vertex); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(e.Vertex)
}

// permitExec compares one step with what is allowed. A mode that isn't known
// is never allowed.
func (b *build) permitExec(op *pb.ExecOp) error {
	allow := b.opts.Allow
	switch op.Security {
	case pb.SecurityMode_SANDBOX:
	case pb.SecurityMode_INSECURE:
		if !allow.Allowed(entitlements.EntitlementSecurityInsecure) {
			return notAllowed("security.insecure", "all rights on this machine")
		}
	default:
		return fmt.Errorf("security mode %s is not known", op.Security)
	}
	switch op.Network {
	case pb.NetMode_UNSET, pb.NetMode_NONE:
	case pb.NetMode_HOST:
		if !allow.Allowed(entitlements.EntitlementNetworkHost) {
			return notAllowed("network.host", "this machine's network")
		}
	default:
		return fmt.Errorf("network mode %s is not known", op.Network)
	}
	if len(op.CdiDevices) == 0 {
		return nil
	}
	_, err := b.devices(op.CdiDevices)
	return err
}

// notAllowed says which flag would allow what a step asks for.
func notAllowed(name, what string) error {
	return fmt.Errorf("%s is not allowed: the step asks for %s: if it may have that, build with --allow %[1]s", name, what)
}
