package builder

import (
	"context"
	"errors"

	"github.com/moby/buildkit/solver/pb"
)

type step struct {
	n     *node
	op    *pb.ExecOp
	trees []*Tree
}

func (s *step) run(ctx context.Context) ([]*Tree, error) { return nil, errors.New("RUN is not there yet") }
