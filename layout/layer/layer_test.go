package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// file is an entry with its content as a string, to write and to compare.
type file struct {
	Entry
	Data string
}

// day is a time with no fraction of a second, as a tar keeps it.
var day = time.Unix(1_700_000_000, 0)

func dirOf(p string) file {
	return file{Entry: Entry{Path: p, Type: Directory, Mode: 0o755, ModTime: day}}
}

func fileOf(p, data string) file {
	return file{Entry: Entry{Path: p, Type: Regular, Mode: 0o644, ModTime: day}, Data: data}
}

func linkOf(p, to string) file {
	return file{Entry: Entry{Path: p, Type: Symlink, Mode: 0o777, ModTime: day, Link: to}}
}

func hardOf(p, to string) file {
	return file{Entry: Entry{Path: p, Type: Hardlink, Mode: 0o644, ModTime: day, Link: to}}
}

func goneOf(p string) file { return file{Entry: Entry{Path: p, Type: Whiteout}} }

// known is Content whose digest is known.
type known struct {
	Bytes
	sum [32]byte
}

func (k known) Digest() ([32]byte, bool) { return k.sum, true }

// stream turns files into entries. Content is read in order unless its digest
// is known.
func stream(files []file) Entries {
	return func(yield func(*Entry, error) bool) {
		for _, f := range files {
			e := f.Entry
			if e.Type == Regular && f.Data != "" {
				e.Size = int64(len(f.Data))
				e.Content = known{Bytes(f.Data), sha256.Sum256([]byte(f.Data))}
			}
			if !yield(&e, nil) {
				return
			}
		}
	}
}

// collect is the reverse of stream.
func collect(t *testing.T, entries Entries) []file {
	t.Helper()
	var files []file
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		f := file{Entry: *e}
		if e.Content != nil {
			r, err := e.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			f.Data = string(data)
		}
		f.Content, f.Size = nil, 0
		files = append(files, f)
	}
	return files
}

func pack(t *testing.T, files []file, opts PackOptions) ([]byte, Packed) {
	t.Helper()
	var b bytes.Buffer
	p, err := Pack(context.Background(), &b, stream(files), opts)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), p
}

func packed(kind string) PackOptions { return PackOptions{Compression: Compression{Type: kind}} }

// mapStore is a ChunkStore in memory.
type mapStore struct {
	mu   sync.Mutex
	m    map[[32]byte][]byte
	hits int
	puts int
}

func newMapStore() *mapStore { return &mapStore{m: make(map[[32]byte][]byte)} }

func (s *mapStore) Get(key [32]byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[key]
	if ok {
		s.hits++
	}
	return v, ok
}

func (s *mapStore) Put(key [32]byte, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	s.m[key] = bytes.Clone(value)
}

// everyType is a layer with each type of entry and the odd names that occur.
// Packing it needs no privileges.
func everyType() []file {
	long := string(bytes.Repeat([]byte("long-name/"), 9)) + "x"
	longer := string(bytes.Repeat([]byte("n"), 200))
	f := []file{
		dirOf("."),
		dirOf("bin"),
		fileOf("bin/a", "hello"),
		fileOf("bin/empty", ""),
		hardOf("bin/h", "bin/a"),
		linkOf("bin/s", "../a/b"),
		dirOf("gone"),
		goneOf("gone/file"),
		dirOf("long-name"),
		fileOf(long+"/"+longer, "prefix does not help"),
		fileOf(long+"/ustar-prefix-"+string(bytes.Repeat([]byte("p"), 80)), "split"),
		linkOf("lonk", "/"+longer),
		fileOf("new\nline", "n"),
		dirOf("opaque"),
		fileOf("opaque/kept", "k"),
		fileOf("old", "before 1970"),
		fileOf("suid", "s"),
		fileOf("uid", "u"),
		fileOf("x\xff\xfe", "not UTF-8"),
		fileOf("xattr", "x"),
		fileOf("é", "UTF-8"),
	}
	for i := range f {
		switch e := &f[i].Entry; e.Path {
		case "opaque":
			e.Opaque = true
		case "suid":
			e.Mode = 0o6755
		case "old":
			e.ModTime = time.Unix(-7, 0)
		case "uid":
			e.UID, e.GID = 2_000_000_000, 2_097_152
		case "xattr":
			e.Xattrs = map[string]string{"user.a": "1\x002", "user.b": ""}
		}
	}
	return f
}

// What is packed is read back the same, whatever the compression; but for the
// root's own header, which is left out.
func TestPackRead(t *testing.T) {
	files := everyType()
	for _, kind := range []string{Gzip, Zstd, Uncompressed} {
		t.Run(kind, func(t *testing.T) {
			b, p := pack(t, files, packed(kind))
			if int64(len(b)) != p.Size {
				t.Errorf("Size = %d, want %d", p.Size, len(b))
			}
			r, err := Decompress(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if diff := cmp.Diff(files[1:], collect(t, Read(r, Limits{}))); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}
