package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// distribution starts the reference registry on a free port, or skips the test.
func distribution(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	conf := filepath.Join(t.TempDir(), "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", t.TempDir(), host)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			resp.Body.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the registry does not start")
	return ""
}

// What skopeo pushed to the reference registry is read, also over a connection
// that breaks again and again.
func TestDistribution(t *testing.T) {
	host := distribution(t)
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	src, err := layout.Create(filepath.Join(t.TempDir(), "src"))
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	blob, err := src.PutBytes(ocispec.MediaTypeImageLayer, content)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := json.Marshal(map[string]string{"os": "linux", "architecture": "amd64"})
	img, _, err := src.WriteImage(layout.ImageSpec{Config: config, Layers: []layout.LayerBlob{{Descriptor: blob, DiffID: digest.FromBytes(content)}}})
	if err != nil {
		t.Fatal(err)
	}
	list, err := src.WriteIndex([]ocispec.Descriptor{img}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := src.SetRef("v1", list); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false",
		"oci:"+src.Path()+":v1", "docker://"+host+"/me/app:v1").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	target, err := url.Parse("http://" + host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = newRegistry(t).Config.ErrorLog
	proxy.ModifyResponse = func(resp *http.Response) error {
		if strings.Contains(resp.Request.URL.Path, "/blobs/") && resp.ContentLength > 300<<10 {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, 300<<10), resp.Body}
		}
		return nil
	}
	flaky := httptest.NewServer(proxy)
	flaky.Config.ErrorLog = proxy.ErrorLog
	defer flaky.Close()
	ref := strings.TrimPrefix(flaky.URL, "http://") + "/me/app:v1"
	c := newClient(nil)
	r, err := c.Resolve(t.Context(), ref, amd64)
	if err != nil || r.Descriptor.Digest != list.Digest || r.Manifest.Digest != img.Digest {
		t.Fatalf("Resolve = %s, %s, %v; want %s, %s", r.Descriptor.Digest, r.Manifest.Digest, err, list.Digest, img.Digest)
	}
	if b, err := readBlob(t, c, ref, blob); err != nil || !bytes.Equal(b, content) {
		t.Errorf("Blob = %d bytes, %v", len(b), err)
	}
	if _, err := c.Resolve(t.Context(), host+"/me/none", nil); err == nil || !strings.Contains(err.Error(), "check the name") {
		t.Errorf("Resolve of nothing: %v", err)
	}
}
