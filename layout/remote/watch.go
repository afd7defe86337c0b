package remote

import (
	"context"
	"io"
	"time"
)

// watch ends a request whose server is silent for too long.
type watch struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	silence time.Duration
}

// newWatch returns a context that ends when nothing was read for that long.
func newWatch(ctx context.Context, silence time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{ctx: ctx, cancel: cancel, silence: silence}
	w.timer = time.AfterFunc(silence, func() { cancel(errStalled) })
	w.timer.Stop() // the transport has its own limit for the header
	return ctx, w
}

// read reads once, with the clock running.
func (w *watch) read(r io.Reader, p []byte) (int, error) {
	w.timer.Reset(w.silence)
	defer w.timer.Stop()
	return r.Read(p)
}

// reader is r under the watch.
func (w *watch) reader(r io.Reader) io.Reader { return watched{w, r} }

type watched struct {
	watch *watch
	r     io.Reader
}

func (r watched) Read(p []byte) (int, error) { return r.watch.read(r.r, p) }

// cause returns why the context ended, if it did, else err.
func (w *watch) cause(err error) error {
	if err != io.EOF && w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return err
}

// stop releases the context.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}
