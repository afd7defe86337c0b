package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// fakeRegistry is a real registry behind a layer of faults.
type fakeRegistry struct {
	*httptest.Server
	host string

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request, n int) bool // true: answered
	requests []*http.Request
	seen     map[string]int
}

func newRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	f := &fakeRegistry{seen: map[string]int{}}
	inner := registry.New(registry.Logger(quiet))
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Clone(context.Background()))
		f.seen[r.URL.Path]++
		n, fault := f.seen[r.URL.Path], f.fault
		f.mu.Unlock()
		if fault != nil && fault(w, r, n) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	f.Config.ErrorLog = quiet
	t.Cleanup(f.Close)
	f.host = strings.TrimPrefix(f.URL, "http://")
	return f
}

// inject replaces the faults and forgets earlier requests.
func (f *fakeRegistry) inject(fault func(w http.ResponseWriter, r *http.Request, n int) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.requests, f.seen = fault, nil, map[string]int{}
}

// count is how many requests had a path that contains part.
func (f *fakeRegistry) count(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.Contains(r.URL.Path, part) {
			n++
		}
	}
	return n
}

// put uploads a blob to the repository app.
func (f *fakeRegistry) put(t *testing.T, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	dg := digest.FromBytes(b)
	resp, err := http.Post(f.URL+"/v2/app/blobs/uploads/?digest="+dg.String(), "application/octet-stream", bytes.NewReader(b))
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("upload: %v, %v", resp, err)
	}
	resp.Body.Close()
	return ocispec.Descriptor{MediaType: mediaType, Digest: dg, Size: int64(len(b))}
}

// putManifest uploads a document under a tag or, when that is empty, its digest.
func (f *fakeRegistry) putManifest(t *testing.T, tag, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	req, err := http.NewRequest(http.MethodPut, f.URL+"/v2/app/manifests/"+tag, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("put manifest: %v, %v", resp, err)
	}
	resp.Body.Close()
	return desc
}

// putImage uploads an image of one layer for linux and an architecture.
func (f *fakeRegistry) putImage(t *testing.T, tag, arch string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
		Config: f.put(t, ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"os":"linux","architecture":%q}`, arch)),
		Layers: []ocispec.Descriptor{f.put(t, ocispec.MediaTypeImageLayerGzip, []byte("layer "+arch))}}
	m.SchemaVersion = 2
	desc := f.putManifest(t, tag, m.MediaType, m)
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc
}

func (f *fakeRegistry) putIndex(t *testing.T, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests}
	index.SchemaVersion = 2
	return f.putManifest(t, tag, index.MediaType, index)
}

// anonymous is a keychain without keys: tests don't read the user's.
type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// newClient returns a client that notes its waits instead of waiting.
func newClient(waits *[]time.Duration) *Client {
	var mu sync.Mutex
	return &Client{Keychain: anonymous{}, wait: func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		if waits != nil {
			*waits = append(*waits, d)
		}
		return ctx.Err()
	}}
}

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

// A reference leads to the index, and for a platform to its manifest and
// config; other platforms are of the same index.
func TestResolve(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "", "amd64")
	arm := f.putImage(t, "single", "arm64")
	list := f.putIndex(t, "v1", img, arm)
	c := newClient(nil)
	defer c.Close()

	for _, ref := range []string{":v1", "@" + list.Digest.String(), ":ignored@" + list.Digest.String()} {
		ref = f.host + "/app" + ref
		r, err := c.Resolve(t.Context(), ref, amd64)
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != ref || r.Descriptor.Digest != list.Digest || r.Descriptor.MediaType != ocispec.MediaTypeImageIndex ||
			digest.FromBytes(r.Raw) != list.Digest || r.Manifest.Digest != img.Digest || digest.FromBytes(r.ManifestRaw) != img.Digest ||
			string(r.Config) != `{"os":"linux","architecture":"amd64"}` {
			t.Errorf("Resolve(%s) = %+v", ref, r)
		}
	}
	r, err := c.Resolve(t.Context(), f.host+"/app:v1", nil)
	if err != nil || r.Manifest.Digest != "" || r.Config != nil {
		t.Fatalf("Resolve without platform = %+v, %v", r, err)
	}
	f.putIndex(t, "v1", img) // the tag moves
	r, err = c.Select(t.Context(), r, ocispec.Platform{OS: "linux", Architecture: "arm64"})
	if err != nil || r.Manifest.Digest != arm.Digest || !strings.Contains(string(r.Config), "arm64") {
		t.Errorf("Select = %+v, %v", r, err)
	}
	r, err = c.Resolve(t.Context(), f.host+"/app:single", amd64)
	if err != nil || r.Manifest.Digest != arm.Digest || r.Descriptor.Digest != arm.Digest {
		t.Errorf("Resolve of a single manifest = %+v, %v", r, err)
	}
	desc, err := c.Head(t.Context(), f.host+"/app:single")
	if err != nil || desc.Digest != arm.Digest || desc.Size != arm.Size || desc.MediaType != arm.MediaType {
		t.Errorf("Head = %+v, %v", desc, err)
	}
}

// Errors name what was asked of whom, and say what to do.
func TestResolveErrors(t *testing.T) {
	f := newRegistry(t)
	list := f.putIndex(t, "v1", f.putImage(t, "", "arm64"))
	c := newClient(nil)
	deny := func(code int) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, r *http.Request, n int) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, code)
			return true
		}
	}
	for name, tt := range map[string]struct {
		ref   string
		fault func(http.ResponseWriter, *http.Request, int) bool
		is    error
		want  []string
	}{
		"no tag":       {ref: "app:none", is: fs.ErrNotExist, want: []string{"resolve HOST/app:none from registry HOST", "check the name and the tag"}},
		"no platform":  {ref: "app:v1", want: []string{"no image for platform linux/amd64; available platforms: linux/arm64", "or use another image"}},
		"unauthorized": {ref: "app:v1", fault: deny(401), is: fs.ErrPermission, want: []string{"needs credentials", "bk login HOST"}},
		"forbidden":    {ref: "app:v1", fault: deny(403), is: fs.ErrPermission, want: []string{"authentication required", "bk login HOST"}},
		"upper case":   {ref: "App", want: []string{"is not valid", "lower case"}},
		"bad digest":   {ref: "app@sha256:abc", want: []string{"is not valid"}},
	} {
		t.Run(name, func(t *testing.T) {
			f.inject(tt.fault)
			_, err := c.Resolve(t.Context(), f.host+"/"+tt.ref, amd64)
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("Resolve: %v, want %v", err, tt.is)
			}
			for _, want := range tt.want {
				if want = strings.ReplaceAll(want, "HOST", f.host); !strings.Contains(err.Error(), want) {
					t.Errorf("Resolve: %v, want %q", err, want)
				}
			}
			if n := f.count("/manifests/"); n > 1 {
				t.Errorf("%d requests for an answer that is final", n)
			}
		})
	}
	f.inject(nil)
	if _, err := c.Resolve(t.Context(), "localhost/app", nil); err == nil || !strings.Contains(err.Error(), "needs a port") {
		t.Errorf("Resolve(localhost/app): %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(nil).Resolve(ctx, f.host+"/app@"+list.Digest.String(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Resolve after cancel: %v", err)
	}
}

// Documents that a hostile registry sends are refused.
func TestHostileManifests(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "good", "amd64")
	c := newClient(nil)
	config := `{"mediaType":"a/b","digest":"` + img.Digest.String() + `","size":1}`
	manifest := `{"schemaVersion":2,"config":` + config + `,"layers":[]}`
	for name, tt := range map[string]struct {
		ref, contentType, header, body, want string
	}{
		"other content":    {ref: "@" + img.Digest.String(), contentType: ocispec.MediaTypeImageManifest, body: manifest, want: "sent content of digest"},
		"lying header":     {ref: ":x", contentType: ocispec.MediaTypeImageManifest, header: digest.FromString("x").String(), body: manifest, want: "sent content of digest"},
		"manifest as list": {ref: ":x", contentType: ocispec.MediaTypeImageIndex, body: manifest, want: "announces"},
		"type differs": {ref: ":x", contentType: layout.MediaTypeDockerManifest,
			body: `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + config + `,"layers":[]}`, want: "announces"},
		"both":         {ref: ":x", contentType: ocispec.MediaTypeImageManifest, body: `{"schemaVersion":2,"config":` + config + `,"layers":[],"manifests":[]}`, want: "neither"},
		"duplicate":    {ref: ":x", contentType: ocispec.MediaTypeImageManifest, body: `{"schemaVersion":2,"config":` + config + `,"layers":[],"layers":[]}`, want: "there twice"},
		"schema 1":     {ref: ":x", contentType: "application/vnd.docker.distribution.manifest.v1+prettyjws", body: `{"schemaVersion":1,"fsLayers":[]}`, want: "schema 1"},
		"schema 1 doc": {ref: ":x", contentType: "application/json", body: `{"schemaVersion":1,"fsLayers":[]}`, want: "schema 1"},
		"html":         {ref: ":x", contentType: "text/html", body: `<html>`, want: "invalid character"},
		"huge":         {ref: ":x", contentType: ocispec.MediaTypeImageManifest, body: manifest + strings.Repeat(" ", layout.MaxManifest), want: "more than 8388608"},
	} {
		t.Run(name, func(t *testing.T) {
			f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", tt.contentType)
				if tt.header != "" {
					w.Header().Set("Docker-Content-Digest", tt.header)
				}
				io.WriteString(w, tt.body)
				return true
			})
			if _, err := c.Resolve(t.Context(), f.host+"/app"+tt.ref, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Resolve: %v, want %q", err, tt.want)
			}
		})
	}
}

// A body without an end is not read into memory for ever.
func TestEndlessManifest(t *testing.T) {
	f := newRegistry(t)
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		for b := bytes.Repeat([]byte(" "), 1<<16); ; {
			if _, err := w.Write(b); err != nil {
				return true
			}
		}
	})
	if _, err := newClient(nil).Resolve(t.Context(), f.host+"/app", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("Resolve: %v", err)
	}
}

// The type in an index and that of the document behind it must agree, and so
// must the size.
func TestIndexLies(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "", "amd64")
	asDocker, long := img, img
	asDocker.MediaType = layout.MediaTypeDockerManifest
	long.Size++
	f.putIndex(t, "type", asDocker)
	f.putIndex(t, "size", long)
	gone := f.putImage(t, "", "arm64")
	gone.Platform = amd64
	f.putIndex(t, "missing", gone)
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.Contains(r.URL.Path, gone.Digest.String()) {
			return false
		}
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"gone"}]}`, 404)
		return true
	})
	for tag, want := range map[string]string{"type": "announces", "size": "want", "missing": "MANIFEST_UNKNOWN"} {
		if _, err := newClient(nil).Resolve(t.Context(), f.host+"/app:"+tag, amd64); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%s): %v, want %q", tag, err, want)
		}
	}
}

// Temporary answers are asked again, as late as the registry says; others not.
func TestRetry(t *testing.T) {
	f := newRegistry(t)
	f.putImage(t, "v1", "amd64")
	for name, tt := range map[string]struct {
		code       int
		retryAfter string
		failures   int
		wantErr    string
		requests   int
		minWait    time.Duration
	}{
		"500 twice":            {code: 500, failures: 2, requests: 3},
		"503 with a wait":      {code: 503, retryAfter: "7", failures: 1, requests: 2, minWait: 7 * time.Second},
		"429 with a wait":      {code: 429, retryAfter: "90", failures: 1, requests: 2, minWait: 90 * time.Second},
		"429 until tomorrow":   {code: 429, retryAfter: "86400", failures: 9, requests: 1, wantErr: "limits requests"},
		"429 with a date":      {code: 429, retryAfter: time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), failures: 1, requests: 2, minWait: 50 * time.Second},
		"429 with nonsense":    {code: 429, retryAfter: "soon", failures: 1, requests: 2},
		"always 502":           {code: 502, failures: 99, requests: 5, wantErr: "502"},
		"404 is final":         {code: 404, failures: 1, requests: 1, wantErr: "404"},
		"not implemented":      {code: 501, failures: 1, requests: 1, wantErr: "501"},
		"connections are shut": {code: -1, failures: 2, requests: 3},
	} {
		t.Run(name, func(t *testing.T) {
			f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") || n > tt.failures {
					return false
				}
				if tt.code < 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Retry-After", tt.retryAfter)
				w.WriteHeader(tt.code)
				return true
			})
			var waits []time.Duration
			_, err := newClient(&waits).Resolve(t.Context(), f.host+"/app:v1", nil)
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("Resolve: %v, want %q", err, tt.wantErr)
			}
			if n := f.count("/manifests/"); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
			if tt.minWait > 0 && (len(waits) != 1 || waits[0] < tt.minWait) {
				t.Errorf("waits %v, want one of at least %v", waits, tt.minWait)
			}
		})
	}
}

// A manifest whose connection breaks is asked for again.
func TestManifestReset(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "v1", "amd64")
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") || n > 2 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(img.Size))
		io.WriteString(w, `{"schema`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	if r, err := newClient(nil).Resolve(t.Context(), f.host+"/app:v1", nil); err != nil || r.Descriptor.Digest != img.Digest {
		t.Errorf("Resolve = %+v, %v", r, err)
	}
}

// A broken download goes on where it stopped, however the server takes that;
// what is not the blob is never passed off as it.
func TestBlob(t *testing.T) {
	f := newRegistry(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	desc := f.put(t, ocispec.MediaTypeImageLayer, content)
	path := "/blobs/" + desc.Digest.String()
	half := int64(len(content) / 2)
	start := func(w http.ResponseWriter, n int64) { // sends n bytes and breaks off
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, tt := range map[string]struct {
		fault    func(w http.ResponseWriter, r *http.Request, n int) bool
		want     string
		requests int
	}{
		"good": {requests: 1},
		"broken twice": {requests: 3, fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, half)
			}
			if n == 2 {
				w.WriteHeader(503)
				return true
			}
			return false
		}},
		"server begins again": {requests: 2, fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, half)
			}
			r.Header.Del("Range")
			return false
		}},
		"broken after the last byte": {requests: 1, fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.(http.Flusher).Flush() // without a length: the end is announced
			w.Write(content)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}},
		"no parts": {requests: 3, fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, half)
			}
			if r.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}},
		"other range": {requests: 2, want: "answers with the range", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, half)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content)
			return true
		}},
		"the rest is of another blob": {requests: 2, want: "sent content of digest", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, half)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", half, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(bytes.Repeat([]byte("x"), int(half)))
			return true
		}},
		"wrong bytes": {requests: 1, want: "sent content of digest", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Write(bytes.Repeat([]byte("x"), len(content)))
			return true
		}},
		"too long": {requests: 1, want: "announces 1048577 bytes", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Header().Set("Content-Length", "1048577")
			w.Write(append(content[:len(content):len(content)], 'x'))
			return true
		}},
		"too long, unannounced": {requests: 1, want: "sends more than", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.(http.Flusher).Flush()
			w.Write(content)
			w.Write(content)
			return true
		}},
		"unasked part": {requests: 1, want: "answers with the range", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		"never more than a byte": {requests: 5, want: "after 5 of 1048576 bytes", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				start(w, 1)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n-1, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[n-1 : n])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}},
		"short and content": {requests: 5, want: "unexpected EOF", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n > 1 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", half, len(content)-1, len(content)))
				w.WriteHeader(http.StatusPartialContent)
				w.(http.Flusher).Flush()
				return true
			}
			w.(http.Flusher).Flush()
			w.Write(content[:half])
			return true
		}},
		"gone": {requests: 1, want: "404", fault: func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.WriteHeader(404)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
				return strings.Contains(r.URL.Path, path) && tt.fault != nil && tt.fault(w, r, n)
			})
			got, err := readBlob(t, newClient(nil), f.host+"/app", desc)
			if tt.want == "" && (err != nil || !bytes.Equal(got, content)) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), desc.Digest.String())) {
				t.Errorf("read %d bytes, %v; want %q", len(got), err, tt.want)
			}
			if int64(len(got)) > desc.Size {
				t.Errorf("read %d bytes of %d", len(got), desc.Size)
			}
			if n := f.count(path); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

func readBlob(t *testing.T, c *Client, ref string, desc ocispec.Descriptor) ([]byte, error) {
	t.Helper()
	r, err := c.Blob(t.Context(), ref, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// A registry that falls silent is given up and asked again.
func TestStall(t *testing.T) {
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	img := f.putImage(t, "v1", "amd64")
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == "/v2/" || n > 1 {
			return false
		}
		size := desc.Size
		if strings.Contains(r.URL.Path, "manifests") {
			size = img.Size
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.WriteString(w, "0123")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	c := newClient(nil)
	c.StallTimeout = 50 * time.Millisecond
	if b, err := readBlob(t, c, f.host+"/app", desc); err != nil || string(b) != "0123456789" {
		t.Errorf("read %q, %v", b, err)
	}
	if r, err := c.Resolve(t.Context(), f.host+"/app:v1", nil); err != nil || r.Descriptor.Digest != img.Digest {
		t.Errorf("Resolve = %+v, %v", r, err)
	}
}

// A cancelled download ends at once, also while it waits to try again.
func TestBlobCancel(t *testing.T) {
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "0")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := newClient(nil).Blob(ctx, f.host+"/app", desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(20*time.Millisecond, cancel)
	if b, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("read %q, %v", b, err)
	}
}

// Bytes at URLs that an image names are never fetched.
func TestForeignLayer(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = true
		io.WriteString(w, "foreign")
	}))
	defer other.Close()
	desc := ocispec.Descriptor{MediaType: layout.MediaTypeDockerForeignGzip, Digest: digest.FromString("foreign"), Size: 7,
		URLs: []string{other.URL}}
	_, err := readBlob(t, newClient(nil), newRegistry(t).host+"/app", desc)
	if err == nil || !strings.Contains(err.Error(), "non-distributable") || asked {
		t.Errorf("Blob: %v, asked %v", err, asked)
	}
	desc.Digest = "sha256:../../x"
	if _, err := readBlob(t, newClient(nil), newRegistry(t).host+"/app", desc); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("Blob of an invalid digest: %v", err)
	}
}

// Fetch brings a blob into a layout once, and nothing of a wrong one.
func TestFetch(t *testing.T) {
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	d, err := layout.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(nil)
	for range 2 {
		if err := c.Fetch(t.Context(), f.host+"/app", desc, d); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := d.ReadBlob(desc, 10); err != nil || string(b) != "0123456789" || f.count("/blobs/sha256") != 1 {
		t.Errorf("ReadBlob = %q, %v after %d requests", b, err, f.count("/blobs/sha256"))
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		io.WriteString(w, "9876543210")
		return true
	})
	if err := d.Remove(desc.Digest); err != nil {
		t.Fatal(err)
	}
	if err := c.Fetch(t.Context(), f.host+"/app", desc, d); err == nil || d.Has(desc.Digest) {
		t.Errorf("Fetch of other bytes: %v", err)
	}
}
