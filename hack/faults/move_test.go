package faults_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/faults"
	"bk.build/bk/hack/images"
	"bk.build/bk/hack/registry"
	"bk.build/bk/layout"
	"bk.build/bk/layout/remote"
	"bk.build/bk/layout/transfer"
)

const (
	stall = time.Second // what the client takes for silence
	chunk = 8 << 20
)

// servers are the registries that images are moved to and from.
var servers = map[string]string{"distribution": "", "debian": "docker-registry"}

func newDir(t testing.TB) *layout.Dir {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// large is a layout with the image "large", made once: three layers, one of
// 200 MB.
var large = sync.OnceValues(func() (*layout.Dir, error) {
	dir, err := os.MkdirTemp("", "bk-faults-")
	if err != nil {
		return nil, err
	}
	d, err := layout.Create(dir)
	if err != nil {
		return nil, err
	}
	_, err = images.Large(d, "large", 200_000_000, 20_000_000, 1_000_000)
	return d, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if d, err := large(); err == nil {
		os.RemoveAll(d.Path())
	}
	os.Exit(code)
}

// largeImage returns the layout, the image in it, and the sum of its blobs.
func largeImage(t testing.TB) (d *layout.Dir, desc ocispec.Descriptor, size int64) {
	t.Helper()
	d, err := large()
	if err != nil {
		t.Fatal(err)
	}
	desc, err = d.Resolve("large")
	if err != nil {
		t.Fatal(err)
	}
	return d, desc, blobsSize(t, d, desc)
}

func blobsSize(t testing.TB, d *layout.Dir, desc ocispec.Descriptor) (size int64) {
	t.Helper()
	parts, err := d.Closure(desc)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if !layout.IsManifest(p.MediaType) && !layout.IsIndex(p.MediaType) {
			size += p.Size
		}
	}
	return size
}

// client is a client that is patient in number and not in time.
func client(t testing.TB) *remote.Client {
	t.Helper()
	c := &remote.Client{Attempts: 12, StallTimeout: stall, ChunkSize: chunk, Keychain: nobody{}}
	t.Cleanup(c.Close)
	return c
}

type nobody struct{}

func (nobody) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// somebody has a password at one registry and no other.
type somebody struct{ host string }

func (s somebody) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() != s.host {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: "me", Password: "secret"}), nil
}

// htpasswd lets in "me" with the password "secret".
const htpasswd = "me:$2b$04$to8n8XX4AytAI2BbnYeuUuB1QkxRoz2HdI8DjbYLf9xCsyqLANPda\n"

// push copies from a layout to addr/app:v1.
func push(t testing.TB, c *remote.Client, addr string, d *layout.Dir, desc ocispec.Descriptor) error {
	t.Helper()
	repo, tag, err := c.Repository(addr + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	return transfer.Copy(t.Context(), repo, transfer.Layout(d), desc, []string{tag}, transfer.Options{})
}

// pull copies addr/app:v1 to a layout, where it is called v1.
func pull(t testing.TB, c *remote.Client, addr string, d *layout.Dir) (ocispec.Descriptor, error) {
	t.Helper()
	repo, tag, err := c.Repository(addr + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), tag)
	if err != nil {
		return desc, err
	}
	return desc, transfer.Copy(t.Context(), transfer.Layout(d), repo, desc, []string{tag}, transfer.Options{})
}

// arrived checks every byte of an image.
func arrived(t testing.TB, d *layout.Dir, want ocispec.Descriptor) {
	t.Helper()
	got, err := d.Resolve("v1")
	if err != nil || got.Digest != want.Digest {
		t.Fatalf("v1 leads to %s, %v; want %s", got.Digest, err, want.Digest)
	}
	if err := layout.Validate(t.Context(), d, got); err != nil {
		t.Error(err)
	}
}

// sound checks that nothing is in a layout under a digest that it doesn't have,
// and that no name leads to it.
func sound(t testing.TB, d *layout.Dir) {
	t.Helper()
	index, err := d.Index()
	if err != nil || len(index.Manifests) > 0 {
		t.Errorf("names %v, %v", index.Manifests, err)
	}
	err = filepath.WalkDir(filepath.Join(d.Path(), "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != e.Name() {
			t.Errorf("%s has digest %s", path, got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// With faults that end, of every kind there is, an image of 200 MB reaches the
// registry and comes back with no byte wrong.
func TestFaultsThatEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("short: moves 900 MB")
	}
	src, want, _ := largeImage(t)
	for name, program := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := registry.StartWith(t, registry.Options{Program: program})
			proxy := faults.Start(t, addr, 1, faults.Passing(0.08, 2, stall+time.Second/2)...)
			if err := push(t, client(t), proxy.Addr, src, want); err != nil {
				t.Fatalf("push: %v", err)
			}
			pushed := proxy.Stats()
			direct := newDir(t)
			if _, err := pull(t, client(t), addr, direct); err != nil {
				t.Fatalf("pull of what was pushed: %v", err)
			}
			arrived(t, direct, want)

			proxy.Inject(faults.Passing(0.3, 2, stall+time.Second/2)...)
			dst := newDir(t)
			if _, err := pull(t, client(t), proxy.Addr, dst); err != nil {
				t.Fatalf("pull: %v", err)
			}
			arrived(t, dst, want)
			all := proxy.Stats()
			if pushed.Total() == 0 || all.Total() == pushed.Total() {
				t.Errorf("nothing went wrong: %s; then %s", pushed, all)
			}
		})
	}
}

// A download that breaks off goes on where it stopped: no byte comes twice.
func TestDownloadResumes(t *testing.T) {
	src, want, size := largeImage(t)
	addr := registry.Start(t)
	if err := push(t, client(t), addr, src, want); err != nil {
		t.Fatal(err)
	}
	proxy := faults.Start(t, addr, 2, faults.Fault{Kind: faults.Truncate, Times: 12})
	dst := newDir(t)
	if _, err := pull(t, client(t), proxy.Addr, dst); err != nil {
		t.Fatal(err)
	}
	arrived(t, dst, want)
	if s := proxy.Stats(); s.Faults["truncate"] < 5 || s.Down != size {
		t.Errorf("%d bytes came for %d: %s", s.Down, size, s)
	}
}

// An upload that breaks off goes on with what the registry has: at most the
// chunk that was cut is sent again. Debian's server forgets all of an upload when
// a chunk is cut; there the test is that the push succeeds.
func TestUploadResumes(t *testing.T) {
	src, want, size := largeImage(t)
	for name, program := range servers {
		t.Run(name, func(t *testing.T) {
			addr := registry.StartWith(t, registry.Options{Program: program})
			const cuts = 10
			proxy := faults.Start(t, addr, 3, faults.Fault{Kind: faults.Cut, Times: cuts, Chance: 0.5})
			if err := push(t, client(t), proxy.Addr, src, want); err != nil {
				t.Fatal(err)
			}
			dst := newDir(t)
			if _, err := pull(t, client(t), addr, dst); err != nil {
				t.Fatal(err)
			}
			arrived(t, dst, want)
			if s := proxy.Stats(); s.Faults["cut"] < cuts || program == "" && s.Up > size+cuts*chunk {
				t.Errorf("%d bytes went for %d: %s", s.Up, size, s)
			}
		})
	}
}

// What does not end is given up, after as many attempts as were asked for, and
// what a client's own fault is, at once.
func TestFaultsThatStay(t *testing.T) {
	addr := registry.Start(t)
	for _, tt := range []struct {
		code     int
		attempts int
	}{{500, 3}, {503, 3}, {429, 3}, {400, 1}, {403, 1}, {404, 1}} {
		proxy := faults.Start(t, addr, 4, faults.Fault{Kind: faults.Status, Code: tt.code, RetryAfter: "0", On: faults.OnManifest})
		c := client(t)
		c.Attempts = 3
		dst := newDir(t)
		_, err := pull(t, c, proxy.Addr, dst)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("status %d: %v", tt.code, err)
		}
		if n := proxy.Stats().Total(); n != tt.attempts {
			t.Errorf("status %d: asked %d times, want %d", tt.code, n, tt.attempts)
		}
		sound(t, dst)
	}
}
