package faults

import (
	"fmt"
	"io"
	"log"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Stats is what a proxy has seen and done.
type Stats struct {
	Seed     uint64
	Requests int
	Faults   map[string]int // by kind, Status also by code
	Retries  int            // requests that came again after a fault
	Stalled  int            // bodies that have come to the offset where they stop
	// Up and Down are the bytes of blobs that were passed on to the registry and
	// to the client.
	Up, Down int64
	// Sent are the bytes of all answers.
	Sent int64
}

// Total is the number of faults.
func (s Stats) Total() int {
	n := 0
	for _, k := range s.Faults {
		n += k
	}
	return n
}

// String is one line for a test's log.
func (s Stats) String() string {
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(s.Faults)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, s.Faults[k]))
	}
	detail := ""
	if len(kinds) > 0 {
		detail = " (" + strings.Join(kinds, ", ") + ")"
	}
	return fmt.Sprintf("faults: seed %d: %d requests, %d faults%s, %d retries, %.1f MB up, %.1f MB down",
		s.Seed, s.Requests, s.Total(), detail, s.Retries, float64(s.Up)/1e6, float64(s.Down)/1e6)
}

func (s *Stats) count(kind string) {
	if s.Faults == nil {
		s.Faults = map[string]int{}
	}
	s.Faults[kind]++
}

// Stats returns what was counted so far.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Seed = p.seed
	s.Faults = maps.Clone(s.Faults)
	return s
}

// add counts bytes.
func (p *Proxy) add(n *int64, k int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n += int64(k)
}

// quiet drops what the servers say about connections that the proxy cuts.
var quiet = log.New(io.Discard, "", 0)

func itoa(n int) string { return strconv.Itoa(n) }
