package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	realregistry "bk.build/bk/hack/registry"
)

// proxy is a server of faults in front of a registry.
type proxy struct {
	*httptest.Server
	host string

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request) bool // true: answered
	requests []string                                          // "METHOD path"
	bytes    int64                                             // of bodies that were passed on
}

func newProxy(t *testing.T, upstream string) *proxy {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: upstream}
	p := &proxy{}
	quiet := newRegistry(t).Config.ErrorLog
	forward := &httputil.ReverseProxy{ErrorLog: quiet, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // so that locations lead here
	}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.Method+" "+r.URL.Path)
		fault := p.fault
		p.mu.Unlock()
		if fault != nil && fault(w, r) {
			return
		}
		r.Body = countingBody{r.Body, p}
		forward.ServeHTTP(w, r)
	}))
	p.Config.ErrorLog = quiet
	p.host = strings.TrimPrefix(p.URL, "http://")
	t.Cleanup(p.Close)
	return p
}

type countingBody struct {
	io.ReadCloser
	proxy *proxy
}

func (b countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.proxy.mu.Lock()
	b.proxy.bytes += int64(n)
	b.proxy.mu.Unlock()
	return n, err
}

func (p *proxy) inject(fault func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.requests, p.bytes = fault, nil, 0
}

// count is how many requests of a method were made for a path with part in it.
func (p *proxy) count(method, part string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.requests {
		if m, path, _ := strings.Cut(s, " "); m == method && strings.Contains(path, part) {
			n++
		}
	}
	return n
}

// brokenBody is a request's body whose connection breaks after some bytes.
type brokenBody struct {
	io.ReadCloser
	left int64
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the connection broke")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// pushed checks that a blob is in a repository byte for byte.
func pushed(t *testing.T, r *Repository, b []byte) {
	t.Helper()
	rd, err := r.Open(t.Context(), describeBlob(b))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	if got, err := io.ReadAll(rd); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("read %d bytes back, %v", len(got), err)
	}
}

// onlyReader hides that a reader can go back.
type onlyReader struct{ io.Reader }

// An upload whose connections break at any offset, whose registry is overloaded
// or forgets it, ends with the right bytes; what has arrived is not sent again.
func TestUploadFaults(t *testing.T) {
	b := random(5<<20 + 3)
	desc := describeBlob(b)
	rng := rand.New(rand.NewPCG(1, 2))
	for server, start := range servers {
		direct := start(t)
		p := newProxy(t, direct)
		for name, tt := range map[string]struct {
			chunk int64
			fault func(n int, w http.ResponseWriter, r *http.Request) bool // n: the number of the request with a body
		}{
			"cut": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%2 == 1 && n < 12 {
					r.Body = &brokenBody{r.Body, rng.Int64N(2 << 20)}
				}
				return false
			}},
			"cut in one piece": {chunk: 64 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n < 4 {
					r.Body = &brokenBody{r.Body, rng.Int64N(4 << 20)}
				}
				return false
			}},
			"answers are lost": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n == 2 {
					resp, err := forwardTo(direct, r)
					if err == nil {
						resp.Body.Close()
					}
					panic(http.ErrAbortHandler)
				}
				return false
			}},
			"overloaded": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n > 3 {
					return false
				}
				io.Copy(io.Discard, io.LimitReader(r.Body, 1000))
				w.Header().Set("Retry-After", "3")
				w.WriteHeader([]int{429, 503, 500, 408}[n%4])
				return true
			}},
			"forgotten": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n != 3 {
					return false
				}
				http.Error(w, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`, 404)
				return true
			}},
			"one chunk": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch || strings.HasPrefix(r.Header.Get("Content-Range"), "0-") {
					return false
				}
				w.WriteHeader(416)
				return true
			}},
			"no chunks": {chunk: 2 << 20, fault: func(n int, w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch {
					return false
				}
				http.Error(w, `{"errors":[{"code":"UNSUPPORTED"}]}`, http.StatusMethodNotAllowed)
				return true
			}},
		} {
			t.Run(server+"/"+name, func(t *testing.T) {
				var mu sync.Mutex
				n := 0
				p.inject(func(w http.ResponseWriter, r *http.Request) bool {
					if r.ContentLength == 0 || r.Method != http.MethodPatch && r.Method != http.MethodPut {
						return false
					}
					mu.Lock()
					n++
					n := n
					mu.Unlock()
					return tt.fault(n, w, r)
				})
				var waits []time.Duration
				c := newClient(&waits)
				c.ChunkSize = tt.chunk
				c.Attempts = 8
				c.Notify = func(s string) { t.Log(s) }
				r := testRepository(t, c, p.host+"/"+strings.ReplaceAll(name, " ", "-"))
				if err := r.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
					t.Fatal(err)
				}
				pushed(t, r, b)
				t.Logf("%d requests, %d bytes for %d, waits %v", len(p.requests), p.bytes, desc.Size, waits)
			})
		}
	}
}

// forwardTo sends a request to a server.
func forwardTo(host string, r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", host, ""
	return http.DefaultTransport.RoundTrip(out)
}

// A registry that does not take what is sent is given up, and sent again when it
// wakes up.
func TestUploadStall(t *testing.T) {
	p := newProxy(t, realregistry.Start(t))
	release := make(chan struct{})
	defer close(release)
	var mu sync.Mutex
	n := 0
	p.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength < 1<<20 {
			return false
		}
		mu.Lock()
		n++
		first := n == 1
		mu.Unlock()
		if first {
			io.CopyN(io.Discard, r.Body, 1<<16)
			<-release
		}
		return first
	})
	c := newClient(nil)
	c.StallTimeout = 300 * time.Millisecond
	r := testRepository(t, c, p.host+"/app")
	b := random(20 << 20)
	if err := r.PutBlob(t.Context(), describeBlob(b), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, b)
}

// Uploads and downloads over HTTP/2 with TLS are as those over HTTP/1.
func TestHTTP2(t *testing.T) {
	f := newRegistry(t)
	var mu sync.Mutex
	protocols, patches := map[string]int{}, 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		protocols[r.Proto]++
		if r.Method == http.MethodPatch {
			patches++
		}
		broken := patches == 2 && r.Method == http.MethodPatch
		mu.Unlock()
		if broken {
			io.CopyN(io.Discard, r.Body, 1<<19)
			panic(http.ErrAbortHandler)
		}
		f.Config.Handler.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = f.Config.ErrorLog
	s.StartTLS()
	defer s.Close()
	c := newClient(nil)
	c.Insecure = []string{strings.TrimPrefix(s.URL, "https://")}
	c.ChunkSize = 1 << 20
	r := testRepository(t, c, c.Insecure[0]+"/app")
	b := random(5<<20 + 1)
	if err := r.PutBlob(t.Context(), describeBlob(b), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, b)
	if protocols["HTTP/2.0"] == 0 || len(protocols) != 1 {
		t.Errorf("requests by protocol: %v", protocols)
	}
}

// slow gives its bytes late.
type slow struct {
	io.Reader
	pause time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.Reader.Read(p[:min(len(p), 40)])
}

// A source that takes its time is no registry that stalls.
func TestUploadSlowSource(t *testing.T) {
	c := newClient(nil)
	c.StallTimeout = 150 * time.Millisecond
	c.Attempts = 1
	r := testRepository(t, c, newRegistry(t).host+"/app")
	b := random(100)
	if err := r.PutBlob(t.Context(), describeBlob(b), slow{bytes.NewReader(b), 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, b)
}

// A source that is wrong, short, long, or fails, is not uploaded, and its error
// is the reason; nothing is tried again.
func TestUploadBadSource(t *testing.T) {
	p := newProxy(t, realregistry.Start(t))
	c := newClient(nil)
	c.ChunkSize = 1 << 20
	r := testRepository(t, c, p.host+"/app")
	for name, size := range map[string]int{"small": 1000, "chunked": 2<<20 + 5} {
		b := random(size)
		desc := describeBlob(b)
		boom := errors.New("disk on fire")
		other := bytes.Clone(b)
		other[0]++
		for kind, tt := range map[string]struct {
			r    io.Reader
			want string
		}{
			"fails":    {io.MultiReader(bytes.NewReader(b[:size/2]), errReader{boom}), boom.Error()},
			"at end":   {io.MultiReader(bytes.NewReader(b), errReader{boom}), boom.Error()},
			"short":    {bytes.NewReader(b[:size-1]), "it ends after"},
			"long":     {bytes.NewReader(append(b[:size:size], 'x')), "more than"},
			"other":    {bytes.NewReader(other), "DIGEST_INVALID"},
			"no bytes": {bytes.NewReader(nil), "it ends after 0"},
		} {
			p.inject(nil)
			err := r.PutBlob(t.Context(), desc, tt.r)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s that %s: %v, want %q", name, kind, err, tt.want)
			}
			if has, err := r.Has(t.Context(), desc); has || err != nil {
				t.Errorf("%s that %s: Has = %v, %v", name, kind, has, err)
			}
			if n := p.count("POST", "/uploads/"); n != 1 {
				t.Errorf("%s that %s: %d uploads were begun", name, kind, n)
			}
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A source that cannot go back is enough as long as nothing is needed again; what
// is to be done is said when it is not.
func TestUploadOnce(t *testing.T) {
	p := newProxy(t, realregistry.Start(t))
	c := newClient(nil)
	c.ChunkSize = 1 << 20
	r := testRepository(t, c, p.host+"/app")
	b := random(4<<20 + 1)
	var mu sync.Mutex
	n := 0
	p.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		mu.Lock()
		n++
		mine := n
		mu.Unlock()
		if mine == 2 { // before the body is read
			w.WriteHeader(503)
			return true
		}
		return false
	})
	err := r.PutBlob(t.Context(), describeBlob(b), onlyReader{bytes.NewReader(b)})
	if err != nil && !strings.Contains(err.Error(), "cannot be read again") {
		t.Fatal(err)
	}
	p.inject(nil)
	if err := r.PutBlob(t.Context(), describeBlob(b), onlyReader{bytes.NewReader(b)}); err != nil {
		t.Fatal(err)
	}
	pushed(t, r, b)
	p.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			r.Body = &brokenBody{r.Body, 1000}
		}
		return false
	})
	b = random(4<<20 + 2)
	if err := r.PutBlob(t.Context(), describeBlob(b), onlyReader{bytes.NewReader(b)}); err == nil || !strings.Contains(err.Error(), "cannot be read again") {
		t.Errorf("PutBlob of what cannot be read again: %v", err)
	}
}

// A large upload that was cut off is continued by another client that has the
// same state directory, and nothing is left there at the end.
func TestUploadAcrossProcesses(t *testing.T) {
	for _, server := range []string{"distribution", "docker-registry"} {
		t.Run(server, func(t *testing.T) {
			p := newProxy(t, servers[server](t))
			state := t.TempDir()
			b := random(20 << 20)
			desc := describeBlob(b)
			client := func() *Repository {
				c := newClient(nil)
				c.State = state
				c.ChunkSize = 4 << 20
				return testRepository(t, c, p.host+"/app")
			}
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			n := 0
			p.inject(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if n++; r.Method == http.MethodPatch && n > 5 {
					r.Body = &brokenBody{r.Body, 1 << 20}
					cancel() // as if the process were killed
				}
				return false
			})
			if err := client().PutBlob(ctx, desc, bytes.NewReader(b)); !errors.Is(err, context.Canceled) {
				t.Fatalf("PutBlob: %v", err)
			}
			files, _ := filepath.Glob(filepath.Join(state, "uploads", "*"))
			if len(files) != 1 {
				t.Fatalf("left in the state directory: %v", files)
			}
			if fi, err := os.Stat(files[0]); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", fi.Mode(), err)
			}
			p.inject(nil)
			r := client()
			said := ""
			r.client.Notify = func(s string) { said += s }
			if err := r.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			// The old one gives an upload up in which a chunk broke off.
			if server == "distribution" && (p.bytes >= desc.Size || p.count("POST", "/") != 0 || !strings.Contains(said, "going on after")) {
				t.Errorf("%d of %d bytes were sent again, %d uploads begun; said %q", p.bytes, desc.Size, p.count("POST", "/"), said)
			}
			pushed(t, r, b)
			if files, _ := filepath.Glob(filepath.Join(state, "uploads", "*")); len(files) != 0 {
				t.Errorf("left in the state directory: %v", files)
			}
		})
	}
}

// Two uploads of one blob at a time don't get into each other's way, and a file
// in the state directory that is damaged, or leads nowhere, does no harm.
func TestUploadState(t *testing.T) {
	p := newProxy(t, realregistry.Start(t))
	state := t.TempDir()
	b := random(17 << 20)
	desc := describeBlob(b)
	c := newClient(nil)
	c.State, c.ChunkSize = state, 2<<20
	r := testRepository(t, c, p.host+"/app")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := r.PutBlob(t.Context(), desc, bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	pushed(t, r, b)
	s := &saved{path: filepath.Join(state, "uploads", "x")}
	for name, text := range map[string]string{
		"damaged":      "{",
		"of another":   `{"registry":"x","repository":"app","digest":"` + desc.Digest.String() + `","location":"http://` + p.host + `/","time":"` + time.Now().Format(time.RFC3339) + `"}`,
		"old":          `{"registry":"","location":"http://x/","time":"2001-01-01T00:00:00Z"}`,
		"credentials":  `{"location":"http://u:p@x/","time":"` + time.Now().Format(time.RFC3339) + `"}`,
		"no URL":       `{"location":"::","time":"` + time.Now().Format(time.RFC3339) + `"}`,
		"of nobody":    ``,
		"unknown type": `[]`,
	} {
		if err := os.WriteFile(s.path+".json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if to := s.read(); to != nil {
			t.Errorf("%s: leads to %s", name, to)
		}
	}
}

// What a registry answers in the course of an upload is not trusted.
func TestHostileUpload(t *testing.T) {
	var seen []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.RawQuery+" "+r.Header.Get("Authorization"))
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(201)
	}))
	defer other.Close()
	b := random(1000)
	desc := describeBlob(b)
	for name, tt := range map[string]struct {
		location string
		header   map[string]string
		status   int
		want     string
	}{
		"elsewhere":        {location: other.URL + "/up?sig=a%2Fb&state=x", status: 201},
		"link-local":       {location: "http://169.254.169.254/latest", want: "link-local"},
		"with credentials": {location: "http://u:p@" + strings.TrimPrefix(other.URL, "http://") + "/", want: "with credentials"},
		"another scheme":   {location: "file:///etc/passwd", want: "where to go on"},
		"gopher":           {location: "gopher://127.0.0.1/x", want: "gopher"},
		"none":             {want: "where to go on"},
		"no URL":           {location: "http://[::1", want: "no URL"},
		"endless":          {location: "/" + strings.Repeat("x", maxURL), want: "address of"},
		"other digest": {location: "/ok", header: map[string]string{"Docker-Content-Digest": digest.FromString("x").String()},
			status: 201, want: "stored content of digest"},
	} {
		f := newRegistry(t)
		f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
			if user, _, _ := r.BasicAuth(); user != "me" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return true
			}
			switch r.Method {
			case http.MethodPost:
				w.Header()["Location"] = []string{tt.location}
				w.WriteHeader(202)
			case http.MethodPut:
				io.Copy(io.Discard, r.Body)
				for k, v := range tt.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tt.status)
			default:
				return false
			}
			return true
		})
		c := newClient(nil)
		c.Keychain = oneKey{authConfig("me", "secret")}
		seen = nil
		err := testRepository(t, c, f.host+"/app").PutBlob(t.Context(), desc, bytes.NewReader(b))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v shows a password", name, err)
		}
		if name == "elsewhere" {
			if want := []string{"PUT sig=a%2Fb&state=x&digest=" + url.QueryEscape(desc.Digest.String()) + " "}; fmt.Sprint(seen) != fmt.Sprint(want) {
				t.Errorf("the other host saw %q, want %q", seen, want)
			}
		} else if len(seen) > 0 {
			t.Errorf("%s: the other host saw %q", name, seen)
		}
	}
}

// Manifests are pushed as what they are, under valid tags, and the registry's
// word on their digest is checked; a busy registry is asked again.
func TestPutManifest(t *testing.T) {
	f := newRegistry(t)
	c := newClient(nil)
	r := testRepository(t, c, f.host+"/app")
	b := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}
	wrongType, wrongSize, wrongDigest, blob := desc, desc, desc, desc
	wrongType.MediaType = ocispec.MediaTypeImageManifest
	wrongSize.Size++
	wrongDigest.Digest = digest.FromString("x")
	blob.MediaType = ocispec.MediaTypeImageLayer
	for want, tt := range map[string]struct {
		desc ocispec.Descriptor
		tag  string
	}{
		"announces":                {wrongType, "v1"},
		"its descriptor says":      {wrongSize, "v1"},
		"of digest":                {wrongDigest, "v1"},
		"is not that of a":         {blob, "v1"},
		`"../x" is not a valid`:    {desc, "../x"},
		`"a/b" is not a valid tag`: {desc, "a/b"},
	} {
		if err := r.PutManifest(t.Context(), tt.desc, b, tt.tag); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("PutManifest: %v, want %q", err, want)
		}
	}
	if n := len(f.requests); n > 0 {
		t.Errorf("%d requests for documents that are wrong", n)
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.Method == http.MethodPut && n < 3 {
			io.Copy(io.Discard, io.LimitReader(r.Body, 3))
			w.WriteHeader(503)
			return true
		}
		return false
	})
	if err := r.PutManifest(t.Context(), desc, b, "v1", desc.Digest.String(), ""); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Head(t.Context(), "v1"); err != nil || got.Digest != desc.Digest {
		t.Errorf("Head = %+v, %v", got, err)
	}
	if n := f.count("/manifests/v1"); n != 4 {
		t.Errorf("%d requests about the tag, want 3 to write and 1 to look", n)
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
		w.WriteHeader(201)
		return true
	})
	if err := r.PutManifest(t.Context(), desc, b, "v1"); err == nil || !strings.Contains(err.Error(), "stored content of digest") {
		t.Errorf("PutManifest to a lying registry: %v", err)
	}
}

// Tags and manifests are deleted where the registry can; where it can't delete a
// tag alone, the error says so.
func TestDelete(t *testing.T) {
	f := newRegistry(t)
	r := testRepository(t, newClient(nil), f.host+"/app")
	img := putImage(t, r, putBlob(t, r, random(10)), nil, "", "v1", "v2")
	if err := r.Delete(t.Context(), img.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), img.Digest.String()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve after Delete: %v", err)
	}
	if err := r.Delete(t.Context(), img.Digest.String()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Delete again: %v", err)
	}
	if err := r.Delete(t.Context(), "../../x"); err == nil || !strings.Contains(err.Error(), "neither a tag nor a digest") {
		t.Errorf("Delete of no tag: %v", err)
	}
	// The answer to a delete that succeeded may be lost.
	img = putImage(t, r, putBlob(t, r, random(10)), nil, "", "v3")
	deletes := 0
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.Method == http.MethodDelete {
			if deletes++; deletes == 1 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(404)
			return true
		}
		return false
	})
	if err := r.Delete(t.Context(), img.Digest.String()); err != nil || deletes != 2 {
		t.Errorf("Delete whose answer is lost: %v after %d requests", err, deletes)
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		w.WriteHeader(405)
		return r.Method == http.MethodDelete
	})
	if err := r.Delete(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "cannot delete a tag alone") {
		t.Errorf("Delete of a tag: %v", err)
	}
}
