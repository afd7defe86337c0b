package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout"
)

// start begins an upload and returns its place.
func (c client) start(query string) string {
	c.t.Helper()
	rec := c.want(http.StatusAccepted, "POST", "/v2/r/blobs/uploads/"+query, "")
	return rec.Header().Get("Location")
}

// leftovers lists the files in a layout's tmp/.
func leftovers(t testing.TB, dir *layout.Dir) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir.Path(), tmpDir))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// An upload in chunks goes on where it ended; a chunk that is not next is
// refused with the place where it goes on.
func TestChunks(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	at := c.start("")
	chunk := func(status int, method, path, rng, body string) {
		t.Helper()
		rec := c.want(status, method, path, body, "Content-Range", rng)
		if status == http.StatusAccepted || status == http.StatusRequestedRangeNotSatisfiable {
			if rec.Header().Get("Location") != at || rec.Header().Get("Range") == "" {
				t.Errorf("%s %s: %v", method, rng, rec.Header())
			}
		}
	}
	status := func(want string) {
		t.Helper()
		rec := c.want(http.StatusNoContent, "GET", at, "")
		if got := rec.Header().Get("Range"); got != want || rec.Header().Get("Location") != at {
			t.Errorf("Range %q, want %q", got, want)
		}
	}
	status("0-0")
	chunk(http.StatusRequestedRangeNotSatisfiable, "PATCH", at, "3-5", "def")
	chunk(http.StatusAccepted, "PATCH", at, "0-2", "abc")
	status("0-2")
	chunk(http.StatusRequestedRangeNotSatisfiable, "PATCH", at, "0-2", "abc")
	chunk(http.StatusBadRequest, "PATCH", at, "3-9", "def")
	chunk(http.StatusBadRequest, "PATCH", at, "3", "def")
	chunk(http.StatusRequestedRangeNotSatisfiable, "PUT", at+"?digest="+digest.FromString("abcdef").String(), "2-4", "def")
	status("0-2")
	c.want(http.StatusAccepted, "PATCH", at, "de")
	rec := c.want(http.StatusCreated, "PUT", at+"?digest="+digest.FromString("abcdef").String(), "f", "Content-Range", "5-5")
	if rec.Header().Get("Location") != "/v2/r/blobs/"+digest.FromString("abcdef").String() {
		t.Errorf("%v", rec.Header())
	}
	if got := c.want(http.StatusOK, "GET", rec.Header().Get("Location"), "").Body.String(); got != "abcdef" {
		t.Errorf("blob %q", got)
	}
	if rec := c.want(http.StatusNotFound, "GET", at, ""); code(rec) != codeUploadUnknown {
		t.Error(rec.Body)
	}
	if left := leftovers(t, reg.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Bytes that do not have the digest do not become a blob, and do not stay.
func TestWrongDigest(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	want := digest.FromString("abc")
	at := c.start("")
	for _, rec := range []interface{ Result() *http.Response }{
		c.want(http.StatusBadRequest, "POST", "/v2/r/blobs/uploads/?digest="+want.String(), "abd"),
		c.want(http.StatusBadRequest, "PUT", at+"?digest="+want.String(), "ab"),
		c.want(http.StatusBadRequest, "PUT", c.start("")+"?digest=sha256:abc", "abc"),
		c.want(http.StatusBadRequest, "PUT", c.start("")+"?digest=sha256:../../../x", "abc"),
		c.want(http.StatusBadRequest, "PUT", c.start(""), "abc"),
		c.want(http.StatusBadRequest, "POST", "/v2/r/blobs/uploads/?mount=x", ""),
	} {
		b, _ := io.ReadAll(rec.Result().Body)
		if !bytes.Contains(b, []byte(codeDigestInvalid)) {
			t.Errorf("%s", b)
		}
	}
	if reg.dir.Has(want) {
		t.Error("a blob is there")
	}
	c.want(http.StatusNotFound, "GET", at, "")
}

// A client that breaks off in the middle of a chunk goes on after the bytes that
// have come, also when the server was started anew and hashes them again, and
// whatever algorithm the digest is of.
func TestResume(t *testing.T) {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		reg := newRegistry(t, Options{})
		c := client{t, reg}
		at := c.start("?digest-algorithm=" + alg.String())
		c.want(http.StatusAccepted, "PATCH", at, "abc")
		broken := io.MultiReader(strings.NewReader("de"), iotestErr{})
		rec := c.send("PATCH", at, broken)
		if rec.Code != http.StatusBadRequest || rec.Header().Get("Range") != "0-4" {
			t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
		c = client{t, serve(t, reg.dir, Options{})}
		if got := c.want(http.StatusNoContent, "GET", at, "").Header().Get("Range"); got != "0-4" {
			t.Errorf("Range %q", got)
		}
		c.want(http.StatusAccepted, "PATCH", at, "fg", "Content-Range", "5-6")
		// Back to the first server, which has hashed three bytes.
		c = client{t, reg}
		c.want(http.StatusCreated, "PUT", at+"?digest="+alg.FromString("abcdefgh").String(), "h")
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// A cancelled upload is gone.
func TestCancel(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	at := c.start("")
	c.want(http.StatusAccepted, "PATCH", at, "abc")
	c.want(http.StatusNoContent, "DELETE", at, "")
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		c.want(http.StatusNotFound, method, at, "")
	}
	if left := leftovers(t, reg.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A blob that is there is mounted, from wherever; another is uploaded.
func TestMount(t *testing.T) {
	c := client{t, newRegistry(t, Options{})}
	blob := c.blob("a", "content")
	for _, query := range []string{"&from=a", "", "&from=none"} {
		rec := c.want(http.StatusCreated, "POST", "/v2/b/blobs/uploads/?mount="+blob.Digest.String()+query, "")
		if got := rec.Header().Get("Location"); got != "/v2/b/blobs/"+blob.Digest.String() {
			t.Errorf("Location %s", got)
		}
	}
	c.want(http.StatusAccepted, "POST", "/v2/b/blobs/uploads/?from=a&mount="+abc, "")
}

// Requests to one upload come one after the other: no byte of one is between
// those of another.
func TestConcurrentPatches(t *testing.T) {
	reg := newRegistry(t, Options{})
	other := serve(t, reg.dir, Options{})
	at := client{t, reg}.start("")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			h := []http.Handler{reg, other}[i%2]
			client{t, h}.send("PATCH", at, &slowReader{strings.Repeat(string(rune('a'+i)), 100)})
		})
	}
	all.Wait()
	b, err := os.ReadFile(reg.uploads.path(filepath.Base(at)))
	if err != nil || len(b) != 800 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for i := 0; i < 800; i += 100 {
		if run := string(b[i : i+100]); strings.Trim(run, run[:1]) != "" {
			t.Errorf("mixed: %s", run)
		}
	}
	client{t, other}.want(http.StatusCreated, "PUT", at+"?digest="+digest.FromBytes(b).String(), "")
}

// slowReader gives a byte at a time.
type slowReader struct{ rest string }

func (r *slowReader) Read(p []byte) (int, error) {
	if r.rest == "" {
		return 0, io.EOF
	}
	p[0], r.rest = r.rest[0], r.rest[1:]
	return 1, nil
}

// Unfinished uploads are bounded in number, in size and in age.
func TestUploadLimits(t *testing.T) {
	reg := newRegistry(t, Options{MaxUploads: 3, MaxBlob: 10, UploadAge: time.Hour})
	c := client{t, reg}
	var at string
	for range 3 {
		at = c.start("")
	}
	if rec := c.want(http.StatusTooManyRequests, "POST", "/v2/r/blobs/uploads/", ""); code(rec) != codeTooManyRequests {
		t.Error(rec.Body)
	}
	c.want(http.StatusAccepted, "PATCH", at, "0123456789")
	for _, body := range []io.Reader{strings.NewReader("x"), io.MultiReader(strings.NewReader("x"))} { // known and unknown length
		rec := c.send("PATCH", at, body)
		if rec.Code != http.StatusRequestEntityTooLarge || code(rec) != codeSizeInvalid {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	}
	if rec := c.do("POST", "/v2/r/blobs/uploads/?digest="+abc, strings.Repeat("x", 11)); rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	old := time.Now().Add(-2 * time.Hour)
	tmp := filepath.Join(reg.dir.Path(), tmpDir)
	for _, name := range append(leftovers(t, reg.dir), "blob-1", "run-x") {
		f, err := os.OpenFile(filepath.Join(tmp, name), os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := os.Chtimes(f.Name(), old, old); err != nil {
			t.Fatal(err)
		}
	}
	reg.uploads.sweep(time.Now())
	if left := leftovers(t, reg.dir); fmt.Sprint(left) != "[run-x]" {
		t.Errorf("left: %v", left)
	}
	if n := len(reg.uploads.open); n != 0 {
		t.Errorf("%d uploads are remembered", n)
	}
	c.start("")
}

// Somebody who tidies the layout does not stop uploads, and what is in tmp/ but
// no upload's file is none.
func TestTmp(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	reg.dir.Tidy()
	at := c.start("")
	path := reg.uploads.path(filepath.Base(at))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	c.want(http.StatusNotFound, "GET", at, "")
	c.want(http.StatusNotFound, "PUT", at+"?digest="+digest.FromString("secret").String(), "")
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
		t.Errorf("%q, %v", b, err)
	}
}
