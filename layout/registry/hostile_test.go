package registry

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// startServer serves on the loopback interface with the limits of a real server.
func startServer(t testing.TB, reg *Registry) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(reg)
	s.Config = reg.Server()
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// raw sends bytes as they are and returns the status of the answer.
func raw(t testing.TB, s *httptest.Server, request string) (status int, head, rest string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, request)
	_ = conn.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(conn)
	head, rest, _ = strings.Cut(string(b), "\r\n\r\n")
	_, _ = fmt.Sscanf(head, "HTTP/1.1 %d", &status)
	return status, head, rest
}

// Nothing that a path, a query or a header says leads out of the layout, or into
// the header of an answer.
func TestHostileRequests(t *testing.T) {
	reg := newRegistry(t, Options{})
	s := startServer(t, reg)
	secret := filepath.Join(filepath.Dir(reg.dir.Path()), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]int{
		"GET /v2/a/blobs/sha256:..%2f..%2f..%2fsecret HTTP/1.1":                      404,
		"GET /v2/a/blobs/sha256:../../../secret HTTP/1.1":                            404,
		"GET /v2/../../secret HTTP/1.1":                                              404,
		"GET /v2/%2e%2e/%2e%2e/blobs/" + abc + " HTTP/1.1":                           400,
		"GET /v2/a%0d%0aX:%20y/tags/list HTTP/1.1":                                   400,
		"GET /v2/a/blobs/uploads/..%2f..%2findex.json HTTP/1.1":                      404,
		"DELETE /v2/a/blobs/uploads/../../index.json HTTP/1.1":                       404,
		"PUT /v2/a/blobs/uploads/" + someID + "?digest=sha256:../../x HTTP/1.1":      400,
		"POST /v2/a/blobs/uploads/?mount=sha256:..%2f..%2fx&from=../.. HTTP/1.1":     400,
		"GET /v2/a/tags/list?n=1&last=%0d%0aSet-Cookie:x HTTP/1.1":                   404,
		"GET /v2/a/referrers/" + abc + "?artifactType=%0d%0aSet-Cookie:x HTTP/1.1":   200,
		"GET http://other.example/v2/ HTTP/1.1":                                      200,
		"CONNECT other.example:443 HTTP/1.1":                                         404,
		"PRI /v2/ HTTP/1.1":                                                          405,
		"GET /v2/ HTTP/1.1\r\nX: " + strings.Repeat("x", 100<<10):                    431,
		"PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: 99999999999":             413,
		"PUT /v2/a/manifests/v1 HTTP/1.1\r\nContent-Length: -1":                      400,
		"POST /v2/a/blobs/uploads/?digest=" + abc + " HTTP/1.1\r\nContent-Length: 9": 400,
		"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nOrigin: https://evil.example":         403,
		"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nSec-Fetch-Site: cross-site":           403,
	} {
		status, head, rest := raw(t, s, request+"\r\nHost: registry\r\n\r\nabc")
		if status != want {
			t.Errorf("%.100s: %d, want %d: %s", request, status, want, rest)
		}
		if strings.Contains(head, "Set-Cookie") || strings.Contains(head, "X: y") || strings.Contains(rest, "secret") {
			t.Errorf("%.100s: %s\n%s", request, head, rest)
		}
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
		t.Errorf("%q, %v", b, err)
	}
	if left := leftovers(t, reg.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := reg.dir.Index(); err != nil {
		t.Error(err)
	}
}

// What a hostile layout says of itself is not repeated to clients as it is, and
// its special files are not read.
func TestHostileLayout(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	image := c.image("a", "good", "x")
	odd := image
	odd.MediaType = "text/html\r\nSet-Cookie: x"
	if err := reg.dir.SetRef("a:odd", odd); err != nil {
		t.Fatal(err)
	}
	rec := c.want(http.StatusOK, "GET", "/v2/a/manifests/odd", "")
	if got := rec.Header().Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("Content-Type %q", got)
	}
	huge := descriptorOf(ocispec.MediaTypeImageManifest, "huge")
	huge.Size = layout.MaxManifest + 1
	if err := reg.dir.SetRef("a:huge", huge); err != nil {
		t.Fatal(err)
	}
	c.want(http.StatusInternalServerError, "GET", "/v2/a/manifests/huge", "")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dg := digest.FromString("link")
	path, err := reg.dir.BlobPath(dg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	c.want(http.StatusNotFound, "GET", "/v2/a/blobs/"+dg.String(), "")
	c.want(http.StatusNotFound, "GET", "/v2/a/manifests/"+dg.String(), "")
}

// A file is sent in the parts that are asked for, also by clients that go on
// with a download, and a client that has it gets nothing.
func TestRanges(t *testing.T) {
	s := startServer(t, newRegistry(t, Options{}))
	content := strings.Repeat("0123456789", 100)
	blob := client{t, s.Config.Handler}.blob("r", content)
	for _, tt := range []struct {
		header, value string
		status        int
		want          string
	}{
		{"", "", 200, content},
		{"Range", "bytes=10-19", 206, content[10:20]},
		{"Range", "bytes=990-", 206, content[990:]},
		{"Range", "bytes=-5", 206, content[995:]},
		{"Range", "bytes=1000-", 416, ""},
		{"Range", "bytes=9-5", 416, ""},
		{"Range", "lines=1-2", 416, ""},
		{"If-None-Match", `"` + blob.Digest.String() + `"`, 304, ""},
	} {
		req, err := http.NewRequest("GET", s.URL+"/v2/r/blobs/"+blob.Digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.header != "" {
			req.Header.Set(tt.header, tt.value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || tt.status < 400 && string(b) != tt.want {
			t.Errorf("%s %s: %d with %d bytes, want %d with %d", tt.header, tt.value, resp.StatusCode, len(b), tt.status, len(tt.want))
		}
	}
}

// Requests are logged with what they ended with, and what failed on our side.
func TestLog(t *testing.T) {
	var log []Request
	reg := newRegistry(t, Options{Log: func(r Request) { log = append(log, r) }})
	c := client{t, reg}
	c.want(404, "GET", "/v2/a/manifests/v1?x=y", "")
	c.want(200, "HEAD", "/v2/", "")
	if err := os.Remove(filepath.Join(reg.dir.Path(), "index.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(reg.dir.Path(), "index.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	rec := c.want(500, "GET", "/v2/a/manifests/v1", "")
	if strings.Contains(rec.Body.String(), reg.dir.Path()) {
		t.Errorf("the client is told a path: %s", rec.Body)
	}
	var b bytes.Buffer
	for _, r := range log {
		fmt.Fprintln(&b, r.Method, r.Path, r.Status, r.Err != nil)
	}
	want := "GET /v2/a/manifests/v1?x=y 404 false\nHEAD /v2/ 200 false\nGET /v2/a/manifests/v1 500 true\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// A client that reads ahead is told that its body may come.
func TestExpectContinue(t *testing.T) {
	s := startServer(t, newRegistry(t, Options{}))
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v2/r/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", abc)
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	fmt.Fprint(conn, "abc")
	_, _ = r.ReadString('\n')
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "201") {
		t.Errorf("%q, %v", line, err)
	}
}

// A client that stops sending, or does not read, does not hold a request for
// long; what it has sent stays, for when it comes back.
func TestStalledClients(t *testing.T) {
	ended := make(chan Request, 1)
	reg := newRegistry(t, Options{Log: func(r Request) { ended <- r }})
	blob := client{t, reg}.start("")
	<-ended
	large := strings.Repeat("x", 32<<20) // more than the buffers of a connection
	path := client{t, reg}.blob("r", large).Digest.String()
	<-ended
	reg.limits = limits{stall: 100 * time.Millisecond, slowest: 1 << 40}
	s := startServer(t, reg)
	for _, request := range []string{
		"PATCH " + blob + " HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\nabc",
		"PUT /v2/r/manifests/v1 HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\n{",
		"GET /v2/r/blobs/" + path + " HTTP/1.1\r\nHost: r\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request)
		select {
		case r := <-ended:
			if r.Method == "GET" && r.Bytes >= int64(len(large)) || r.Method != "GET" && r.Status != http.StatusBadRequest {
				t.Errorf("%+v", r)
			}
		case <-time.After(time.Minute):
			t.Errorf("%.60s: the request goes on", request)
		}
		conn.Close()
	}
	rec := client{t, reg}.want(http.StatusNoContent, "GET", blob, "")
	if got := rec.Header().Get("Range"); got != "0-2" {
		t.Errorf("Range %q", got)
	}
}
