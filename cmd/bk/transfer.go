package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout/transfer"
)

// statusInterval is how often the count of a moving blob is shown.
const statusInterval = 100 * time.Millisecond

// transferView shows one transfer as a step, and its blobs below it.
type transferView struct {
	p *progress
	v client.Vertex

	mu    sync.Mutex
	blobs map[digest.Digest]*client.VertexStatus
}

// transfer starts to show a transfer.
func (p *progress) transfer(name string) *transferView {
	now := time.Now()
	t := &transferView{p: p, blobs: map[digest.Digest]*client.VertexStatus{}}
	t.v = client.Vertex{Digest: digest.FromString(name), Name: name, Started: &now}
	v := t.v
	p.update(&client.SolveStatus{Vertexes: []*client.Vertex{&v}})
	return t
}

// done ends the step.
func (t *transferView) done(err error) {
	now := time.Now()
	v := t.v
	v.Completed = &now
	if err != nil {
		v.Error = err.Error()
		if errors.Is(err, context.Canceled) {
			v.Error = context.Canceled.Error()
		}
	}
	t.p.update(&client.SolveStatus{Vertexes: []*client.Vertex{&v}})
}

// log shows a line, such as why something is tried again.
func (t *transferView) log(line string) {
	t.p.update(&client.SolveStatus{Logs: []*client.VertexLog{{
		Vertex: t.v.Digest, Stream: 2, Data: []byte(printable(line) + "\n"), Timestamp: time.Now(),
	}}})
}

// note shows what happened to a blob.
func (t *transferView) note(e transfer.Event) {
	if s := t.status(e); s != nil {
		t.p.update(&client.SolveStatus{Statuses: []*client.VertexStatus{s}})
	}
}

// status returns what there is to show of an event: not every byte.
func (t *transferView) status(e transfer.Event) *client.VertexStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := t.blobs[e.Desc.Digest]
	if s == nil {
		name := e.Desc.Digest.String()
		s = &client.VertexStatus{ID: name, Vertex: t.v.Digest, Name: name, Total: e.Desc.Size, Started: &now}
		t.blobs[e.Desc.Digest] = s
	} else if e.State == transfer.Moving && now.Sub(s.Timestamp) < statusInterval {
		s.Current = e.Bytes
		return nil
	}
	s.Timestamp = now
	switch e.State {
	case transfer.Moving:
		s.Current = e.Bytes
	case transfer.Exists, transfer.Mounted, transfer.Linked, transfer.Skipped:
		s.ID, s.Total, s.Completed = s.Name+" "+stateNames[e.State], 0, &now
	case transfer.Copied:
		s.Current, s.Completed = s.Total, &now
	case transfer.Failed:
		return nil // the step shows the error
	}
	shown := *s
	return &shown
}

var stateNames = map[transfer.State]string{
	transfer.Exists: "exists", transfer.Mounted: "mounted", transfer.Linked: "linked", transfer.Skipped: "not distributed",
}
