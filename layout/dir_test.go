//go:build unix

package layout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What goes in comes out, by descriptor, and Create keeps what is there.
func TestBlobRoundTrip(t *testing.T) {
	d := newLayout(t)
	for _, content := range []string{"", "x", strings.Repeat("0123456789", 100_000)} {
		w, err := d.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		dg, size, err := w.Commit("", -1)
		if err != nil || dg != digest.FromString(content) || size != int64(len(content)) {
			t.Fatalf("Commit = %s, %d, %v", dg, size, err)
		}
		again, err := Create(d.Path())
		if err != nil {
			t.Fatal(err)
		}
		b, err := again.ReadBlob(ocispec.Descriptor{Digest: dg, Size: size}, size)
		if err != nil || string(b) != content {
			t.Errorf("ReadBlob of %d bytes = %d bytes, %v", size, len(b), err)
		}
		if !d.Has(dg) {
			t.Errorf("Has(%s) = false", dg)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(d.Path(), "tmp")); len(left) != 0 {
		t.Errorf("tmp has %d files after the commits, want none", len(left))
	}
	if fi, _ := os.Stat(blobFile(t, d, digest.FromString("x"))); fi.Mode().Perm() != 0o444 {
		t.Errorf("blob has mode %v, want 0444", fi.Mode())
	}
}

// A directory is only a layout when it says so, in a version that we know.
func TestOpenRefuses(t *testing.T) {
	write := func(content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	valid := write(`{"imageLayoutVersion":"1.0.0"}`)
	for name, tt := range map[string]struct {
		prepare func(*testing.T, string)
		want    string
		missing bool
	}{
		"no oci-layout": {func(*testing.T, string) {}, "no such file", true},
		"version 2":     {write(`{"imageLayoutVersion":"2.0.0"}`), `version "2.0.0" is not supported`, false},
		"no version":    {write(`{}`), `version "" is not supported`, false},
		"no JSON":       {write("\x00"), "parse oci-layout", false},
		"huge":          {write(strings.Repeat(" ", 5000)), "at most 4096", false},
		"symbolic link": {func(t *testing.T, dir string) {
			if err := os.Symlink("/etc/hostname", filepath.Join(dir, "oci-layout")); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file", false},
		"blobs lead elsewhere": {func(t *testing.T, dir string) {
			valid(t, dir)
			if err := os.Symlink("/tmp", filepath.Join(dir, "blobs")); err != nil {
				t.Fatal(err)
			}
		}, "not a directory", false},
		"algorithm leads elsewhere": {func(t *testing.T, dir string) {
			valid(t, dir)
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "blobs"), 0o755), os.Symlink("/tmp", filepath.Join(dir, "blobs/sha256"))); err != nil {
				t.Fatal(err)
			}
		}, "not a directory", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tt.prepare(t, dir)
			_, err := Open(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v, want %q", err, tt.want)
			}
			if got := errors.Is(err, fs.ErrNotExist); got != tt.missing {
				t.Errorf("errors.Is(%v, fs.ErrNotExist) = %v, want %v", err, got, tt.missing)
			}
		})
	}
}

// CVE-2024-3727: a digest that is not one never becomes a path.
func TestBlobPathRefuses(t *testing.T) {
	d := newLayout(t)
	for _, dg := range []string{
		"", "sha256", "sha256:", "sha256:../../../etc/passwd", "sha256:" + strings.Repeat("A", 64),
		"sha256:" + strings.Repeat("a", 63), "sha256:" + strings.Repeat("a", 65), "../x:" + strings.Repeat("a", 64),
		"md5:" + strings.Repeat("a", 32), "sha256:" + strings.Repeat("a", 63) + "/", "sha256:" + strings.Repeat("a", 64) + "\n",
	} {
		if path, err := d.BlobPath(digest.Digest(dg)); err == nil {
			t.Errorf("BlobPath(%q) = %s, want an error", dg, path)
		}
		if _, err := d.OpenBlob(ocispec.Descriptor{Digest: digest.Digest(dg), Size: 1}); err == nil {
			t.Errorf("OpenBlob(%q) = nil error", dg)
		}
	}
}

// A blob that is not what its name says is an error at the end of the stream at
// the latest, counts as missing, and is taken out of a layout of ours.
func TestCorruptBlob(t *testing.T) {
	const content = "the right content"
	for name, tt := range map[string]struct {
		spoil  func(t *testing.T, path string)
		size   int64 // in the descriptor; 0: the right one
		want   string
		atOpen bool
		heals  bool
	}{
		"other bytes": {spoil: write("the wrong content"), want: "content of digest", heals: true},
		"truncated":   {spoil: write("the right"), want: "has 9 bytes, want 17", atOpen: true, heals: true},
		"longer":      {spoil: write(content + "x"), want: "has 18 bytes, want 17", atOpen: true, heals: true},
		"empty":       {spoil: write(""), want: "has 0 bytes, want 17", atOpen: true, heals: true},
		"wrong descriptor": {spoil: func(*testing.T, string) {}, size: 5,
			want: "has 17 bytes, want 5", atOpen: true},
	} {
		for _, owned := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/owned=%v", name, owned), func(t *testing.T) {
				d := newLayout(t)
				desc := put(t, d, "text/plain", []byte(content))
				path := blobFile(t, d, desc.Digest)
				tt.spoil(t, path)
				if tt.size != 0 {
					desc.Size = tt.size
				}
				if !owned {
					var err error
					if d, err = Open(d.Path()); err != nil {
						t.Fatal(err)
					}
				}
				_, err := d.ReadBlob(desc, 100)
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("ReadBlob: %v, want a CorruptError with %q", err, tt.want)
				}
				if r, err := d.OpenBlob(desc); (err != nil) != (tt.atOpen || owned && tt.heals) {
					t.Errorf("OpenBlob: %v", err)
				} else if err == nil {
					if n, err := io.Copy(io.Discard, r); err == nil {
						t.Errorf("the reader gave %d bytes and no error", n)
					}
					r.Close()
				}
				if _, err := os.Stat(path); (err != nil) != (owned && tt.heals) {
					t.Errorf("after reading, the file: %v", err)
				}
			})
		}
	}
}

func write(content string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		os.Remove(path)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that grows while it is read is refused and not read for ever.
func TestGrowingBlob(t *testing.T) {
	d := newLayout(t)
	desc := put(t, d, "text/plain", []byte("abc"))
	r, err := d.OpenBlob(desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := blobFile(t, d, desc.Digest)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("def")
	if b, err := io.ReadAll(r); err == nil {
		t.Errorf("read %q without an error", b)
	}
}

// Blobs that are links, directories or FIFOs are neither followed nor waited
// for.
func TestSpecialBlobs(t *testing.T) {
	d := newLayout(t)
	content := []byte("root:x:0:0::/root:/bin/sh\n")
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, content, 0o644); err != nil {
		t.Fatal(err)
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	path := blobFile(t, d, desc.Digest)
	for name, make := range map[string]func() error{
		"symbolic link": func() error { return os.Symlink(target, path) },
		"dangling link": func() error { return os.Symlink("/nowhere", path) },
		"directory":     func() error { return os.Mkdir(path, 0o755) },
		"fifo":          func() error { return syscall.Mkfifo(path, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := make(); err != nil {
				t.Skip("cannot make one here:", err)
			}
			defer os.Remove(path)
			if _, err := d.OpenBlob(desc); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("OpenBlob: %v", err)
			}
			if d.Has(desc.Digest) {
				t.Error("Has = true")
			}
			if err := newLayout(t).LinkFrom(d, desc); err == nil {
				t.Error("LinkFrom took it")
			}
			if rep, err := d.Verify(t.Context(), 1, true); err != nil || len(rep.Problems) != 1 {
				t.Errorf("Verify = %v, %v", rep.Problems, err)
			}
		})
	}
}

// Commit takes nothing but what was promised, and leaves nothing of the rest.
func TestCommitRefuses(t *testing.T) {
	d := newLayout(t)
	other := digest.FromString("other")
	for name, tt := range map[string]struct {
		dg   digest.Digest
		size int64
	}{
		"digest":         {other, -1},
		"size":           {"", 3},
		"invalid digest": {"sha256:../x", -1},
		"sha512":         {digest.SHA512.FromString("other"), -1},
	} {
		w, err := d.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "some")
		if dg, _, err := w.Commit(tt.dg, tt.size); err == nil {
			t.Errorf("%s: Commit = %s, want an error", name, dg)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if _, err := w.Write([]byte("x")); err == nil {
			t.Errorf("%s: Write after Close succeeds", name)
		}
	}
	if d.Has(other) || d.Has(digest.FromString("some")) {
		t.Error("a refused blob is there")
	}
	if left, _ := os.ReadDir(filepath.Join(d.Path(), "tmp")); len(left) != 0 {
		t.Errorf("tmp has %d files, want none", len(left))
	}
}

// Other algorithms than SHA-256 are stored under their own directory.
func TestSHA512(t *testing.T) {
	d := newLayout(t)
	dg := digest.SHA512.FromString("some")
	w, err := d.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	io.WriteString(w, "some")
	if got, _, err := w.Commit(dg, 4); err != nil || got != dg {
		t.Fatalf("Commit = %s, %v", got, err)
	}
	if b, err := d.ReadBlob(ocispec.Descriptor{Digest: dg, Size: 4}, 4); err != nil || string(b) != "some" {
		t.Errorf("ReadBlob = %q, %v", b, err)
	}
}

// Writing a blob again repairs a torn one, also when its size is right.
func TestWriteHeals(t *testing.T) {
	d := newLayout(t)
	desc := put(t, d, "text/plain", []byte("content"))
	src := newLayout(t)
	put(t, src, "text/plain", []byte("content"))
	for name, rewrite := range map[string]func() error{
		"PutBytes": func() error { _, err := d.PutBytes("text/plain", []byte("content")); return err },
		"LinkFrom": func() error { return d.LinkFrom(src, desc) },
		"AdoptFile": func() error {
			path := filepath.Join(t.TempDir(), "f")
			_ = os.WriteFile(path, []byte("content"), 0o600)
			_, _, err := d.AdoptFile(path, desc.Digest)
			return err
		},
	} {
		for _, torn := range []string{"", "con", "\x00\x00\x00\x00\x00\x00\x00"} {
			if name == "LinkFrom" && len(torn) == len("content") {
				continue // it looks at the size only, as documented
			}
			overwrite(t, d, desc.Digest, torn)
			if err := rewrite(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if b, err := d.ReadBlob(desc, 100); err != nil || string(b) != "content" {
				t.Errorf("%s over %q: ReadBlob = %q, %v", name, torn, b, err)
			}
		}
	}
}

// AdoptFile moves a file whose digest is right, and only such.
func TestAdoptFile(t *testing.T) {
	d := newLayout(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.AdoptFile(path, digest.FromString("x")); err == nil {
		t.Error("a wrong digest is accepted")
	}
	dg, size, err := d.AdoptFile(path, "")
	if err != nil || dg != digest.FromString("abc") || size != 3 || !d.Has(dg) {
		t.Errorf("AdoptFile = %s, %d, %v", dg, size, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// A file that the caller has hashed becomes a blob by its name alone.
func TestAdoptVerified(t *testing.T) {
	d := newLayout(t)
	path := filepath.Join(d.Path(), tmpDir, "mine")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	desc := descriptorOf("content")
	if err := d.AdoptVerified(path, "sha256:../x"); err == nil {
		t.Error("adopted under a digest that is none")
	}
	if err := d.AdoptVerified(path, desc.Digest); err != nil {
		t.Fatal(err)
	}
	if b, err := d.ReadBlob(desc, 100); err != nil || string(b) != "content" {
		t.Errorf("blob %q, %v", b, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// LinkFrom gives an independent name to the same bytes; a torn or missing
// source is refused.
func TestLinkFrom(t *testing.T) {
	src, dst := newLayout(t), newLayout(t)
	desc := put(t, src, "text/plain", []byte("abc"))
	if err := dst.LinkFrom(src, desc); err != nil {
		t.Fatal(err)
	}
	if err := src.Remove(desc.Digest); err != nil {
		t.Fatal(err)
	}
	if b, err := dst.ReadBlob(desc, 3); err != nil || string(b) != "abc" {
		t.Errorf("ReadBlob = %q, %v", b, err)
	}
	if err := newLayout(t).LinkFrom(src, desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LinkFrom of a missing blob: %v", err)
	}
	overwrite(t, src, desc.Digest, "ab")
	if err := newLayout(t).LinkFrom(src, desc); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LinkFrom of a torn blob: %v", err)
	}
}

// What comes from another's layout is verified, and does not change when its
// file is edited.
func TestLinkFromForeign(t *testing.T) {
	theirs := newLayout(t)
	good, bad := put(t, theirs, "text/plain", []byte("abc")), put(t, theirs, "text/plain", []byte("def"))
	overwrite(t, theirs, bad.Digest, "dex")
	src, err := Open(theirs.Path())
	if err != nil {
		t.Fatal(err)
	}
	dst := newLayout(t)
	if err := dst.LinkFrom(src, bad); err == nil || dst.Has(bad.Digest) {
		t.Errorf("LinkFrom of a corrupt blob: %v", err)
	}
	if err := dst.LinkFrom(src, good); err != nil {
		t.Fatal(err)
	}
	path := blobFile(t, theirs, good.Digest)
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("xyz"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if b, err := dst.ReadBlob(good, 3); err != nil || string(b) != "abc" {
		t.Errorf("ReadBlob after an edit = %q, %v", b, err)
	}
}

// When neither clone nor link works, the copy is verified.
func TestCopyBlobVerifies(t *testing.T) {
	src, dst := newLayout(t), newLayout(t)
	desc := put(t, src, "text/plain", []byte("abc"))
	if err := dst.copyBlob(src, desc); err != nil || !dst.Has(desc.Digest) {
		t.Errorf("copyBlob: %v", err)
	}
	overwrite(t, src, desc.Digest, "abd")
	other := newLayout(t)
	if err := other.copyBlob(src, desc); err == nil || other.Has(desc.Digest) {
		t.Errorf("copyBlob of a corrupt blob: %v", err)
	}
}

// ReadBlob reads no more into memory than its caller allows.
func TestReadBlobBound(t *testing.T) {
	d := newLayout(t)
	desc := put(t, d, "text/plain", bytes.Repeat([]byte("x"), 1000))
	if _, err := d.ReadBlob(desc, 999); err == nil {
		t.Error("ReadBlob beyond its bound succeeds")
	}
	desc.Size = -1
	if _, err := d.ReadBlob(desc, 999); err == nil {
		t.Error("ReadBlob of a negative size succeeds")
	}
}

// Any number of writers may store the same blob and create the same layout.
func TestConcurrentWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			d, err := Create(path)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 20 {
				if _, err := d.PutBytes("text/plain", fmt.Appendf(nil, "blob %d", j)); err != nil {
					t.Error(err)
				}
				d.Tidy() // what an exporter beside us does
			}
			if err := d.SetRef(fmt.Sprintf("docker.io/library/app:%d", i), ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("blob 0"), Size: 6}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	index, err := d.Index()
	if err != nil || len(index.Manifests) != 8 {
		t.Errorf("index.json has %d entries, %v; want 8", len(index.Manifests), err)
	}
	if rep, err := d.Verify(t.Context(), 2, true); err != nil || rep.Blobs != 20 {
		t.Errorf("Verify = %+v, %v; want 20 blobs", rep, err)
	}
}

// childEnv makes a re-executed test binary act as another process.
const childEnv = "LAYOUT_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(child(path))
	}
	os.Exit(m.Run())
}

// child names images in a layout, or writes one blob for ever.
func child(path string) int {
	d, err := Create(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := range 20 {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
		if err := d.SetRef(fmt.Sprintf("docker.io/library/p%s:%d", os.Args[len(os.Args)-1], i), desc); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if os.Args[len(os.Args)-1] == "hang" {
		w, err := d.NewBlob()
		if err != nil {
			return 1
		}
		w.Write(bytes.Repeat([]byte("x"), 1<<20))
		unlock, err := d.lockIndex()
		if err != nil {
			return 1
		}
		fmt.Println("writing")
		time.Sleep(time.Hour)
		unlock()
	}
	return 0
}

func startChild(t *testing.T, path, arg string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], arg)
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// Processes that name images at the same time lose none.
func TestSetRefProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout")
	var wg sync.WaitGroup
	for i := range 4 {
		cmd := startChild(t, path, fmt.Sprint(i))
		wg.Go(func() {
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	index, err := d.Index()
	if err != nil || len(index.Manifests) != 80 {
		t.Errorf("index.json has %d entries, %v; want 80", len(index.Manifests), err)
	}
	if _, err := os.Stat(filepath.Join(path, "index.json.lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock file is left: %v", err)
	}
}

// A process that is killed while it writes a blob and holds the lock leaves a
// layout that others use at once.
func TestKilledWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layout")
	cmd := startChild(t, path, "hang")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	d, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetRef("v2", ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("x"), Size: 1}); err != nil {
		t.Fatal(err)
	}
	index, err := d.Index()
	if err != nil || len(index.Manifests) != 21 {
		t.Errorf("index.json has %d entries, %v; want 21", len(index.Manifests), err)
	}
	if left, _ := filepath.Glob(filepath.Join(path, "blobs/*/*")); len(left) != 0 {
		t.Errorf("blobs %v, want none", left)
	}
}

// A caller that hashes itself names the digest; a blob without one is refused.
func TestHashedBlob(t *testing.T) {
	d, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		digest digest.Digest
		ok     bool
	}{{digest.FromString("bytes"), true}, {"", false}, {"sha256:short", false}} {
		w, err := d.NewHashedBlob()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("bytes")); err != nil {
			t.Fatal(err)
		}
		got, _, err := w.Commit(c.digest, 5)
		w.Close()
		if (err == nil) != c.ok || err == nil && (got != c.digest || !d.Has(got)) {
			t.Errorf("Commit(%q) = %v, %v; want success: %t", c.digest, got, err, c.ok)
		}
	}
}
