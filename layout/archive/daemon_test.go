package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

var _ transfer.Reader = (*Daemon)(nil)

// shortDir is a directory whose name is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startDocker starts Debian's Docker daemon with everything in a directory of
// its own and returns its socket.
func startDocker(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("dockerd is not installed (Debian package docker.io)")
	}
	if os.Geteuid() != 0 {
		t.Skip("dockerd needs root")
	}
	dir := shortDir(t)
	sock := filepath.Join(dir, "docker.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(path, "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--host=unix://"+sock,
		"--data-root="+dir+"/data", "--exec-root="+dir+"/exec", "--pidfile="+dir+"/pid")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		stop := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		stop.Stop()
	})
	d, err := NewDaemon("unix://" + sock)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		resp, err := d.do(t.Context(), http.MethodGet, "/_ping", nil)
		if err == nil {
			resp.Body.Close()
			return sock
		}
		if cmd.ProcessState != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, _ := os.ReadFile(log.Name())
	t.Skipf("dockerd does not start here:\n%.2000s", b)
	return ""
}

// parts are the digests of an image's config and of its layers' tars, which stay
// whatever way an image goes.
func parts(t *testing.T, src transfer.Reader, desc ocispec.Descriptor) []digest.Digest {
	t.Helper()
	b, err := transfer.ReadDocument(t.Context(), src, desc, layout.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := layout.ParseManifest(desc.MediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = transfer.ReadDocument(t.Context(), src, m.Config, layout.MaxConfig); err != nil {
		t.Fatal(err)
	}
	ids, err := parseDiffIDs(b)
	if err != nil {
		t.Fatal(err)
	}
	return append(ids, m.Config.Digest)
}

// Images go into a real Docker daemon, of the version that knows no OCI layouts,
// and come back the same.
func TestDockerDaemon(t *testing.T) {
	sock := startDocker(t)
	d, err := NewDaemon("unix://" + sock)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	store := newStore(t)
	img := putImage(t, store, "amd64")
	src := transfer.Layout(store)
	if err := d.Load(t.Context(), src, img, []string{"docker.io/library/app:v1"}, nil); err != nil {
		t.Fatal(err)
	}
	other := putIndex(t, store, putImage(t, store, "arm64"))
	if err := d.Load(t.Context(), src, other, []string{"host:5000/me/app:v2"}, nil); err != nil {
		t.Fatal(err)
	}
	want := parts(t, src, img)
	for _, ref := range []string{"app:v1", "docker.io/library/app:v1", want[len(want)-1].String(), want[len(want)-1].Encoded()[:12]} {
		desc, err := d.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := parts(t, d, desc); strings.Join(strs(got), " ") != strings.Join(strs(want), " ") {
			t.Errorf("%s: config and layers %v, want %v", ref, got, want)
		}
		copyOut(t, d, desc)
	}
	if _, err := d.Resolve(t.Context(), "host:5000/me/app:v2"); err != nil {
		t.Error(err)
	}
	if _, err := d.Resolve(t.Context(), "app"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("app without a tag is app:latest, which is not there: %v", err)
	}
	// Two images that share a layer, in one archive: it has links.
	resp, err := d.do(t.Context(), http.MethodGet, "/images/get?names=app:v1&names=host:5000/me/app:v2", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a, err := Read(t.Context(), "both", resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, ref := range []string{"app:v1", "host:5000/me/app:v2"} {
		desc, err := a.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		copyOut(t, a, desc)
	}
	// What the daemon refuses is said.
	err = d.load(t.Context(), func(w io.Writer) error {
		_, err := w.Write(makeTar(t, dockerManifestOf(dockerImage{Config: "none.json"})))
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("loading a broken archive: %v", err)
	}
}

func strs(list []digest.Digest) (s []string) {
	for _, d := range list {
		s = append(s, d.String())
	}
	return s
}

// fakeDocker answers as the handler does, on a socket.
func fakeDocker(t *testing.T, h http.HandlerFunc) *Daemon {
	t.Helper()
	sock := filepath.Join(shortDir(t), "d.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	d, err := NewDaemon("unix://" + sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// A daemon's errors are told, short and in quotes, whatever form they have.
func TestDaemonErrors(t *testing.T) {
	store := newStore(t)
	img := putImage(t, store, "amd64")
	load := func(d *Daemon) error { return d.Load(t.Context(), transfer.Layout(store), img, nil, nil) }
	save := func(d *Daemon) error { _, err := d.Resolve(t.Context(), "app:v1"); return err }
	for _, tt := range []struct {
		what   string
		do     func(*Daemon) error
		status int
		body   string
		want   string
	}{
		{"load: message in the stream", load, 200, `{"stream":"Loading"}` + "\n" + `{"errorDetail":{"message":"no\nspace"},"error":"no\nspace"}`, `the daemon says: "no\nspace"`},
		{"load: status", load, 500, `{"message":"broken"}`, `500 Internal Server Error: "broken"`},
		{"load: no JSON", load, 200, `<html>`, "read the answer"},
		{"load: endless", load, 200, `{"stream":"` + strings.Repeat("x", 2<<20) + `"}`, "read the answer"},
		{"load: redirect", load, 307, "", "307"},
		{"save: not there", save, 404, `{"message":"No such image: app:v1"}`, "No such image"},
		{"save: no archive", save, 200, "text", "read archive"},
		{"save: long answer", save, 500, strings.Repeat("y", 1<<20), `500 Internal Server Error: "yyy`},
	} {
		t.Run(tt.what, func(t *testing.T) {
			d := fakeDocker(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			err := tt.do(d)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if (tt.status == 404) != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v: is it fs.ErrNotExist?", err)
			}
		})
	}
}

// A source that breaks while it is loaded is what the error names, and the
// daemon does not get a complete archive.
func TestDaemonSourceBreaks(t *testing.T) {
	complete := make(chan bool, 1)
	d := fakeDocker(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		complete <- err == nil
	})
	store := newStore(t)
	img := putImage(t, store, "amd64")
	boom := errors.New("boom")
	err := d.Load(t.Context(), brokenReader{transfer.Layout(store), boom}, img, nil, nil)
	if !errors.Is(err, boom) {
		t.Errorf("Load: %v", err)
	}
	if <-complete {
		t.Error("the daemon got all of it")
	}
}

// brokenReader reads documents, and fails at blobs.
type brokenReader struct {
	transfer.Reader
	err error
}

func (r brokenReader) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if layout.IsLayer(desc.MediaType) {
		return nil, r.err
	}
	return r.Reader.Open(ctx, desc)
}

// Without a daemon, the error says what to do, and is not that of an image that
// is missing.
func TestDaemonNotThere(t *testing.T) {
	d, err := NewDaemon("unix://" + filepath.Join(shortDir(t), "none"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Resolve(t.Context(), "app:v1")
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is the daemon running") {
		t.Errorf("no socket: %v", err)
	}
	for _, host := range []string{"ssh://x", "unix://", "tcp://a/b", "x"} {
		if _, err := NewDaemon(host); err == nil {
			t.Errorf("NewDaemon(%q) succeeds", host)
		}
	}
	if _, err := d.Resolve(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "name an image") {
		t.Errorf("no name: %v", err)
	}
}
