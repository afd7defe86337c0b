package builder

import (
	"strings"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/graph"
)

// A mode that isn't known is not allowed, whatever else is: the values come
// from a frontend.
func TestUnknownModes(t *testing.T) {
	all, err := ParseEntitlements([]string{"network.host", "security.insecure", "device"})
	if err != nil {
		t.Fatal(err)
	}
	b := &build{opts: Options{Allow: all}}
	for _, op := range []*pb.ExecOp{{Security: 2}, {Security: -1}, {Network: 3}, {Network: 7}, {Network: -1}} {
		if err := b.permitExec(op); err == nil || !strings.Contains(err.Error(), "is not known") {
			t.Errorf("security %d, network %d: %v", op.Security, op.Network, err)
		}
		op.Meta = &pb.Meta{Args: []string{"true"}}
		op.Mounts = []*pb.Mount{{Dest: "/", Input: -1}}
		dt, err := (&pb.Op{Op: &pb.Op_Exec{Exec: op}}).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := graph.New().Add(&pb.Definition{Def: [][]byte{dt}}); err == nil {
			t.Errorf("security %d, network %d: the graph takes it", op.Security, op.Network)
		}
	}
	if err := b.permitExec(&pb.ExecOp{Security: pb.SecurityMode_INSECURE, Network: pb.NetMode_HOST}); err != nil {
		t.Error(err)
	}
}

// A frontend gets no containers of its own, with whatever rights.
func TestNoContainersForFrontends(t *testing.T) {
	c := &engine{b: &build{}}
	if _, err := c.NewContainer(t.Context(), gateway.NewContainerRequest{}); err == nil {
		t.Error("a container was made")
	}
}

// Entitlements are spelled as BuildKit spells them; others are refused.
func TestParseEntitlements(t *testing.T) {
	for value, ok := range map[string]bool{
		"network.host": true, "security.insecure": true, "device": true, "device=a.com/b=c": true, "device=a.com/b=c,alias=d": true,
		"": false, "host": false, "network": false, "security.insecure=true": false, "device=a.com/b,mode=rw": false,
	} {
		if _, err := ParseEntitlements([]string{value}); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}
