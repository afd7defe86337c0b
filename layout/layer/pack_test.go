package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand" //nolint:depguard // the golden digests are of its numbers
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The packed bytes of a fixed layer never change by accident: a registry that
// has a layer already would get it again, and a signature would not match. The
// compressor's version is a part of formatVersion: after an update that changes
// these digests, change that too.
func TestPackGolden(t *testing.T) {
	files := append(everyType(), randomTree(1, 30, 300<<10)...)
	for kind, want := range map[string]string{
		Uncompressed: "sha256:01e9606aeaba19c1f02e8452f187e9dc0fdddfdde84372b66cbcbafc66b924b7",
		Gzip:         "sha256:c7a45f64a3d2bc870df8a24c525156c15438e28ac7a1e4f4193909c067f4b406",
		Zstd:         "sha256:ab1706f523eb6f8f99118049f5dc7b6acbac9215e7f64bc3bfe38b4cd0796fd2",
	} {
		if _, p := pack(t, files, packed(kind)); p.Digest.String() != want {
			t.Errorf("%s: Digest = %s, want %s", kind, p.Digest, want)
		}
	}
}

// randomTree returns n files below "tree", of up to size bytes each, of text
// that compresses and bytes that don't.
func randomTree(seed int64, n, size int) []file {
	r := rand.New(rand.NewSource(seed))
	files := []file{dirOf("tree")}
	for i := range n {
		b := make([]byte, r.Intn(size))
		if i%2 == 0 {
			r.Read(b)
		} else {
			for j := range b {
				b[j] = "layers of text\n"[(j+r.Intn(3))%15]
			}
		}
		files = append(files, fileOf(fmt.Sprintf("tree/%04d", i), string(b)))
	}
	return files
}

// What Pack writes doesn't depend on the number of jobs, on how content is
// read, or on what a chunk store holds; with one, an unchanged layer is not
// compressed again, and one changed file costs one chunk.
func TestPackIsDeterministic(t *testing.T) {
	for seed, comp := range []Compression{{}, {Type: Zstd}, {Level: new(8)}} {
		files := randomTree(int64(seed), 60, 200<<10)
		files = append(files, fileOf("tree/large", string(make([]byte, 5<<20))), fileOf("tree/last", "x"))
		opts := PackOptions{Compression: comp, Jobs: 1}
		want, p := pack(t, files, opts)
		for _, jobs := range []int{2, 7} {
			opts.Jobs = jobs
			if got, _ := pack(t, files, opts); !bytes.Equal(got, want) {
				t.Fatalf("seed %d, %v: %d jobs give other bytes", seed, comp, jobs)
			}
		}
		var b bytes.Buffer
		if q, err := Pack(context.Background(), &b, sequential(stream(files)), opts); err != nil || q != p {
			t.Fatalf("seed %d, %v: Pack of sequential content = %v, %v, want %v", seed, comp, q, err, p)
		}
		testChunks(t, files, opts, want, p)
	}
}

// sequential hides the content's ReadAt and digest.
func sequential(entries Entries) Entries {
	return func(yield func(*Entry, error) bool) {
		for e, err := range entries {
			if e.Content != nil {
				e.Content = onlyOpen{e.Content}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

type onlyOpen struct{ c Content }

func (o onlyOpen) Open() (io.ReadCloser, error)    { return o.c.Open() }
func (o onlyOpen) Digest() (sum [32]byte, ok bool) { return sum, false }

// testChunks packs with a store that is empty, full, damaged and half empty.
func testChunks(t *testing.T, files []file, opts PackOptions, want []byte, p Packed) {
	t.Helper()
	store := newMapStore()
	opts.Chunks = store
	check := func(what string) {
		t.Helper()
		if got, q := pack(t, files, opts); !bytes.Equal(got, want) || q != p {
			t.Fatalf("%v with %s: %v, want %v", opts.Compression, what, q, p)
		}
	}
	check("an empty store")
	chunks := store.puts - 1 // one is the memo
	if chunks < 5 {
		t.Fatalf("the test needs more than %d chunks", chunks)
	}
	store.puts = 0
	check("a full store")
	if store.puts != 0 {
		t.Errorf("%d puts for an unchanged layer, want none", store.puts)
	}
	changed := slices.Clone(files)
	changed[len(files)/2].Data += "!"
	_, fresh := pack(t, changed, PackOptions{Compression: opts.Compression})
	if _, q := pack(t, changed, opts); q != fresh {
		t.Errorf("with the chunks of another layer: %v, want %v", q, fresh)
	}
	if store.puts > 4 {
		t.Errorf("%d puts after one file changed, want a few of %d", store.puts, chunks)
	}
	for k, v := range store.m {
		v[len(v)/2] ^= 1
		store.m[k] = v
	}
	check("a damaged store")
	n := 0
	for k := range store.m {
		if n++; n%2 == 0 {
			delete(store.m, k)
		}
	}
	check("half a store")
}

// An unchanged layer is packed without opening its files, as their digests are
// known; and the digests of what is written are still right.
func TestPackKnownLayerReadsNothing(t *testing.T) {
	store := newMapStore()
	files := randomTree(5, 40, 200<<10)
	_, want := pack(t, files, PackOptions{Chunks: store})
	unreadable := func(yield func(*Entry, error) bool) {
		for e := range stream(files) {
			if k, ok := e.Content.(known); ok {
				e.Content = &File{Name: "/nonexistent", Sum: k.sum}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
	got, err := Pack(context.Background(), io.Discard, unreadable, PackOptions{Chunks: store})
	if err != nil || got != want {
		t.Errorf("Pack = %v, %v, want %v", got, err, want)
	}
}

// Times after the epoch are set to it, all others lose their fraction only.
func TestPackEpoch(t *testing.T) {
	f := []file{fileOf("new", "n"), fileOf("old", "o"), fileOf("zero", "z")}
	f[0].ModTime = day.Add(time.Hour)
	f[1].ModTime = day.Add(-time.Hour + time.Millisecond)
	f[2].ModTime = time.Time{}
	b, _ := pack(t, f, PackOptions{Epoch: &day, Compression: Compression{Type: Uncompressed}})
	var got []int64
	for e, err := range Read(bytes.NewReader(b), Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ModTime.Unix()-day.Unix())
	}
	if want := []int64{0, -3600, -day.Unix()}; !slices.Equal(got, want) {
		t.Errorf("times = %v, want %v", got, want)
	}
}

// Headers are the plainest that hold the entry: what other engines read is what
// the standard library's reader sees.
func TestPackHeaders(t *testing.T) {
	b, _ := pack(t, everyType(), packed(Uncompressed))
	var names []string
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
			t.Errorf("%q: header has names or other times: %+v", h.Name, h)
		}
		if len(h.PAXRecords) > 0 {
			names = append(names, h.Name)
		}
		if strings.Contains(h.Name, whiteout) && (h.Mode != 0 || h.Size != 0 || h.ModTime.Unix() != 0) {
			t.Errorf("marker %q: %+v, want mode, size and time 0", h.Name, h)
		}
	}
	want := []string{names[0], "lonk", "old", "uid", "x\xff\xfe", "xattr", "é"}
	if !strings.HasSuffix(names[0], "nnn") {
		t.Errorf("first PAX header is of %q, want the longest name", names[0])
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("entries with a PAX header (-want +got):\n%s", diff)
	}
}

// A removed file and an opaque directory have their markers where every engine
// applies them before or independent of what follows: in place of the file, and
// right after the directory.
func TestPackMarkers(t *testing.T) {
	opaque := dirOf("d")
	opaque.Opaque = true
	root := dirOf(".")
	root.Opaque = true
	late := file{Entry: Entry{Path: "e", Type: Whiteout, Opaque: true}}
	b, _ := pack(t, []file{root, goneOf("a"), dirOf("b"), goneOf("b/c"), opaque, fileOf("d/f", ""), late}, packed(Uncompressed))
	var got []string
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		got = append(got, h.Name)
	}
	want := []string{".wh..wh..opq", ".wh.a", "b/", "b/.wh.c", "d/", "d/.wh..wh..opq", "d/f", "e/.wh..wh..opq"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// What a tar can't say, or would say something else with, is an error that
// names the file.
func TestPackRefuses(t *testing.T) {
	bad := func(change func(*Entry)) file {
		f := fileOf("dir/name", "data")
		change(&f.Entry)
		return f
	}
	for name, f := range map[string]file{
		"whiteout marker":   fileOf("dir/.wh.name", ""),
		"marker directory":  dirOf(".wh.name"),
		"absolute":          fileOf("/name", ""),
		"climbing":          fileOf("../name", ""),
		"unclean":           fileOf("dir//name", ""),
		"empty":             fileOf("", ""),
		"NUL":               fileOf("na\x00me", ""),
		"root as a file":    fileOf(".", "x"),
		"type":              bad(func(e *Entry) { e.Type = 'X' }),
		"owner":             bad(func(e *Entry) { e.UID = -1 }),
		"xattr name":        bad(func(e *Entry) { e.Xattrs = map[string]string{"user.a=b": ""} }),
		"xattr size":        bad(func(e *Entry) { e.Xattrs = map[string]string{"user.a": string(make([]byte, 2<<20))} }),
		"empty link":        linkOf("link", ""),
		"hard link outside": hardOf("link", "../name"),
		"device number":     {Entry: Entry{Path: "dev", Type: Char, DevMinor: 1 << 22}},
	} {
		_, err := Pack(context.Background(), io.Discard, stream([]file{f}), PackOptions{Root: true})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", f.Path)) {
			t.Errorf("%s: Pack = %v, want an error with %q", name, err, f.Path)
		}
	}
}

// A file that isn't what its entry says is an error, never a broken layer.
func TestPackChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]Content{
		"shorter":            Bytes(make([]byte, 99)),
		"longer":             Bytes(make([]byte, 101)),
		"stream, shorter":    onlyOpen{Bytes(make([]byte, 99))},
		"stream, longer":     onlyOpen{Bytes(make([]byte, 101))},
		"file, another stat": FileContent(path, Stat{Size: 100, Ino: 1}),
	} {
		e := &Entry{Path: "f", Type: Regular, Size: 100, Content: content}
		entries := func(yield func(*Entry, error) bool) { yield(e, nil) }
		if _, err := Pack(context.Background(), io.Discard, entries, PackOptions{}); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: Pack = %v, want ErrChanged", name, err)
		}
	}
	for size, want := range map[int64]error{99: ErrChanged, 100: nil, 101: ErrChanged} {
		e := &Entry{Path: "f", Type: Regular, Size: size, Content: FileContent(path, Stat{})}
		entries := func(yield func(*Entry, error) bool) { yield(e, nil) }
		if _, err := Pack(context.Background(), io.Discard, entries, PackOptions{}); !errors.Is(err, want) {
			t.Errorf("a file of 100 bytes with size %d: Pack = %v, want %v", size, err, want)
		}
	}
}

// Every failure ends Pack with its own error: of the entries, the files, the
// output, the caller's context.
func TestPackErrors(t *testing.T) {
	boom := errors.New("boom")
	files := randomTree(2, 40, 500<<10)
	failing := func(yield func(*Entry, error) bool) {
		for e := range stream(files) {
			if !yield(e, nil) {
				return
			}
		}
		yield(nil, boom)
	}
	if _, err := Pack(context.Background(), io.Discard, failing, PackOptions{}); !errors.Is(err, boom) {
		t.Errorf("failing entries: %v", err)
	}
	if _, err := Pack(context.Background(), failingWriter{boom}, stream(files), PackOptions{}); !errors.Is(err, boom) {
		t.Errorf("failing writer: %v", err)
	}
	missing := append(randomTree(3, 40, 500<<10), fileOf("z", "z"))
	e := stream(missing)
	noFile := func(yield func(*Entry, error) bool) {
		for e := range e {
			if e.Path == "z" {
				e.Content = FileContent("/nonexistent/z", Stat{})
			}
			if !yield(e, nil) {
				return
			}
		}
	}
	if _, err := Pack(context.Background(), io.Discard, noFile, PackOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(boom)
	if _, err := Pack(ctx, io.Discard, stream(files), PackOptions{}); !errors.Is(err, boom) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Pack(context.Background(), io.Discard, stream(nil), packed("lzma")); err == nil {
		t.Error("unknown compression: no error")
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

// A chunk's members are found by their own length field, and together they are
// one gzip stream.
func TestGzipMembers(t *testing.T) {
	b, p := pack(t, randomTree(4, 30, 400<<10), PackOptions{})
	members := 0
	for rest := b; len(rest) > 0; members++ {
		if len(rest) < gzipPrologue || !bytes.Equal(rest[12:14], []byte("BK")) {
			t.Fatalf("member %d has no length", members)
		}
		n := int(rest[16]) | int(rest[17])<<8 | int(rest[18])<<16 | int(rest[19])<<24
		rest = rest[n:]
	}
	if members < 3 {
		t.Errorf("%d members for %d bytes", members, p.UncompressedSize)
	}
}

// A compression is checked, named and typed.
func TestCompression(t *testing.T) {
	for _, c := range []struct {
		c              Compression
		ok             bool
		name, oci, dkr string
	}{
		{Compression{}, true, "gzip", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{Compression{Type: Zstd, Level: new(3)}, true, "zstd", "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		{Compression{Type: Zstd, Level: new(19)}, true, "zstd-19", "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd"},
		{Compression{Type: Uncompressed}, true, "uncompressed", "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"},
		{Compression{Type: Gzip, Level: new(10)}, false, "", "", ""},
		{Compression{Type: Zstd, Level: new(0)}, false, "", "", ""},
		{Compression{Type: Uncompressed, Level: new(1)}, false, "", "", ""},
		{Compression{Type: "xz"}, false, "", "", ""},
	} {
		if err := c.c.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: Validate = %v", c.c, err)
		}
		if !c.ok {
			continue
		}
		if got := []string{c.c.String(), c.c.MediaType(false), c.c.MediaType(true)}; !slices.Equal(got, []string{c.name, c.oci, c.dkr}) {
			t.Errorf("%+v: %q", c.c, got)
		}
	}
}

// File capabilities look the same whether they were set in a user namespace or
// not.
func TestCanonicalCapability(t *testing.T) {
	v2 := "\x01\x00\x00\x02" + strings.Repeat("p", 16)
	v3 := "\x01\x00\x00\x03" + strings.Repeat("p", 16) + "\x00\x00\x00\x00"
	other := v3[:20] + "\xe8\x03\x00\x00"
	for in, want := range map[string]string{v2: v2, v3: v2, other: other} {
		if got := canonicalXattr("security.capability", in); got != want {
			t.Errorf("canonicalXattr(%q) = %q, want %q", in, got, want)
		}
	}
}

func BenchmarkPack(b *testing.B) {
	files := randomTree(1, 4000, 12<<10)
	for _, kind := range []string{Gzip, Zstd, Uncompressed} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				p, err := Pack(context.Background(), io.Discard, stream(files), packed(kind))
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(p.UncompressedSize)
			}
		})
	}
}
