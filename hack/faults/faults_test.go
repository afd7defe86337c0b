package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	blob     = "/v2/app/blobs/sha256:00"
	manifest = "/v2/app/manifests/v1"
	upload   = "/v2/app/blobs/uploads/1"
	tags     = "/v2/app/tags/list"
)

// backend is as much of a registry as the proxy needs to see. It keeps what was
// uploaded, also of uploads that broke.
type backend struct {
	content []byte
	mu      sync.Mutex
	got     []int
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPatch:
		n, _ := io.Copy(io.Discard, r.Body)
		b.mu.Lock()
		b.got = append(b.got, int(n))
		b.mu.Unlock()
		w.Header().Set("Location", "http://"+r.Host+upload)
		w.WriteHeader(http.StatusAccepted)
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha256:true")
		io.WriteString(w, "{}")
	case strings.HasSuffix(r.URL.Path, "/list"):
		io.WriteString(w, `{"tags":["v1"]}`)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.content))
	}
}

func (b *backend) uploads() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// site is a proxy before a backend, and a client that follows no redirects.
type site struct {
	*Proxy
	backend *backend
	client  *http.Client
}

func newSite(t *testing.T, faults ...Fault) *site {
	t.Helper()
	b := &backend{content: bytes.Repeat([]byte("0123456789abcdef"), 1<<14)}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &site{Start(t, server.URL, 7, faults...), b, &http.Client{
		Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// do asks the proxy; the error is that of the header or of the body.
func (s *site) do(t *testing.T, method, path string, body []byte) (*http.Response, []byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.Addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Basic secret")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

// Each fault that ends is seen by the client as what it is called, as often as
// it was ordered, and then the same request succeeds.
func TestPassing(t *testing.T) {
	whole := 1 << 18
	for name, tt := range map[string]struct {
		fault  Fault
		method string
		path   string
		status int // 0: no answer at all
		body   int // bytes of the answer; -1: some, and then an error
	}{
		"reset":        {Fault{Kind: Reset}, "GET", blob, 0, 0},
		"lose":         {Fault{Kind: Lose}, "PATCH", upload, 0, 0},
		"cut":          {Fault{Kind: Cut}, "GET", blob, 200, -1},
		"cut upload":   {Fault{Kind: Cut, At: 1000}, "PATCH", upload, 0, 0},
		"truncate":     {Fault{Kind: Truncate, At: 5000}, "GET", blob, 200, -1},
		"stall":        {Fault{Kind: Stall, Pause: 10 * time.Millisecond}, "GET", blob, 200, -1},
		"stall upload": {Fault{Kind: Stall, Pause: 10 * time.Millisecond}, "PATCH", upload, 0, 0},
		"slow":         {Fault{Kind: Slow, Pause: time.Millisecond}, "GET", blob, 200, whole},
		"status":       {Fault{Kind: Status}, "GET", blob, 503, 60},
		"429":          {Fault{Kind: Status, Code: 429, RetryAfter: "3"}, "GET", manifest, 429, 60},
	} {
		t.Run(name, func(t *testing.T) {
			tt.fault.Times = 2
			s := newSite(t, tt.fault)
			send := make([]byte, 0)
			if tt.method == "PATCH" {
				send = make([]byte, whole)
			}
			for range 2 {
				resp, body, err := s.do(t, tt.method, tt.path, send)
				switch {
				case tt.status == 0:
					if resp != nil {
						t.Fatalf("answer %s, want none", resp.Status)
					}
				case err != nil && tt.body >= 0 || err == nil && tt.body < 0:
					t.Fatalf("%d bytes, %v", len(body), err)
				case resp.StatusCode != tt.status || tt.body >= 0 && len(body) != tt.body || len(body) == whole && tt.body < 0:
					t.Fatalf("%s with %d bytes, %v", resp.Status, len(body), err)
				case resp.Header.Get("Retry-After") != tt.fault.RetryAfter:
					t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
				}
			}
			if resp, _, err := s.do(t, tt.method, tt.path, send); err != nil || resp.StatusCode >= 300 {
				t.Errorf("after the faults: %v", err)
			}
			if st := s.Stats(); st.Requests != 3 || st.Total() != 2 || st.Faults[tt.fault.name()] != 2 || st.Retries != 2 {
				t.Errorf("counted %s", st)
			}
		})
	}
}

// An upload that is cut reaches the registry up to the cut, as it would in a
// network; one whose answer is lost reaches it whole.
func TestUploadArrives(t *testing.T) {
	s := newSite(t, Fault{Kind: Cut, At: 1000, Times: 1})
	s.do(t, "PATCH", upload, make([]byte, 100_000))
	for range 100 {
		if len(s.backend.uploads()) == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond) // the backend reads on by itself
	}
	s.Inject(Fault{Kind: Lose, Times: 1})
	s.do(t, "PATCH", upload, make([]byte, 100_000))
	if got := s.backend.uploads(); !slices.Equal(got, []int{1000, 100_000}) || s.Stats().Up != 101_000 {
		t.Errorf("the registry got %d bytes; counted %s", got, s.Stats())
	}
}

// Each lie is told.
func TestLies(t *testing.T) {
	for name, tt := range map[string]struct {
		fault Fault
		path  string
		want  func(s *site, r *http.Response, body []byte) bool
	}{
		"flip": {Fault{Kind: Flip}, blob, func(s *site, _ *http.Response, b []byte) bool {
			n := 0
			for i := range b {
				if b[i] != s.backend.content[i] {
					n++
				}
			}
			return n == 1 && len(b) == len(s.backend.content)
		}},
		"longer": {Fault{Kind: Length, At: 3}, blob, func(s *site, r *http.Response, b []byte) bool {
			return len(b) == len(s.backend.content)+3 && r.ContentLength == int64(len(b))
		}},
		"shorter": {Fault{Kind: Length, At: -3}, blob, func(s *site, r *http.Response, b []byte) bool {
			return len(b) == len(s.backend.content)-3 && r.ContentLength == int64(len(b))
		}},
		"digest": {Fault{Kind: Digest}, manifest, func(_ *site, r *http.Response, _ []byte) bool {
			return !strings.Contains(r.Header.Get("Docker-Content-Digest"), "true")
		}},
		"type": {Fault{Kind: Type}, manifest, func(_ *site, r *http.Response, _ []byte) bool {
			return strings.Contains(r.Header.Get("Content-Type"), "index")
		}},
		"realm": {Fault{Kind: Realm}, manifest, func(_ *site, r *http.Response, _ []byte) bool {
			return r.StatusCode == 401 && strings.Contains(r.Header.Get("WWW-Authenticate"), "169.254.169.254")
		}},
		"link": {Fault{Kind: Link}, tags, func(s *site, r *http.Response, _ []byte) bool {
			return strings.Contains(r.Header.Get("Link"), s.Foreign+tags)
		}},
		"loop": {Fault{Kind: Loop}, tags, func(_ *site, r *http.Response, _ []byte) bool {
			return strings.Contains(r.Header.Get("Link"), "<"+tags+">")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, tt.fault)
			resp, body, err := s.do(t, "GET", tt.path, nil)
			if err != nil || !tt.want(s, resp, body) {
				t.Errorf("%v, %d bytes, %v", resp, len(body), err)
			}
		})
	}
}

// The other host has what the client was sent there for, and writes down the
// credentials that it brought.
func TestForeign(t *testing.T) {
	s := newSite(t, Fault{Kind: Redirect, Times: 1}, Fault{Kind: Location, Times: 1})
	resp, _, err := s.do(t, "GET", blob, nil)
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(resp.Header.Get("Location"), "http://"+s.Foreign) {
		t.Fatalf("%v, %v", resp, err)
	}
	req, err := http.NewRequest(http.MethodGet, resp.Header.Get("Location"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "leak")
	req.Header.Set("Range", "bytes=16-31")
	moved, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer moved.Body.Close()
	if b, err := io.ReadAll(moved.Body); err != nil || string(b) != "0123456789abcdef" {
		t.Errorf("the other host sends %q, %v", b, err)
	}
	if v := s.Visits(); len(v) != 1 || v[0].Header.Get("Authorization") != "leak" {
		t.Errorf("the other host saw %v", v)
	}
	if resp, _, err := s.do(t, "PATCH", upload, []byte("x")); err != nil || resp.Header.Get("Location") != "http://"+s.Foreign+upload {
		t.Errorf("Location: %v, %v", resp, err)
	}
}

// A client that reads on and on gets a lot.
func TestHuge(t *testing.T) {
	s := newSite(t, Fault{Kind: Huge, Code: 404, Value: `{"tags":["`})
	resp, err := s.client.Get("http://" + s.Addr + tags)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, resp.Body, 50<<20)
	resp.Body.Close()
	if resp.StatusCode != 404 || n != 50<<20 || err != nil {
		t.Errorf("%s, %d bytes, %v", resp.Status, n, err)
	}
}

// Faults that are not to come in a row let the request pass in between.
func TestInRow(t *testing.T) {
	s := newSite(t, Fault{Kind: Status, InRow: 2})
	var got []int
	for range 6 {
		resp, _, err := s.do(t, "GET", manifest, nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, resp.StatusCode)
	}
	if want := []int{503, 503, 200, 503, 503, 200}; !slices.Equal(got, want) {
		t.Errorf("status %d, want %d", got, want)
	}
}

// The same seed gives the same faults, another one others.
func TestSeed(t *testing.T) {
	outcome := func(seed uint64) string {
		p := Start(t, "127.0.0.1:1", seed, Fault{Kind: Status, Chance: 0.5})
		var b strings.Builder
		for range 40 {
			resp, err := http.Get("http://" + p.Addr + "/v2/")
			if err == nil {
				resp.Body.Close()
				b.WriteByte('s')
				continue
			}
			if errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			b.WriteByte('-')
		}
		return b.String()
	}
	a, b, c := outcome(1), outcome(1), outcome(2)
	if a != b || a == c || !strings.Contains(a, "s-") {
		t.Errorf("outcomes:\n%s\n%s\n%s", a, b, c)
	}
}
