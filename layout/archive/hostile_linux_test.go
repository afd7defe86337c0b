package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// childEnv makes a re-executed test binary read an archive and copy its image
// to a layout.
const childEnv = "ARCHIVE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		err := child(path)
		status, _ := os.ReadFile("/proc/self/status")
		os.Stdout.Write(status)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(path string) error {
	ctx := context.Background()
	a, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer a.Close()
	desc, err := a.Resolve(ctx, "")
	if err != nil {
		return err
	}
	d, err := layout.Create("out")
	if err != nil {
		return err
	}
	return transfer.Copy(ctx, transfer.Layout(d), a, desc, []string{"v1"}, transfer.Options{})
}

// maxChildMemory is what a process may have resident, whatever the archive says.
const maxChildMemory = 128 << 20

// readInChild reads an archive in another process and returns what that says
// on failure. The process must stay small and write nowhere but to out and to
// its temporary directory, which is empty afterwards.
func readInChild(t *testing.T, path string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	around := t.TempDir()
	dir, tmp := filepath.Join(around, "cwd"), filepath.Join(around, "tmp")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(tmp, 0o755)); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), childEnv+"="+path, "TMPDIR="+tmp)
	err = cmd.Run()
	// Not ru_maxrss, which begins with the memory of this process.
	peak := 0
	if _, hwm, ok := strings.Cut(stdout.String(), "VmHWM:"); ok {
		fmt.Sscan(hwm, &peak)
	}
	if peak == 0 || peak<<10 > maxChildMemory {
		t.Errorf("the process had %d kB resident, at most %d are allowed", peak, maxChildMemory>>10)
	}
	t.Logf("%d MB resident", peak>>10)
	if got := entries(t, around); !slices.Equal(got, []string{"cwd", "tmp"}) {
		t.Errorf("beside the destination: %v", got)
	}
	if got := entries(t, tmp); len(got) != 0 {
		t.Errorf("temporary files are left: %v", got)
	}
	if got := entries(t, dir); len(got) != 0 && !slices.Equal(got, []string{"out"}) {
		t.Errorf("in the working directory: %v", got)
	}
	if err == nil {
		return ""
	}
	if text := strings.TrimSpace(stderr.String()); text != "" && !strings.Contains(text, "goroutine") {
		return text
	}
	t.Fatalf("%v\n%s", err, stderr.String())
	return ""
}

// rawHeader is a header block of a tar with any size.
func rawHeader(name string, kind byte, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	if size < 1<<33 {
		copy(b[124:], fmt.Sprintf("%011o\x00", size))
	} else { // base 256
		b[124] = 0x80
		binary.BigEndian.PutUint64(b[128:], uint64(size))
	}
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	return checksum(b)
}

// gnu makes a header one of GNU tar.
func gnu(b []byte) []byte {
	copy(b[257:], "ustar  \x00")
	return checksum(b)
}

func checksum(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// makeFile writes a file that is too large for memory.
func makeFile(t *testing.T, write func(w io.Writer) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(write(b), b.Flush()); err != nil {
		t.Fatal(err)
	}
	return path
}

// sparseFile writes a head and then a hole, up to a size.
func sparseFile(t *testing.T, size int64, head ...[]byte) string {
	t.Helper()
	path := writeFile(t, bytes.Join(head, nil))
	if err := os.Truncate(path, size); err != nil {
		t.Skip("no sparse files here:", err)
	}
	return path
}

// repeated is n times b.
func repeated(b []byte, n int) func(io.Writer) error {
	return func(w io.Writer) error {
		for range n {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
}

// Archives that are made to exhaust memory, disk or patience are refused with a
// clear error, and little memory.
func TestHostileArchives(t *testing.T) {
	if testing.Short() {
		t.Skip("short: makes large files")
	}
	one := tarOf(t, "a", "one")
	header := member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}
	zeros := make([]byte, 64<<20)
	gzipBomb, zstdBomb := gzipped(t, zeros), zstded(t, zeros)
	for _, tt := range []struct {
		what string
		path func(t *testing.T) string
		want string
	}{
		{"a million entries", func(t *testing.T) string {
			return makeFile(t, func(w io.Writer) error {
				for i := range 100_000 {
					if _, err := w.Write(rawHeader(fmt.Sprint("file", i), tar.TypeReg, 0)); err != nil {
						return err
					}
				}
				return repeated(bytes.Repeat(rawHeader("last", tar.TypeReg, 0), 1000), 900)(w) // the first is refused
			})
		}, "more than 100000 entries"},
		{"a million images in index.json", func(t *testing.T) string {
			entry := fmt.Appendf(nil, `{"mediaType":%q,"digest":"sha256:%064d","size":1},`, ocispec.MediaTypeImageManifest, 0)
			return makeFile(t, func(w io.Writer) error {
				w.Write(makeTar(t, header)[:1024])
				w.Write(rawHeader("index.json", tar.TypeReg, int64(1_000_000*len(entry)+512)))
				return errors.Join(repeated(entry, 1_000_000)(w), repeated(make([]byte, 512), 5)(w))
			})
		}, `"index.json" has 151000512 bytes, at most 8388608 are read`},
		{"many images in index.json", func(t *testing.T) string {
			entry := fmt.Sprintf(`{"mediaType":"a","digest":"sha256:%064d","size":1}`, 0)
			return writeFile(t, makeTar(t, header, member{name: "index.json", content: `{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", 50_000) + entry + `]}`}))
		}, "more than 10000 entries"},
		{"many images in manifest.json", func(t *testing.T) string {
			return writeFile(t, makeTar(t, member{name: dockerManifestFile, content: "[" + strings.Repeat(`{"Config":"c"},`, 500_000) + `{"Config":"c"}]`}))
		}, "more than 10000 entries"},
		{"many layers in manifest.json", func(t *testing.T) string {
			return writeFile(t, makeTar(t, member{name: dockerManifestFile, content: `[{"Config":"c","Layers":[` + strings.Repeat(`"a",`, 2_000_000) + `"a"]}]`}))
		}, "more than 10000 entries"},
		{"deep manifest.json", func(t *testing.T) string {
			return writeFile(t, makeTar(t, member{name: dockerManifestFile, content: strings.Repeat("[", 8<<20)}))
		}, "nested deeper"},
		{"a huge config", func(t *testing.T) string {
			return writeFile(t, makeTar(t, member{name: "c", content: strings.Repeat(" ", 20<<20)}, dockerManifestOf(dockerImage{Config: "c"})))
		}, `"c" has 20971520 bytes, at most 16777216 are read`},
		{"one config for many images", func(t *testing.T) string {
			list := slices.Repeat([]dockerImage{{Config: "c"}}, 10_000)
			return writeFile(t, makeTar(t, member{name: "c", content: dockerConfig()[:len(dockerConfig())-1] + `,"x":"` + strings.Repeat("x", 10<<20) + `"}`}, dockerManifestOf(list...)))
		}, "more than 67108864 bytes"},
		{"a terabyte of extended header", func(t *testing.T) string {
			return sparseFile(t, 1<<41, rawHeader("x", tar.TypeXHeader, 1<<40))
		}, "too long"},
		{"a terabyte of name", func(t *testing.T) string {
			return sparseFile(t, 1<<41, rawHeader("x", tar.TypeGNULongName, 1<<40))
		}, "too long"},
		{"many long names", func(t *testing.T) string {
			return makeFile(t, func(w io.Writer) error {
				for i := range 10_000 {
					name := fmt.Sprintf("%04000d", i)
					if _, err := w.Write(slices.Concat(rawHeader("x", tar.TypeGNULongName, 4000), []byte(name), make([]byte, 96), rawHeader("x", tar.TypeReg, 0))); err != nil {
						return err
					}
				}
				return nil
			})
		}, "the names in it have more than"},
		{"a size that lies", func(t *testing.T) string {
			return writeFile(t, append(rawHeader("index.json", tar.TypeReg, 1<<40), make([]byte, 4096)...))
		}, `it is truncated: entry "index.json" has 1099511627776 bytes, 4096 are left`},
		{"a negative size", func(t *testing.T) string {
			return writeFile(t, append(rawHeader("index.json", tar.TypeReg, -1), make([]byte, 4096)...))
		}, "it is not a tar"},
		{"a sparse document", func(t *testing.T) string {
			return sparseFile(t, 1<<41, rawHeader("oci-layout", tar.TypeReg, 1<<40))
		}, `"oci-layout" has 1099511627776 bytes, at most 4096 are read`},
		{"a sparse member", func(t *testing.T) string {
			return writeFile(t, append(gnu(rawHeader(dockerManifestFile, tar.TypeGNUSparse, 0)), make([]byte, 4096)...))
		}, `it is no image archive`},
		{"a gzip bomb", func(t *testing.T) string { return makeFile(t, repeated(gzipBomb, 100)) }, "decompress it first if that is right"},
		{"a zstd bomb", func(t *testing.T) string { return makeFile(t, repeated(zstdBomb, 100)) }, "decompress it first if that is right"},
		{"a layer that is a bomb", func(t *testing.T) string {
			return writeFile(t, makeTar(t, member{name: "l", content: strings.Repeat(string(gzipBomb), 100)}, member{name: "c", content: dockerConfig(one)},
				dockerManifestOf(dockerImage{"c", nil, []string{"l"}})))
		}, "decompress it first if that is right"},
		{"gzip with something behind it", func(t *testing.T) string {
			return writeFile(t, append(gzipped(t, makeTar(t, header)), "trailing"...))
		}, "gzip"},
		{"cut gzip", func(t *testing.T) string {
			b := gzipped(t, makeTar(t, header))
			return writeFile(t, b[:len(b)/2])
		}, "gzip"},
		{"an index within itself", func(t *testing.T) string { return nestedIndexes(t) }, "indexes within"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			got := readInChild(t, tt.path(t))
			if got == "" || !strings.Contains(got, tt.want) || len(got) > 2000 || strings.ContainsAny(got, "\n\x00") {
				t.Errorf("%.2000q, want %q", got, tt.want)
			}
		})
	}
}

// nestedIndexes is an archive with indexes twenty deep.
func nestedIndexes(t *testing.T) string {
	t.Helper()
	d := newStore(t)
	desc := putImage(t, d, "amd64")
	for range 20 {
		desc = putIndex(t, d, desc)
	}
	var b bytes.Buffer
	files := []member{{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}}
	if err := d.SetRef("v1", desc); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(d.Path(), func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.Path(), path)
		if err != nil || !e.Type().IsRegular() || !strings.HasPrefix(rel, "blobs/") && rel != "index.json" {
			return err
		}
		content, err := os.ReadFile(path)
		files = append(files, member{name: rel, content: string(content)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(makeTar(t, files...))
	return writeFile(t, b.Bytes())
}

// A large image passes through with little memory, from a registry's form into
// an archive, packed or not, and out of it again.
func TestLargeArchive(t *testing.T) {
	if testing.Short() {
		t.Skip("short: makes large files")
	}
	store := newStore(t)
	w, err := store.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	piece := make([]byte, 1<<20)
	for i := range 300 {
		binary.LittleEndian.PutUint64(piece, uint64(i))
		w.Write(piece)
	}
	dg, size, err := w.Commit("", -1)
	if err != nil {
		t.Fatal(err)
	}
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dg, Size: size}
	desc, _, err := store.WriteImage(layout.ImageSpec{Config: []byte(`{"os":"linux","architecture":"amd64"}`), Layers: []layout.LayerBlob{{Descriptor: blob, DiffID: dg}}})
	if err != nil {
		t.Fatal(err)
	}
	path := makeFile(t, func(w io.Writer) error { return WriteDocker(t.Context(), w, transfer.Layout(store), desc, nil, nil) })
	if got := readInChild(t, path); got != "" {
		t.Error(got)
	}
}
