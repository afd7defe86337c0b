package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/remote/hosts"
)

// A blob is read from any offset, also over connections that break, of
// registries with ranges and of those without; read through from the start it
// is verified, however often and whatever was read in between.
func TestSeek(t *testing.T) {
	content := random(1<<20 + 3)
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			upstream := start(t)
			p := newProxy(t, upstream)
			c := newClient(nil)
			r := testRepository(t, c, p.host+"/app")
			desc := putBlob(t, r, content)
			var cuts atomic.Int64
			p.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if cuts.Add(1)%3 != 0 {
					return false
				}
				resp, err := forwardTo(upstream, r)
				if err != nil {
					return false
				}
				defer resp.Body.Close()
				w.Header().Set("Content-Length", resp.Header.Get("Content-Length"))
				if v := resp.Header.Get("Content-Range"); v != "" {
					w.Header().Set("Content-Range", v)
				}
				w.WriteHeader(resp.StatusCode)
				io.CopyN(w, resp.Body, 100_000)
				panic(http.ErrAbortHandler)
			})
			rd, err := r.Open(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			defer rd.Close()
			seeker := rd.(io.ReadSeeker)
			rng := rand.New(rand.NewPCG(3, 4))
			for range 20 {
				off := rng.Int64N(desc.Size + 1)
				n := rng.Int64N(desc.Size - off + 1)
				if at, err := seeker.Seek(off, io.SeekStart); at != off || err != nil {
					t.Fatal(at, err)
				}
				got := make([]byte, n)
				if _, err := io.ReadFull(seeker, got); err != nil || !bytes.Equal(got, content[off:off+n]) {
					t.Fatalf("%d bytes from %d on: %v", n, off, err)
				}
			}
			if end, err := seeker.Seek(0, io.SeekEnd); end != desc.Size || err != nil {
				t.Error(end, err)
			}
			if n, err := seeker.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Error(n, err)
			}
			if _, err := seeker.Seek(-1, io.SeekStart); !errors.Is(err, fs.ErrInvalid) {
				t.Error(err)
			}
			seeker.Seek(0, io.SeekStart)
			if got, err := io.ReadAll(seeker); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// Bytes of another blob are found out at the end when all bytes were read, also
// when the reader went back in between; a part proves nothing.
func TestSeekVerifies(t *testing.T) {
	f := newRegistry(t)
	content := random(1000)
	desc := f.put(t, ocispec.MediaTypeImageLayer, content)
	wrong := bytes.Clone(content)
	wrong[10]++
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(wrong))
		return true
	})
	for _, tt := range []struct {
		seeks []int64 // read 100 bytes from each, then all from the last on
		ok    bool
	}{
		{[]int64{0}, false},
		{[]int64{0, 50}, false},
		{[]int64{0, 500, 0}, false},
		{[]int64{500}, true},
		{[]int64{0, 500}, true},
	} {
		rd, err := testRepository(t, newClient(nil), f.host+"/app").Open(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range tt.seeks {
			rd.(io.Seeker).Seek(off, io.SeekStart)
			io.ReadFull(rd, make([]byte, 100))
		}
		_, err = io.ReadAll(rd)
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "sent content of digest") {
			t.Errorf("seeks %v: %v, want ok %v", tt.seeks, err, tt.ok)
		}
		rd.Close()
		if _, err := rd.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("Read after Close: %v", err)
		}
		if _, err := rd.(io.Seeker).Seek(0, io.SeekStart); err == nil {
			t.Error("Seek after Close")
		}
	}
}

// mirrors returns the rules of a registries.conf.
func mirrors(t *testing.T, text string) *hosts.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := hosts.Load(hosts.Paths{File: path})
	if err != nil {
		t.Fatal(err)
	}
	return conf
}

// Mirrors are read from in order, each for what it is for, and the repository
// itself at last; one that fails is left out from then on, one that breaks in
// the middle is replaced there. What is written goes to the repository.
func TestMirrors(t *testing.T) {
	origin, first, second := newRegistry(t), newRegistry(t), newRegistry(t)
	conf := fmt.Sprintf("[[registry]]\nprefix='%s'\nlocation='%s'\n[[registry.mirror]]\nlocation='%s'\n[[registry.mirror]]\nlocation='%s'\npull-from-mirror='digest-only'\n",
		origin.host, origin.host, first.host, second.host)
	blob := random(1 << 20)
	for _, f := range []*fakeRegistry{origin, second} {
		f.put(t, ocispec.MediaTypeImageLayer, blob)
		f.putImage(t, "v1", "amd64")
	}
	img := first.putImage(t, "v1", "arm64")
	client := func() (*Repository, *string) {
		c := newClient(nil)
		c.Hosts = mirrors(t, conf)
		said := ""
		var mu sync.Mutex
		c.Notify = func(s string) { mu.Lock(); said += s + "\n"; mu.Unlock() }
		return testRepository(t, c, origin.host+"/app"), &said
	}
	all := []*fakeRegistry{origin, first, second}
	reset := func(fault func(http.ResponseWriter, *http.Request, int) bool) {
		for _, f := range all {
			f.inject(nil)
		}
		first.inject(fault)
	}
	reset(nil)
	r, said := client()
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != img.Digest {
		t.Errorf("Resolve = %v, %v; want what the first mirror has", got.Digest, err)
	}
	pushed(t, r, blob)
	if origin.count("/app/") != 0 || second.count("/blobs/") != 1 || *said != "" {
		t.Errorf("%d requests to the origin, %d for the blob to the mirror that has it; said %q", origin.count("/app/"), second.count("/blobs/"), *said)
	}

	reset(func(w http.ResponseWriter, r *http.Request, n int) bool { w.WriteHeader(500); return true })
	r, said = client()
	for range 2 {
		if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest == img.Digest {
			t.Errorf("Resolve = %v, %v; want what the origin has", got.Digest, err)
		}
	}
	if second.count("/") != 0 || first.count("/v2/") > 6 || !strings.Contains(*said, "going on without it") {
		t.Errorf("%d requests for a tag to a mirror of digests, %d to a broken one; said %q", second.count("/"), first.count("/v2/"), *said)
	}

	reset(nil)
	first.put(t, ocispec.MediaTypeImageLayer, blob)
	reset(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob[:1000*n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	r, _ = client()
	pushed(t, r, blob)

	reset(nil)
	r, _ = client()
	putImage(t, r, describeBlob(blob), nil, "", "new")
	if n := first.count("/uploads/") + second.count("/uploads/"); n != 0 || origin.count("/uploads/") == 0 {
		t.Errorf("%d uploads to mirrors", n)
	}
	r.client.Hosts = mirrors(t, fmt.Sprintf("[[registry]]\nprefix='%s'\nblocked=true\n", origin.host))
	if _, err := r.Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "blocked by") {
		t.Errorf("Resolve in a blocked registry: %v", err)
	}
	if err := r.PutBlob(t.Context(), describeBlob(nil), bytes.NewReader(nil)); err == nil || !strings.Contains(err.Error(), "blocked by") {
		t.Errorf("PutBlob to a blocked registry: %v", err)
	}
}

// Lists come in pages, whose links are followed at the registry only, and end.
func TestTags(t *testing.T) {
	for name, tt := range map[string]struct {
		pages map[string]string // query -> link
		want  string
		err   string
	}{
		"pages":         {pages: map[string]string{"n=1000": `</v2/app/tags/list?n=1000&last=b>; rel="next"`, "n=1000&last=b": ""}, want: "[t0 t1]"},
		"relative":      {pages: map[string]string{"n=1000": `<?last=b>; rel=next`, "last=b": ""}, want: "[t0 t1]"},
		"other links":   {pages: map[string]string{"n=1000": `<x>; rel="prev", <?last=b>;title="a, b" ; rel="next"`, "last=b": ""}, want: "[t0 t1]"},
		"loop":          {pages: map[string]string{"n=1000": `<?last=b>; rel="next"`, "last=b": `<?last=b>; rel="next"`}, err: "comes back"},
		"another host":  {pages: map[string]string{"n=1000": `<http://127.0.0.1:1/v2/app/tags/list>; rel="next"`}, err: "at another host"},
		"file":          {pages: map[string]string{"n=1000": `<file://x/v2>; rel="next"`}, err: "at another host"},
		"with password": {pages: map[string]string{"n=1000": `<http://u:p@127.0.0.1:1/>; rel="next"`}, err: "with credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newRegistry(t)
			f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
				link, ok := tt.pages[r.URL.RawQuery]
				if !ok {
					return false
				}
				w.Header().Set("Link", link)
				fmt.Fprintf(w, `{"name":"app","tags":["t%d","../x",""]}`, n-1)
				return true
			})
			tags, err := testRepository(t, newClient(nil), f.host+"/app").Tags(t.Context())
			if tt.err == "" && (err != nil || fmt.Sprint(tags) != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("Tags = %v, %v; want %s, %s", tags, err, tt.want, tt.err)
			}
		})
	}
	f := newRegistry(t)
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, n))
		fmt.Fprintf(w, `{"tags":["t%d"]}`, n)
		return strings.Contains(r.URL.Path, "tags")
	})
	r := testRepository(t, newClient(nil), f.host+"/app")
	if _, err := r.Tags(t.Context()); err == nil || !strings.Contains(err.Error(), "more than 1000 pages") {
		t.Errorf("Tags without end: %v", err)
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		io.WriteString(w, `{"tags":null}`)
		return true
	})
	if tags, err := r.Tags(t.Context()); err != nil || len(tags) != 0 {
		t.Errorf("Tags of none = %v, %v", tags, err)
	}
	if _, err := testRepository(t, newClient(nil), newRegistry(t).host+"/none").Tags(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Tags of nothing: %v", err)
	}
}

// A registry whose answers to HEAD say nothing is asked for the document.
func TestHeadWithoutDigest(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "v1", "amd64")
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		return r.Method == http.MethodHead
	})
	got, err := testRepository(t, newClient(nil), f.host+"/app").Head(t.Context(), "v1")
	if err != nil || got.Digest != img.Digest || got.MediaType != img.MediaType || got.Size != img.Size {
		t.Errorf("Head = %+v, %v", got, err)
	}
}

// What is no referrer is left out, whatever a registry or the fallback tag says;
// confusing lists are refused.
func TestHostileReferrers(t *testing.T) {
	f := newRegistry(t)
	r := testRepository(t, newClient(nil), f.host+"/app")
	layer := putBlob(t, r, random(10))
	img := putImage(t, r, layer, nil, "", "v1")
	sig := putImage(t, r, layer, &img, "my/sig")
	stranger := putImage(t, r, layer, nil, "my/other")
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4}
	lie := sig
	lie.ArtifactType, lie.Annotations = ocispec.MediaTypeEmptyJSON, map[string]string{"k": "lie"}
	answer := func(v any) {
		b, _ := json.Marshal(v)
		f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Write(b)
			return true
		})
	}
	index := func(list ...ocispec.Descriptor) ocispec.Index {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
		index.SchemaVersion = 2
		return index
	}
	answer(index(lie, stranger, gone, sig))
	list, err := r.Referrers(t.Context(), img.Digest)
	if err != nil || len(list) != 1 || list[0].ArtifactType != "my/sig" || list[0].Annotations["k"] != "my/sig" {
		t.Errorf("Referrers = %+v, %v", list, err)
	}
	for _, v := range []any{"x", map[string]any{"schemaVersion": 2, "layers": []int{}}, map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"digest": "sha256:../../x", "size": 1, "mediaType": "a"}}}} {
		answer(v)
		if list, err := r.Referrers(t.Context(), img.Digest); err == nil {
			t.Errorf("Referrers of %v = %v", v, list)
		}
	}
	if _, err := r.Referrers(t.Context(), "sha256:../x"); err == nil {
		t.Error("Referrers of no digest")
	}
}

// Referrers that are pushed at the same time, by one process or several, are all
// in the fallback index; those that are deleted are not.
func TestFallbackIndex(t *testing.T) {
	f := newRegistry(t)
	r := testRepository(t, newClient(nil), f.host+"/app")
	layer := putBlob(t, r, random(10))
	img := putImage(t, r, layer, nil, "", "v1")
	putImage(t, r, layer, &img, "t/warm") // config and all are there
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { putImage(t, r, layer, &img, fmt.Sprintf("t/%d", i)) })
	}
	wg.Wait()
	list, err := r.Referrers(t.Context(), img.Digest)
	if err != nil || len(list) != 11 {
		t.Fatalf("%d referrers, %v", len(list), err)
	}
	// Another process replaces the index right after it was written.
	f.inject(func(w http.ResponseWriter, req *http.Request, n int) bool {
		lost := req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/sha256-") && n == 2
		if lost {
			io.Copy(io.Discard, req.Body)
			w.WriteHeader(201)
		}
		return lost
	})
	last := putImage(t, r, layer, &img, "t/last")
	list, err = r.Referrers(t.Context(), img.Digest)
	if err != nil || indexOf(list, last.Digest) < 0 || len(list) != 12 {
		t.Errorf("%d referrers after a lost write, %v", len(list), err)
	}
	f.inject(nil)
	if err := r.Delete(t.Context(), last.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if list, err := r.Referrers(t.Context(), img.Digest); err != nil || len(list) != 11 || indexOf(list, last.Digest) >= 0 {
		t.Errorf("%d referrers after a delete, %v", len(list), err)
	}
}

// No more blobs are read from a registry at a time than is wanted, nobody waits
// for ever, and one who waits can give up.
func TestConcurrency(t *testing.T) {
	f := newRegistry(t)
	c := newClient(nil)
	c.Concurrency = 2
	r := testRepository(t, c, f.host+"/app")
	desc := putBlob(t, r, random(1000))
	open := func(ctx context.Context) (io.ReadCloser, error) { return r.Open(ctx, desc) }
	a, errA := open(t.Context())
	b, errB := open(t.Context())
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a third reader: %v", err)
	}
	done := make(chan error)
	go func() {
		rd, err := open(t.Context())
		if err == nil {
			rd.Close()
		}
		done <- err
	}()
	io.ReadAll(a) // its end is enough
	if err := <-done; err != nil {
		t.Error(err)
	}
	a.(io.Seeker).Seek(0, io.SeekStart) // once more, past the limit
	if got, err := io.ReadAll(a); err != nil || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	a.Close()
	b.Close()
	// Copies within a registry need one place of each kind.
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			rd, err := open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer rd.Close()
			if err := testRepository(t, c, fmt.Sprintf("%s/copy%d", f.host, i)).PutBlob(t.Context(), desc, rd); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// People hear what is tried again, why, when, and how often.
func TestNotify(t *testing.T) {
	f := newRegistry(t)
	f.putImage(t, "v1", "amd64")
	c := newClient(nil)
	c.Notify = func(s string) {
		if want := "GET /v2/app/manifests/v1 at " + f.host + ": the answer is 429 Too Many Requests; trying again in 7s (2 of 5)"; s != want {
			t.Errorf("said %q, want %q", s, want)
		}
	}
	f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n > 1 || !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(429)
		return true
	})
	if _, err := c.Resolve(t.Context(), f.host+"/app:v1", nil); err != nil {
		t.Fatal(err)
	}
}

// The specification's codes become advice, and what a registry says is fit for a
// terminal.
func TestErrorCodes(t *testing.T) {
	for code, want := range map[string]string{
		"MANIFEST_BLOB_UNKNOWN": "push that first", "MANIFEST_INVALID": "convert the image", "BLOB_UPLOAD_INVALID": "push again",
		"SIZE_INVALID": "push again", "NAME_INVALID": "does not allow this name", "UNSUPPORTED": "does not offer this",
		"MANIFEST_UNKNOWN": "no such image", "NAME_UNKNOWN": "no such repository", "DENIED": "bk login", "TOOMANYREQUESTS": "limits requests",
	} {
		status := map[string]int{"DENIED": 403, "MANIFEST_UNKNOWN": 404, "NAME_UNKNOWN": 404}[code]
		if status == 0 {
			status = 400
		}
		f := newRegistry(t)
		f.inject(func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": code, "message": "a\x1b[31m\nb\u202e" + strings.Repeat("x", 9999)}}})
			return true
		})
		b := []byte(`{"schemaVersion":2,"manifests":[]}`)
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}
		err := testRepository(t, newClient(nil), f.host+"/app").PutManifest(t.Context(), desc, b, "v1")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), code+": a[31m b") || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
			t.Errorf("%s: %q, want %q", code, err, want)
		}
	}
}

// No request can be made to say more than its author wanted.
func TestIDs(t *testing.T) {
	r := testRepository(t, newClient(nil), "127.0.0.1:1/app")
	for _, id := range []string{"", "..", "a/../b", "a?b", "a#b", "%2e%2e", "a b", "sha256:" + strings.Repeat("a", 63), "sha256:../" + strings.Repeat("a", 61), strings.Repeat("a", 129), "-a"} {
		if _, err := r.Resolve(t.Context(), id); err == nil || !strings.Contains(err.Error(), "neither a tag nor a digest") {
			t.Errorf("Resolve(%q): %v", id, err)
		}
	}
	for _, ref := range []string{"127.0.0.1:1/../app", "127.0.0.1:1/a/../../b", "127.0.0.1:1/a//b", "127.0.0.1:1/.a", "127.0.0.1:1/a/./b"} {
		if _, _, err := new(Client).Repository(ref); err == nil || !strings.Contains(err.Error(), "is not valid") {
			t.Errorf("Repository(%s): %v", ref, err)
		}
	}
	for _, f := range []func(ocispec.Descriptor) error{
		func(d ocispec.Descriptor) error { _, err := r.Has(t.Context(), d); return err },
		func(d ocispec.Descriptor) error { _, err := r.Open(t.Context(), d); return err },
		func(d ocispec.Descriptor) error { return r.PutBlob(t.Context(), d, bytes.NewReader(nil)) },
		func(d ocispec.Descriptor) error { _, err := r.Mount(t.Context(), d, "127.0.0.1:1/other"); return err },
		func(d ocispec.Descriptor) error { return r.Delete(t.Context(), d.Digest.String()) },
	} {
		for _, mt := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageManifest} {
			if err := f(ocispec.Descriptor{MediaType: mt, Digest: "sha256:../../x", Size: 1}); err == nil || !strings.Contains(err.Error(), "digest") {
				t.Errorf("an invalid digest: %v", err)
			}
		}
	}
}

// What registries say in headers about lists and ranges is parsed, or not.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{`</v2/x?last=a>; rel="next"`, `<a>; rel=prev, <b>; rel=next`, `<`, `<>`, "0-0", "0-99", "bytes=0-5", "1-2", "0-", "0--1", "0-9223372036854775807"} {
		f.Add(s)
	}
	base, _ := url.Parse("http://registry.example/v2/app/tags/list")
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseRange(s); ok && n < 0 {
			t.Errorf("parseRange(%q) = %d", s, n)
		}
		if link := nextLink(http.Header{"Link": {s}}); link != "" {
			if !strings.Contains(s, "<"+link+">") {
				t.Errorf("nextLink(%q) = %q", s, link)
			}
			if u, err := follow(base, link); err == nil && (u.User != nil || u.Host == "") {
				t.Errorf("follow(%q) = %v", link, u)
			}
		}
	})
}

// A registry that is only a name for the keychain's sake gets the right key.
func TestCatalogKey(t *testing.T) {
	asked := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, _ := r.BasicAuth(); user != "me" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			return
		}
		asked += r.URL.String()
		io.WriteString(w, `{"repositories":["b/c","a","../x","A"]}`)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	c := newClient(nil)
	c.Keychain = keys{host, authConfig("me", "secret")}
	got, err := c.Catalog(t.Context(), host)
	if err != nil || fmt.Sprint(got) != "[a b/c]" || asked != "/v2/_catalog?n=1000" {
		t.Errorf("Catalog = %v, %v; asked for %s", got, err, asked)
	}
}
