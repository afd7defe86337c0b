package builder

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/builder/graph"
)

// reporter turns what happens into BuildKit's status events. A nil progress
// function makes every method do nothing.
type reporter struct {
	mu   sync.Mutex
	send Progress
}

func (r *reporter) emit(s *client.SolveStatus) {
	if r.send == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send(s)
}

// event is one vertex on the display.
type event struct {
	r *reporter
	v client.Vertex
}

func (r *reporter) vertex(v *graph.Vertex) *event {
	e := &event{r: r, v: client.Vertex{Digest: v.Digest, Name: v.Name, ProgressGroup: v.Group}}
	for _, in := range v.Inputs {
		e.v.Inputs = append(e.v.Inputs, in.Vertex.Digest)
	}
	return e
}

// internal is a vertex that no definition names.
func (r *reporter) internal(name string) *event {
	return &event{r: r, v: client.Vertex{Digest: digest.FromString(name + randomID()), Name: name}}
}

func (e *event) publish() {
	v := e.v
	e.r.emit(&client.SolveStatus{Vertexes: []*client.Vertex{&v}})
}

func (e *event) start() {
	now := time.Now()
	e.v.Started, e.v.Completed, e.v.Cached, e.v.Error = &now, nil, false, ""
	e.publish()
}

func (e *event) done(err error) {
	now := time.Now()
	if e.v.Started == nil {
		e.v.Started = &now
	}
	e.v.Completed = &now
	if err != nil {
		e.v.Error = err.Error()
		if errors.Is(err, context.Canceled) {
			e.v.Error = context.Canceled.Error()
		}
	}
	e.publish()
}

// cached reports a vertex that did not have to run.
func (e *event) cached() {
	now := time.Now()
	e.v.Started, e.v.Completed, e.v.Cached = &now, &now, true
	e.publish()
}

// cachedOr reports a source whose content is in the store as cached, and another
// as done: what it holds is fetched when somebody needs it.
func (e *event) cachedOr(all bool) {
	if all {
		e.cached()
		return
	}
	e.start()
	e.done(nil)
}

// log shows output of the vertex; stream is 1 for stdout, 2 for stderr.
func (e *event) log(stream int, data []byte) {
	e.r.emit(&client.SolveStatus{Logs: []*client.VertexLog{{
		Vertex: e.v.Digest, Stream: stream, Data: append([]byte(nil), data...), Timestamp: time.Now(),
	}}})
}

// warn shows a warning about the vertex.
func (e *event) warn(text string) {
	e.r.emit(&client.SolveStatus{Warnings: []*client.VertexWarning{{Vertex: e.v.Digest, Level: 1, Short: []byte(text)}}})
}

// status shows a part of the vertex's work with its byte counts. It returns
// a function that updates the count, at most some times a second, and with a
// negative number ends it.
func (e *event) status(id string, total int64) func(n int64) {
	now := time.Now()
	st := client.VertexStatus{ID: id, Vertex: e.v.Digest, Name: id, Total: total, Timestamp: now, Started: &now}
	var mu sync.Mutex
	publish := func() {
		s := st
		e.r.emit(&client.SolveStatus{Statuses: []*client.VertexStatus{&s}})
	}
	publish()
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		t := time.Now()
		if n >= 0 {
			st.Current = n
			if t.Sub(st.Timestamp) < 100*time.Millisecond {
				return
			}
		} else {
			st.Completed = &t
			st.Current = max(st.Current, st.Total)
		}
		st.Timestamp = t
		publish()
	}
}
