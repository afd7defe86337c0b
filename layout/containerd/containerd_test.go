package containerd

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

var (
	_ transfer.Reader = (*Store)(nil)
	_ transfer.Writer = (*Store)(nil)
	_ transfer.Lister = (*Store)(nil)
)

// startContainerd starts Debian's containerd with everything in a directory of
// its own, and returns its socket.
func startContainerd(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("containerd")
	if err != nil {
		t.Skip("containerd is not installed (Debian package containerd)")
	}
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	dir, err := os.MkdirTemp("", "bk") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n", dir+"/opt")
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	sock := dir + "/c.sock"
	cmd := exec.Command(path, "--config", dir+"/config.toml", "--root", dir+"/root", "--state", dir+"/state", "--address", sock)
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
	for range 300 {
		if s, err := Open(t.Context(), sock, ""); err == nil {
			_, err := s.Tags(t.Context())
			s.Close()
			if err == nil {
				return sock
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, _ := os.ReadFile(dir + "/log")
	t.Skipf("containerd does not start here:\n%.2000s", b)
	return ""
}

func openStore(t *testing.T, sock string) *Store {
	t.Helper()
	s, err := Open(t.Context(), "unix://"+sock, "test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ctr(t *testing.T, sock string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("ctr")
	if err != nil {
		t.Skip("ctr is not installed")
	}
	out, err := exec.CommandContext(t.Context(), path, append([]string{"--address", sock, "--namespace", "test"}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// putImage stores an image whose one layer has a file of the given content.
func putImage(t *testing.T, d *layout.Dir, arch string, content []byte) ocispec.Descriptor {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(content))})
	tw.Write(content)
	tw.Close()
	zw := gzip.NewWriter(&packed)
	zw.Write(plain.Bytes())
	zw.Close()
	blob, err := d.PutBytes(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": arch})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := d.WriteImage(layout.ImageSpec{Config: config, Layers: []layout.LayerBlob{{Descriptor: blob, DiffID: digest.FromBytes(plain.Bytes())}}})
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

func newLayout(t *testing.T) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// noise is content that does not compress, so that a blob takes several
// messages.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// An index goes into containerd, is complete there for its own tools, outlives
// the collector, and comes out with the same digests.
func TestCopy(t *testing.T) {
	sock := startContainerd(t)
	store := newLayout(t)
	amd64 := putImage(t, store, "amd64", noise(3<<20))
	list, err := store.WriteIndex([]ocispec.Descriptor{amd64, putImage(t, store, "arm64", []byte("small"))}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	sbom := putReferrer(t, store, list)
	src := transfer.Layout(store)

	s := openStore(t, sock)
	for range 2 {
		if err := transfer.Copy(t.Context(), s, src, list, []string{"app:v1", "host:5000/app:v2"}, transfer.Options{Referrers: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = openStore(t, sock)
	collect(t, s)

	if out := ctr(t, sock, "images", "ls"); !strings.Contains(out, "docker.io/library/app:v1") || !strings.Contains(out, list.Digest.String()) {
		t.Errorf("ctr images ls:\n%s", out)
	}
	if out := ctr(t, sock, "images", "check"); strings.Count(out, "complete (3/3)") != 2 && strings.Count(out, "complete") != 2 {
		t.Errorf("ctr images check:\n%s", out)
	}
	if tags, err := s.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"docker.io/library/app:v1", "host:5000/app:v2"}) {
		t.Errorf("Tags = %q, %v", tags, err)
	}
	for _, ref := range []string{"app:v1", "docker.io/library/app:v1", "host:5000/app:v2", list.Digest.String()} {
		if desc, err := s.Resolve(t.Context(), ref); err != nil || desc.Digest != list.Digest || desc.MediaType != list.MediaType {
			t.Errorf("Resolve(%q) = %v, %v", ref, desc, err)
		}
	}
	for _, ref := range []string{"app:v3", "sha256:" + strings.Repeat("a", 64)} {
		if _, err := s.Resolve(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resolve(%q): %v", ref, err)
		}
	}
	got, err := s.Referrers(t.Context(), list.Digest)
	if err != nil || len(got) != 1 || got[0].Digest != sbom.Digest || got[0].ArtifactType != "application/vnd.example.sbom" {
		t.Errorf("Referrers = %+v, %v", got, err)
	}
	out := newLayout(t)
	if err := transfer.Copy(t.Context(), transfer.Layout(out), s, list, []string{"v1"}, transfer.Options{Referrers: true}); err != nil {
		t.Fatal(err)
	}
	for _, desc := range []ocispec.Descriptor{list, sbom} {
		if err := layout.Validate(t.Context(), out, desc); err != nil {
			t.Error(err)
		}
	}

	// A name moves; what nothing refers to any more is collected.
	if err := transfer.Copy(t.Context(), s, src, amd64, []string{"app:v1", "host:5000/app:v2"}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openStore(t, sock)
	defer s.Close()
	collect(t, s)
	if desc, err := s.Resolve(t.Context(), "app:v1"); err != nil || desc.Digest != amd64.Digest {
		t.Errorf("after the update: %v, %v", desc, err)
	}
	if _, err := s.Resolve(t.Context(), list.Digest.String()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the index is still there: %v", err)
	}
	if err := transfer.Copy(t.Context(), transfer.Layout(newLayout(t)), s, amd64, []string{"v1"}, transfer.Options{}); err != nil {
		t.Error(err)
	}
}

// collect runs containerd's collector.
func collect(t *testing.T, s *Store) {
	t.Helper()
	ctx := s.in(t.Context())
	if _, err := s.leases.Create(ctx, &leasesapi.CreateRequest{ID: "collect"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.leases.Delete(ctx, &leasesapi.DeleteRequest{ID: "collect", Sync: true}); err != nil {
		t.Fatal(err)
	}
}

func putReferrer(t *testing.T, d *layout.Dir, subject ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	config, err := d.PutBytes("application/vnd.example.sbom", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config,
		"layers": []ocispec.Descriptor{config}, "subject": subject})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(ocispec.MediaTypeImageManifest, b)
	if err == nil {
		err = d.SetRef("", desc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// A reader seeks and verifies; a blob that lies is not taken, and nothing of it
// stays.
func TestVerify(t *testing.T) {
	sock := startContainerd(t)
	s := openStore(t, sock)
	defer s.Close()
	content := noise(2<<20 + 100)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}
	for what, r := range map[string]io.Reader{
		"other bytes": bytes.NewReader(noise(len(content) - 1)), "too long": io.MultiReader(bytes.NewReader(content), strings.NewReader("x")),
		"changed": io.MultiReader(strings.NewReader("x"), bytes.NewReader(content[1:])), "broken": io.MultiReader(bytes.NewReader(content[:5]), errReader{}),
	} {
		if err := s.PutBlob(t.Context(), desc, r); err == nil {
			t.Errorf("%s: PutBlob succeeds", what)
		}
	}
	if has, err := s.Has(t.Context(), desc); err != nil || has {
		t.Errorf("Has = %v, %v", has, err)
	}
	if resp, err := s.content.ListStatuses(s.in(t.Context()), &contentapi.ListStatusesRequest{}); err != nil || len(resp.GetStatuses()) != 0 {
		t.Errorf("left behind: %v, %v", resp, err)
	}
	if err := s.PutBlob(t.Context(), desc, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, off := range []int64{0, 1<<20 + 7, 3, desc.Size} {
		if _, err := r.(io.Seeker).Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	desc.Size--
	if _, err := s.Open(t.Context(), desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another size: %v", err)
	}
	if _, err := s.images.Create(s.in(t.Context()), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "x"}}); err == nil {
		t.Error("containerd takes an image without a target")
	}
	if err := s.PutManifest(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest}, []byte("{}"), "x"); err == nil {
		t.Error("PutManifest of nonsense")
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

// Without a containerd the error says what to do, and is not that of a missing
// image.
func TestNotThere(t *testing.T) {
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), "")
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("Open: %v", err)
	}
}
