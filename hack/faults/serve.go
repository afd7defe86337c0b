package faults

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// serve handles a request of the client.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	f, rng := p.choose(r)
	if f == nil {
		f = &Fault{}
	}
	switch f.Kind {
	case Reset:
		end(w, true)
	case Status:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.code())
		fmt.Fprintf(w, `{"errors":[{"code":"UNAVAILABLE","message":"injected %d"}]}`, f.code())
	case Redirect:
		http.Redirect(w, r, p.move(r), http.StatusTemporaryRedirect)
	case Realm:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="test"`, orElse(f.Value, "http://169.254.169.254/token")))
		w.WriteHeader(http.StatusUnauthorized)
	case Huge:
		p.huge(w, f)
	default:
		p.relay(w, r, f, rng)
	}
}

// relay forwards a request and its answer, with a fault in one of them.
func (p *Proxy) relay(w http.ResponseWriter, r *http.Request, f *Fault, rng *rand.Rand) {
	body := io.Reader(r.Body)
	broken := (f.Kind == Cut || f.Kind == Stall) && hasBody(r)
	if broken {
		body = &stopAt{r: r.Body, left: offset(f, rng, r.ContentLength)}
	}
	resp, err := p.forward(r, body)
	if err == nil {
		defer resp.Body.Close()
	}
	switch {
	case broken && f.Kind == Stall:
		p.stall(r.Context(), f.Pause)
		end(w, false)
	case broken || f.Kind == Lose:
		end(w, true)
	case err != nil:
		end(w, true) // what the registry did, the client sees
	default:
		p.lie(resp, f, rng)
		p.answer(w, r, resp, f, rng)
	}
}

// forward sends a request to the registry.
func (p *Proxy) forward(r *http.Request, body io.Reader) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = p.target.Scheme, p.target.Host, ""
	out.Header.Del("Connection")
	if out.Body = http.NoBody; hasBody(r) {
		if isUpload(r) {
			body = &counted{body, func(n int) { p.add(&p.stats.Up, n) }}
		}
		out.Body = io.NopCloser(body)
	}
	return p.transport.RoundTrip(out)
}

// answer passes a response on.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, resp *http.Response, f *Fault, rng *rand.Rand) {
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	body := io.Reader(&counted{resp.Body, func(n int) {
		p.add(&p.stats.Sent, n)
		if OnBlob(r) && resp.StatusCode < 300 {
			p.add(&p.stats.Down, n)
		}
	}})
	out := io.Writer(w)
	switch f.Kind {
	case Cut, Truncate, Stall:
		_, err := io.CopyN(out, body, offset(f, rng, resp.ContentLength))
		if errors.Is(err, io.EOF) {
			return // there was not that much
		}
		_ = http.NewResponseController(w).Flush() // the client may be gone
		if f.Kind == Stall {
			p.stall(r.Context(), f.Pause)
		}
		end(w, f.Kind == Cut)
		return
	case Slow:
		piece := max(1, resp.ContentLength/16)
		for {
			p.pause(r.Context(), f.Pause)
			if _, err := io.CopyN(out, body, piece); err != nil {
				break
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
	if _, err := io.Copy(out, body); err != nil {
		end(w, true)
	}
}

// offset is where in a body of a length (-1: unknown) a fault happens.
func offset(f *Fault, rng *rand.Rand, length int64) int64 {
	switch {
	case f.At != 0:
		return max(0, f.At)
	case length < 0:
		return rng.Int64N(1 << 20)
	case length == 0:
		return 0
	}
	return rng.Int64N(length)
}

// huge sends a document that doesn't end in time.
func (p *Proxy) huge(w http.ResponseWriter, f *Fault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.code())
	piece := []byte(orElse(f.Value, `{"errors":[{"code":"UNKNOWN","message":"`))
	fill := []byte(strings.Repeat("a", 64<<10))
	for range 1 << 14 {
		n, err := w.Write(piece)
		p.add(&p.stats.Sent, n)
		if err != nil {
			return
		}
		piece = fill
	}
}

// end ends the client's connection, at once or as if all were said.
func end(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0) // it may be gone
	}
	conn.Close()
}

// serveForeign is the other host: it has what it was said to have, passes on
// everything else, and writes down who asked.
func (p *Proxy) serveForeign(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, Visit{r.Method, r.URL.String(), r.Header.Clone()})
	asked := p.moved[r.URL.Path]
	p.mu.Unlock()
	if asked != nil {
		r2 := asked.Clone(r.Context()) // with the credentials that the registry wants
		r2.Header.Del("Range")
		if part := r.Header.Get("Range"); part != "" {
			r2.Header.Set("Range", part)
		}
		r2.Body, r2.ContentLength = http.NoBody, 0
		r = r2
	}
	p.relay(w, r, &Fault{}, nil)
}

// move gives the content of a request an address at the other host.
func (p *Proxy) move(r *http.Request) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := "/moved/" + strconv.Itoa(len(p.moved))
	p.moved[path] = r.Clone(r.Context())
	return "http://" + p.Foreign + path + "?signature=SECRET"
}

// counted tells how much was read.
type counted struct {
	r     io.Reader
	count func(int)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.count(n)
	return n, err
}

var errStopped = errors.New("injected end")

// stopAt fails after some bytes.
type stopAt struct {
	r    io.Reader
	left int64
}

func (s *stopAt) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, errStopped
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	return n, err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
