package remote

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// patience is the stage that ends a request whose server is silent for too
// long: before it answers, while it takes the request's body, and while it
// sends its own. The time that others take, who give the body or read the
// answer, does not count.
type patience struct {
	inner http.RoundTripper
	limit time.Duration
}

// RoundTrip sends req and watches it, also after it returned.
func (p *patience) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{ctx: ctx, cancel: cancel, silence: p.limit, answer: max(p.limit, termsOf(req.Context()).patience)}
	first := w.answer
	if hasBody(req) {
		first = w.silence
	}
	w.timer = time.AfterFunc(first, func() { cancel(errStalled) })
	req = req.WithContext(ctx)
	if hasBody(req) {
		req.Body = &sent{ReadCloser: req.Body, watch: w}
	}
	resp, err := p.inner.RoundTrip(req)
	w.answered.Store(true)
	w.timer.Stop()
	if err != nil {
		err = w.cause(err)
		w.stop()
		return nil, err
	}
	resp.Body = &received{ReadCloser: resp.Body, watch: w}
	return resp, nil
}

// watch is the clock of one request.
type watch struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	silence  time.Duration
	answer   time.Duration // from the last byte that is sent to the answer
	answered atomic.Bool
}

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

// sent is a request's body. The clock stands while its source is read.
type sent struct {
	io.ReadCloser
	watch *watch
}

func (s *sent) Read(p []byte) (int, error) {
	if s.watch.answered.Load() {
		return s.ReadCloser.Read(p)
	}
	s.watch.timer.Stop()
	n, err := s.ReadCloser.Read(p)
	if err == nil {
		s.reset(s.watch.silence)
	} else {
		s.reset(s.watch.answer)
	}
	return n, err
}

func (s *sent) Close() error {
	s.reset(s.watch.answer)
	return s.ReadCloser.Close()
}

// reset starts the clock again, unless the answer is there.
func (s *sent) reset(d time.Duration) {
	if !s.watch.answered.Load() {
		s.watch.timer.Reset(d)
	}
}

// received is a response's body. The clock runs while it is read.
type received struct {
	io.ReadCloser
	watch *watch
}

func (r *received) Read(p []byte) (int, error) {
	r.watch.timer.Reset(r.watch.silence)
	n, err := r.ReadCloser.Read(p)
	r.watch.timer.Stop()
	if err != nil {
		err = r.watch.cause(err)
	}
	return n, err
}

func (r *received) Close() error {
	err := r.ReadCloser.Close()
	r.watch.stop()
	return err
}
