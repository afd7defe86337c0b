package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"
)

// progress shows a build's events on stderr until it is closed.
type progress struct {
	env  *env
	mode progressui.DisplayMode
	done chan struct{}

	mu     sync.Mutex
	closed bool
	events chan *client.SolveStatus

	warnings []client.VertexWarning // valid after done
}

// startProgress starts a display. The mode is auto, tty, plain, quiet or
// rawjson.
func (e *env) startProgress(mode string) (*progress, error) {
	p := &progress{
		env:    e,
		mode:   progressui.DisplayMode(mode),
		events: make(chan *client.SolveStatus, 64),
		done:   make(chan struct{}),
	}
	display, err := progressui.NewDisplay(e.stderr, p.mode)
	if err != nil {
		return nil, fmt.Errorf("progress %s: %w", mode, err)
	}
	go func() {
		defer close(p.done)
		// What was sent is shown also when the build is cancelled.
		p.warnings, _ = display.UpdateFrom(context.Background(), p.events)
	}()
	return p, nil
}

// update shows one event; after close it does nothing.
func (p *progress) update(s *client.SolveStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.events <- s
	}
}

// step shows what fn does as a step of the build, with details below its name.
func (p *progress) step(name string, details []string, fn func() error) error {
	started := time.Now()
	v := client.Vertex{Digest: digest.FromString(name), Name: name, Started: &started}
	p.update(&client.SolveStatus{Vertexes: []*client.Vertex{&v}})
	err := fn()
	ended := time.Now()
	done := v
	done.Completed = &ended
	if err != nil {
		done.Error = err.Error()
	}
	status := &client.SolveStatus{Vertexes: []*client.Vertex{&done}}
	for _, d := range details {
		status.Statuses = append(status.Statuses, &client.VertexStatus{
			ID: d, Vertex: v.Digest, Name: d, Timestamp: ended, Started: &started, Completed: &ended,
		})
	}
	p.update(status)
	return err
}

// close ends the display and lists the warnings it has seen.
func (p *progress) close() {
	p.mu.Lock()
	p.closed = true
	close(p.events)
	p.mu.Unlock()
	<-p.done
	if p.mode == progressui.QuietMode || p.mode == progressui.RawJSONMode || len(p.warnings) == 0 {
		return
	}
	p.env.print("\n %s (bk build --check explains them):\n", count(len(p.warnings), "warning", "found"))
	for _, w := range p.warnings {
		p.env.print(" - %s\n", w.Short)
	}
}

// count is "1 warning found", "2 warnings found".
func count(n int, noun, verb string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s %s", n, noun, verb)
}
