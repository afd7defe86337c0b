// Package faults makes a bad registry of a good one, for tests: a proxy that
// stands between a client and a registry, cuts connections, answers that it is
// busy, stalls, or lies.
//
//	client -> Proxy -> registry
//	              \
//	               Proxy.Foreign, another host that writes down what it is asked
//
// What happens to the n-th request depends on the seed and on n alone, so that
// a failure can be repeated. A [Fault] with Times set ends: a client that tries
// again gets through. The proxy counts requests, faults, retries and bytes, and
// logs them when the test ends.
package faults

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Kind says what goes wrong.
type Kind string

// What networks and busy servers do. A client that tries again gets over it.
const (
	// Reset resets the connection before the request is forwarded.
	Reset Kind = "reset"
	// Lose forwards the request and resets the connection instead of answering:
	// the client doesn't learn that it was done.
	Lose Kind = "lose"
	// Status answers with Fault.Code, and Retry-After when Fault.RetryAfter is set.
	Status Kind = "status"
	// Cut resets the connection in the middle of a body: that of the request, when
	// it has one, else that of the answer.
	Cut Kind = "cut"
	// Truncate closes the connection, as if all were done, in the middle of the
	// answer's body.
	Truncate Kind = "truncate"
	// Stall stops in the middle of a body, as Cut does, and closes the connection
	// after Fault.Pause.
	Stall Kind = "stall"
	// Slow sends the answer's body in 16 pieces with Fault.Pause before each.
	Slow Kind = "slow"
)

// What hostile and broken servers do.
const (
	// Flip changes one byte of the answer's body.
	Flip Kind = "flip"
	// Length announces Fault.At bytes more than there are (fewer, when it is
	// negative; 0: one more), and sends as many.
	Length Kind = "length"
	// Digest answers with Fault.Value as Docker-Content-Digest.
	Digest Kind = "digest"
	// Type answers with Fault.Value as Content-Type; empty: a manifest is called
	// an index, everything else a manifest.
	Type Kind = "type"
	// Redirect sends the client to another host, which has the content.
	Redirect Kind = "redirect"
	// Location sends an upload to another host, which passes it on.
	Location Kind = "location"
	// Realm asks for a token from Fault.Value; empty: from a cloud's metadata
	// service.
	Realm Kind = "realm"
	// Link says that a list goes on at Fault.Value; empty: at another host.
	Link Kind = "link"
	// Loop says that a list goes on where it began.
	Loop Kind = "loop"
	// Huge answers with Fault.Code (0: 200) and a document that begins with
	// Fault.Value and doesn't end for a gigabyte.
	Huge Kind = "huge"
)

// A Fault is what happens to some requests.
type Fault struct {
	Kind Kind
	// On chooses requests; nil: all that the kind can be about.
	On func(*http.Request) bool
	// Chance is how likely the fault is for such a request. 0: certain.
	Chance float64
	// Times is how often it happens. 0: always.
	Times int
	// InRow is how many faults may befall the same request one after the other
	// before this one is left out. 0: any number.
	InRow int
	// At is the offset in the body where it happens. 0: anywhere; below 0: before
	// the first byte.
	At int64

	Code       int           // of Status (0: 503) and Huge
	RetryAfter string        // of Status
	Pause      time.Duration // of Stall and Slow
	Value      string        // of the lies
}

// name is what the fault is counted as.
func (f *Fault) name() string {
	if f.Kind == Status {
		return "status " + itoa(f.code())
	}
	return string(f.Kind)
}

func (f *Fault) code() int {
	switch {
	case f.Code != 0:
		return f.Code
	case f.Kind == Status:
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// about says whether a fault can happen to a request.
func (f *Fault) about(r *http.Request) bool {
	if f.On != nil {
		return f.On(r)
	}
	switch f.Kind {
	case Cut, Stall:
		return OnBlob(r) || OnUpload(r) && hasBody(r)
	case Truncate, Slow, Flip, Length, Redirect:
		return OnBlob(r)
	case Digest, Type:
		return OnManifest(r)
	case Location:
		return OnUpload(r)
	case Link, Loop:
		return OnList(r)
	}
	return true
}

// OnBlob chooses downloads of blobs.
func OnBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && !isUpload(r)
}

// OnUpload chooses what begins, continues and ends uploads of blobs.
func OnUpload(r *http.Request) bool { return r.Method != http.MethodGet && isUpload(r) }

// OnManifest chooses reading of manifests and indexes.
func OnManifest(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.URL.Path, "/manifests/")
}

// OnPut chooses writing of manifests and indexes.
func OnPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
}

// OnList chooses lists, which may come in pages.
func OnList(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/tags/list") || strings.Contains(r.URL.Path, "/referrers/") || strings.HasSuffix(r.URL.Path, "/_catalog")
}

func isUpload(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/uploads/") }

func hasBody(r *http.Request) bool { return r.ContentLength != 0 }

// Passing are faults of every kind that ends, each at most times times, with
// this chance for every request that it is about, and no more than two in a row.
// pause should be longer than what the client takes for silence.
func Passing(chance float64, times int, pause time.Duration) []Fault {
	list := []Fault{
		{Kind: Reset}, {Kind: Lose}, {Kind: Cut, On: OnBlob}, {Kind: Cut, On: func(r *http.Request) bool { return OnUpload(r) && hasBody(r) }},
		{Kind: Truncate}, {Kind: Stall, Pause: pause}, {Kind: Slow, Pause: pause / 100},
		{Kind: Status, Code: 429, RetryAfter: "0"}, {Kind: Status, Code: 429, RetryAfter: "Mon, 02 Jan 2006 15:04:05 GMT"},
		{Kind: Status, Code: 500}, {Kind: Status, Code: 502}, {Kind: Status, Code: 503, RetryAfter: "1"}, {Kind: Status, Code: 504},
	}
	for i := range list {
		list[i].Chance, list[i].Times, list[i].InRow = chance, times, 2
	}
	return list
}

// A Proxy is a registry whose connections and answers are bad.
type Proxy struct {
	Addr    string // 127.0.0.1:PORT
	Foreign string // HOST:PORT of the other host

	target    *url.URL
	transport *http.Transport
	seed      uint64
	done      chan struct{} // closed when the test ends

	mu     sync.Mutex
	faults []Fault
	left   []int // of faults with Times
	stats  Stats
	failed map[string]int // requests that faults befell and that may come again
	row    map[string]int // faults that befell a request since it last succeeded
	moved  map[string]*http.Request
	seen   []Visit
}

// A Visit is a request that came to the other host.
type Visit struct {
	Method, URL string
	Header      http.Header
}

// Start runs a proxy before the registry at target ("127.0.0.1:PORT" or a URL)
// until the test ends.
func Start(t testing.TB, target string, seed uint64, faults ...Fault) *Proxy {
	t.Helper()
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		target: u, seed: seed, done: make(chan struct{}),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16},
		failed:    map[string]int{}, row: map[string]int{}, moved: map[string]*http.Request{},
	}
	p.Inject(faults...)
	front := p.listen(t, "127.0.0.1:0", p.serve)
	other := p.listen(t, "127.0.0.2:0", p.serveForeign)
	p.Addr, p.Foreign = front.Listener.Addr().String(), other.Listener.Addr().String()
	t.Cleanup(func() {
		close(p.done)
		front.CloseClientConnections()
		other.CloseClientConnections()
		front.Close()
		other.Close()
		p.transport.CloseIdleConnections()
		t.Log(p.Stats())
	})
	return p
}

// listen starts a server; where addr is not of this machine, on another port of
// the usual loopback address.
func (p *Proxy) listen(t testing.TB, addr string, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: handle, ErrorLog: quiet}}
	s.Start()
	return s
}

// Inject replaces the faults; what was counted stays.
func (p *Proxy) Inject(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = faults
	p.left = make([]int, len(faults))
	for i, f := range faults {
		p.left[i] = f.Times
	}
}

// Visits returns what the other host was asked.
func (p *Proxy) Visits() []Visit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Visit(nil), p.seen...)
}

// choose counts a request and returns what happens to it, if anything, and the
// numbers that it happens by.
func (p *Proxy) choose(r *http.Request) (*Fault, *rand.Rand) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Requests++
	key := identity(r)
	if p.failed[key] > 0 {
		p.failed[key]--
		p.stats.Retries++
	}
	rng := rand.New(rand.NewPCG(p.seed, uint64(p.stats.Requests)))
	var found *Fault
	for i := range p.faults {
		f := &p.faults[i]
		if roll := rng.Float64(); found != nil || f.Chance != 0 && roll >= f.Chance || !p.due(i, r, key) {
			continue
		}
		p.left[i]--
		found = f
	}
	if found == nil {
		p.row[key] = 0
		return nil, rng
	}
	p.stats.count(found.name())
	p.failed[key]++
	p.row[key]++
	return found, rng
}

// due says whether the i-th fault may still happen, to this request.
func (p *Proxy) due(i int, r *http.Request, key string) bool {
	f := &p.faults[i]
	return (f.Times == 0 || p.left[i] > 0) && (f.InRow == 0 || p.row[key] < f.InRow) && f.about(r)
}

// identity is what a request has in common with one that repeats it: uploads
// may begin again under another address.
func identity(r *http.Request) string {
	path := r.URL.Path
	if i := strings.Index(path, "/blobs/uploads/"); i >= 0 {
		path = path[:i] + "/blobs/uploads/"
	}
	return r.Method + " " + path
}

// pause waits, unless the client or the test ends before.
func (p *Proxy) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-p.done:
	}
}

// stall is the pause in the middle of a body.
func (p *Proxy) stall(ctx context.Context, d time.Duration) {
	p.mu.Lock()
	p.stats.Stalled++
	p.mu.Unlock()
	p.pause(ctx, d)
}
