package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes files of other owners, devices and trusted xattrs: needs root")
	}
}

func apply(t *testing.T, dir string, files []file, opts ApplyOptions) Applied {
	t.Helper()
	done, err := Apply(context.Background(), stream(files), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// tree summarizes the unpacked layer in dir, without the root.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	lines, err := summary(Walk(dir))
	if err != nil {
		t.Fatal(err)
	}
	return lines[1:]
}

// rootOnly is everyType with what only root can make.
func rootOnly() []file {
	files := everyType()
	dev := file{Entry: Entry{Path: "dev", Type: Block, Mode: 0o660, GID: 6, ModTime: day, DevMajor: 259, DevMinor: 70000}}
	null := file{Entry: Entry{Path: "null", Type: Char, Mode: 0o666, ModTime: day, DevMajor: 1, DevMinor: 3}}
	pipe := file{Entry: Entry{Path: "pipe", Type: Fifo, Mode: 0o622, ModTime: day}}
	files = append(files, dev, null, pipe)
	for i := range files {
		switch e := &files[i].Entry; {
		case e.Path == "xattr":
			e.Xattrs["security.capability"] = "\x01\x00\x00\x02\x00\x04\x00\x00" + strings.Repeat("\x00", 12)
			e.Xattrs["trusted.x"] = "t"
		case e.Path == "bin/s":
			e.UID, e.GID = 5, 6
		case e.Type == Directory && e.Path != "bin":
			e.Mode, e.UID, e.GID = 0o2750, 7, 8
		}
	}
	return ordered(files)
}

// ordered sorts files as Entries are.
func ordered(files []file) []file {
	key := func(p string) string { return strings.ReplaceAll(strings.TrimPrefix(p, "."), "/", "\x00") }
	slices.SortStableFunc(files, func(a, b file) int { return strings.Compare(key(a.Path), key(b.Path)) })
	return files
}

// What is applied is walked the same: every type, attribute and odd name. Only
// directories that were not named are more.
func TestApplyWalk(t *testing.T) {
	needRoot(t)
	files := rootOnly()
	dir := filepath.Join(t.TempDir(), "layer")
	done := apply(t, dir, files, ApplyOptions{})
	if len(done.Lost) > 0 {
		t.Errorf("lost: %q", done.Lost)
	}
	var got []file
	for _, f := range collect(t, Walk(dir)) {
		if slices.Contains(done.Implied, f.Path) {
			if f.Mode != 0o755 || f.UID != 0 || f.ModTime.Unix() != 0 {
				t.Errorf("implied %+v: want mode 0755, owner 0 and time 0", f.Entry)
			}
			continue
		}
		got = append(got, f)
	}
	if diff := cmp.Diff(files, got); diff != "" {
		t.Errorf("walked (-want +got):\n%s", diff)
	}
}

// Packing an unpacked layer gives the layer again.
func TestUnpackPack(t *testing.T) {
	needRoot(t)
	files := slices.DeleteFunc(rootOnly(), func(f file) bool { return strings.HasPrefix(f.Path, "long-name/") })
	files = ordered(append(files, randomTree(6, 10, 400<<10)...))
	for _, kind := range []string{Gzip, Zstd, Uncompressed} {
		opts := packed(kind)
		opts.Root = true
		b, p := pack(t, files, opts)
		dir := filepath.Join(t.TempDir(), "layer")
		u, err := Unpack(context.Background(), bytes.NewReader(b), dir, UnpackOptions{Digest: p.Digest, Size: p.Size, DiffID: p.DiffID})
		if err != nil {
			t.Fatal(err)
		}
		if u.Digest != p.Digest || u.DiffID != p.DiffID || u.Size != p.Size || len(u.Implied) > 0 {
			t.Errorf("%s: Unpack = %+v, want what Pack said: %+v", kind, u, p)
		}
		again, err := Pack(context.Background(), io.Discard, Walk(dir), opts)
		if err != nil || again != p {
			t.Errorf("%s: packed again: %+v, %v, want %+v", kind, again, err, p)
		}
	}
}

// Bytes that aren't what a descriptor or a config says are never a success.
func TestUnpackVerifies(t *testing.T) {
	b, p := pack(t, []file{fileOf("f", "data")}, PackOptions{})
	other := p.Digest[:len(p.Digest)-4] + "0000"
	for what, opts := range map[string]UnpackOptions{
		"digest":       {Digest: other},
		"diffID":       {DiffID: other},
		"size, less":   {Size: p.Size - 1},
		"size, more":   {Size: p.Size + 1},
		"tar too big":  {Limits: Limits{Size: 1000}},
		"digest form":  {Digest: "sha256:../x"},
		"sha512":       {Digest: "sha512:" + p.Digest[7:] + p.Digest[7:]},
		"not the blob": {Digest: p.DiffID},
	} {
		if _, err := Unpack(context.Background(), bytes.NewReader(b), filepath.Join(t.TempDir(), "d"), opts); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	boom := errors.New("boom")
	in := io.MultiReader(bytes.NewReader(b[:len(b)/2]), readError{boom})
	if _, err := Unpack(context.Background(), in, filepath.Join(t.TempDir(), "d"), UnpackOptions{}); !errors.Is(err, boom) || errors.Is(err, ErrInvalid) {
		t.Errorf("failing source: %v, want its error", err)
	}
	cut := io.MultiReader(bytes.NewReader(b[:len(b)/2]), readError{io.ErrUnexpectedEOF})
	if _, err := Unpack(context.Background(), cut, filepath.Join(t.TempDir(), "d"), UnpackOptions{}); err == nil {
		t.Error("source that was cut off: no error")
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(boom)
	if _, err := Unpack(ctx, bytes.NewReader(b), filepath.Join(t.TempDir(), "d"), UnpackOptions{}); !errors.Is(err, boom) {
		t.Errorf("cancelled: %v", err)
	}
}

type readError struct{ err error }

func (r readError) Read([]byte) (int, error) { return 0, r.err }

// The stream of a foreign tar ends as its last entries say, and whiteouts are
// about the layers below, wherever they come.
func TestApplySequences(t *testing.T) {
	opaque := dirOf("d")
	opaque.Opaque = true
	mark := file{Entry: Entry{Path: "d", Type: Whiteout, Opaque: true}}
	for _, c := range []struct {
		what string
		in   []file
		want []string
	}{
		{"the last of two files", []file{fileOf("f", "1"), fileOf("f", "22")}, []string{"0 f"}},
		{"file, then directory", []file{fileOf("d", "1"), dirOf("d"), fileOf("d/f", "")}, []string{"5 d opaque", "0 d/f"}},
		{"directory, then file", []file{dirOf("d"), fileOf("d/f", ""), dirOf("d/e"), fileOf("d/e/g", ""), fileOf("d", "")}, []string{"0 d"}},
		{"directory, file, directory", []file{dirOf("d"), fileOf("d/f", ""), fileOf("d", ""), dirOf("d")}, []string{"5 d opaque"}},
		{"symlink, then directory", []file{dirOf("e"), linkOf("d", "e"), dirOf("d"), fileOf("d/f", "")}, []string{"5 d opaque", "0 d/f", "5 e"}},
		{"file over symlink", []file{fileOf("e", "keep"), linkOf("f", "e"), fileOf("f", "new")}, []string{"0 e", "0 f"}},
		{"directory twice", []file{dirOf("d"), fileOf("d/f", ""), dirOf("d")}, []string{"5 d", "0 d/f"}},
		{"whiteout before a file", []file{goneOf("f"), fileOf("f", "")}, []string{"0 f"}},
		{"whiteout after a file", []file{fileOf("f", ""), goneOf("f")}, []string{"0 f"}},
		{"whiteout before a directory", []file{goneOf("d"), dirOf("d"), fileOf("d/f", "")}, []string{"5 d opaque", "0 d/f"}},
		{"whiteout after a directory", []file{dirOf("d"), fileOf("d/f", ""), goneOf("d")}, []string{"5 d opaque", "0 d/f"}},
		{"whiteout twice", []file{goneOf("f"), goneOf("f")}, []string{"w f"}},
		{"whiteout below a new directory", []file{goneOf("d/f")}, []string{"5 d", "w d/f"}},
		{"opaque mark late", []file{dirOf("d"), fileOf("d/f", ""), mark}, []string{"5 d opaque", "0 d/f"}},
		{"opaque mark alone", []file{mark}, []string{"5 d opaque"}},
		{"opaque, then named again", []file{opaque, dirOf("d")}, []string{"5 d opaque"}},
		{"hard link to itself", []file{fileOf("f", "x"), hardOf("f", "f")}, []string{"0 f"}},
		{"hard link over a file", []file{fileOf("e", "x"), fileOf("f", "y"), hardOf("f", "e")}, []string{"0 e", "1 f -> e"}},
		{"hard link twice", []file{fileOf("e", "x"), hardOf("f", "e"), hardOf("f", "e")}, []string{"0 e", "1 f -> e"}},
		{"hard link to a symlink", []file{linkOf("e", "/etc"), hardOf("f", "e")}, []string{"2 e -> /etc", "1 f -> e"}},
		{"hard link across directories", []file{fileOf("a/b/f", "x"), hardOf("c/d/g", "a/b/f")}, []string{"5 a", "5 a/b", "0 a/b/f", "5 c", "5 c/d", "1 c/d/g -> a/b/f"}},
		{"parents by symlinks", []file{dirOf("run"), dirOf("var"), linkOf("var/run", "/run"), fileOf("var/run/f", "")}, []string{"5 run", "0 run/f", "5 var", "2 var/run -> /run"}},
		{"parents by a relative symlink", []file{linkOf("a/l", "../../../b"), fileOf("a/l/f", "")}, []string{"5 a", "2 a/l -> ../../../b", "5 b", "0 b/f"}},
		{"parents by links to links", []file{linkOf("x", "y"), linkOf("y", "z/../w"), dirOf("z"), fileOf("x/f", "")}, []string{"5 w", "0 w/f", "2 x -> y", "2 y -> z/../w", "5 z"}},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		if os.Geteuid() != 0 && strings.Contains(c.what, "opaque") {
			continue
		}
		apply(t, dir, c.in, ApplyOptions{})
		if diff := cmp.Diff(c.want, tree(t, dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}

// Directories that the stream needs and doesn't name are reported, and no
// others; and so is an opaque root.
func TestApplyImplied(t *testing.T) {
	files := []file{fileOf("a/b/f", ""), dirOf("a/b"), fileOf("c/d/f", ""), dirOf("c"), dirOf("e"), goneOf("g/h")}
	done := apply(t, filepath.Join(t.TempDir(), "d"), files, ApplyOptions{})
	if want := []string{".", "a", "c/d", "g"}; !slices.Equal(done.Implied, want) {
		t.Errorf("Implied = %q, want %q", done.Implied, want)
	}
	done = apply(t, filepath.Join(t.TempDir(), "d"), append(files, dirOf(".")), ApplyOptions{})
	if slices.Contains(done.Implied, ".") || done.OpaqueRoot {
		t.Errorf("%+v with a root that is named and not opaque", done)
	}
	root := dirOf(".")
	root.Opaque = true
	done = apply(t, filepath.Join(t.TempDir(), "d"), []file{root}, ApplyOptions{})
	if !done.OpaqueRoot {
		t.Error("an opaque root is not reported, and overlayfs doesn't see it")
	}
}

// A literal device 0/0 would hide a file of another layer.
func TestApplyRefusesWhiteoutDevice(t *testing.T) {
	f := file{Entry: Entry{Path: "f", Type: Char}}
	if _, err := Apply(context.Background(), stream([]file{f}), filepath.Join(t.TempDir(), "d"), ApplyOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("Apply = %v, want ErrInvalid", err)
	}
}

// A layer is only written into an empty directory.
func TestApplyNotEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(context.Background(), stream(nil), dir, ApplyOptions{}); err == nil {
		t.Error("no error")
	}
}

// Onto a merged tree, an opaque directory and a whiteout remove what lower
// layers have there, and nothing of their own layer.
func TestApplyMerged(t *testing.T) {
	opaque := dirOf("o")
	opaque.Opaque = true
	mark := file{Entry: Entry{Path: "late", Type: Whiteout, Opaque: true}}
	lower := []file{
		dirOf("d"), fileOf("d/1", ""), fileOf("d/2", ""),
		dirOf("late"), fileOf("late/old", ""),
		dirOf("o"), dirOf("o/sub"), fileOf("o/sub/f", ""), fileOf("o/x", ""),
		dirOf("p"), fileOf("p/f", "old"), linkOf("q", "p"), dirOf("r"), fileOf("r/f", ""),
	}
	upper := []file{
		goneOf("d/1"), fileOf("late/new", ""), mark, opaque, fileOf("o/y", ""),
		fileOf("p/f", "new"), fileOf("q", "was a link"), fileOf("r", "was a directory"),
		goneOf("never"), fileOf("s", ""), goneOf("s"),
	}
	dir := filepath.Join(t.TempDir(), "d")
	apply(t, dir, lower, ApplyOptions{Merged: true})
	done := apply(t, dir, upper, ApplyOptions{Merged: true})
	if len(done.Implied) > 0 {
		t.Errorf("Implied = %q, want none: the lower layer has them", done.Implied)
	}
	want := []string{"5 d", "0 d/2", "5 late", "0 late/new", "5 o", "0 o/y", "5 p", "0 p/f", "0 q", "0 r", "0 s"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "p/f")); string(got) != "new" {
		t.Errorf("p/f = %q, want new", got)
	}
}

// An export adds and replaces files in a user's directory, leaves others and
// the directory itself as they are, and never follows a symlink out of it.
func TestApplyExport(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, f := range []string{"mine", "same"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	apply(t, dir, []file{dirOf("."), goneOf("mine"), fileOf("same", "new"), fileOf("link/f", "x")}, ApplyOptions{Export: true})
	if got, err := os.ReadFile(filepath.Join(dir, "mine")); err != nil || string(got) != "old" {
		t.Errorf("mine = %q, %v, want old", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "same")); err != nil || string(got) != "new" {
		t.Errorf("same = %q, %v, want new", got, err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o711 {
		t.Errorf("the directory is %v, %v, want mode 0711", fi.Mode(), err)
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("%d files outside, %v", len(names), err)
	}
}

// Blocks of zeros take no space, and are there when they are read.
func TestApplyHoles(t *testing.T) {
	data := string(make([]byte, 1<<20)) + "x" + string(make([]byte, 3<<20))
	dir := filepath.Join(t.TempDir(), "d")
	apply(t, dir, []file{fileOf("f", data)}, ApplyOptions{})
	if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != data {
		t.Fatalf("%d bytes, %v, want %d", len(got), err, len(data))
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d KiB on disk, %v, want little", st.Blocks/2, err)
	}
}

// Files are copied from one tree to another, large ones inside the kernel; a
// change in between is an error.
func TestApplyFiles(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	files := randomTree(7, 6, 900<<10)
	apply(t, src, files, ApplyOptions{})
	dst := filepath.Join(t.TempDir(), "dst")
	if _, err := Apply(context.Background(), Walk(src), dst, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(collect(t, Walk(src)), collect(t, Walk(dst))); diff != "" {
		t.Errorf("copy (-want +got):\n%s", diff)
	}
	touching := func(yield func(*Entry, error) bool) {
		for e, err := range Walk(src) {
			if err == nil && e.Type == Regular {
				if err := os.WriteFile(filepath.Join(src, e.Path), make([]byte, e.Size), 0o644); err != nil {
					t.Error(err)
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
	if _, err := Apply(context.Background(), touching, filepath.Join(t.TempDir(), "d"), ApplyOptions{}); !errors.Is(err, ErrChanged) {
		t.Errorf("files that change: %v, want ErrChanged", err)
	}
}

// Walk reads whiteouts in both of overlayfs's forms, leaves sockets out and marks
// that only another user's overlayfs would take for its own, and
// refuses what depends on a layer that it can't see.
func TestWalkOverlay(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set := func(p, name, value string) {
		t.Helper()
		must(unix.Setxattr(filepath.Join(dir, p), name, []byte(value), 0))
	}
	for _, d := range []string{"x", "plain", "userdir"} {
		must(os.Mkdir(filepath.Join(dir, d), 0o755))
		must(os.WriteFile(filepath.Join(dir, d, "gone"), nil, 0o644))
		set(filepath.Join(d, "gone"), "trusted.overlay.whiteout", "y")
	}
	set("x", "trusted.overlay.opaque", "x")
	set("userdir", "user.overlay.opaque", "y")
	must(unix.Mknod(filepath.Join(dir, "w1"), unix.S_IFCHR, 0))
	must(os.Link(filepath.Join(dir, "w1"), filepath.Join(dir, "w2")))
	must(unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	want := []string{"5 plain", "0 plain/gone", "5 userdir", "0 userdir/gone", "w w1", "w w2", "5 x", "w x/gone"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("walked (-want +got):\n%s", diff)
	}
	for _, name := range []string{"redirect", "metacopy"} {
		at := map[string]string{"redirect": "plain", "metacopy": "plain/gone"}[name]
		set(at, "trusted.overlay."+name, "y")
		if _, err := summary(Walk(dir)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
		must(unix.Removexattr(filepath.Join(dir, at), "trusted.overlay."+name))
	}
}

// A layer made here is what overlayfs takes: whiteouts hide, opaque directories
// hide, all else shows.
func TestApplyOverlayMount(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	opaque := dirOf("o")
	opaque.Opaque = true
	at := func(name string) string { return filepath.Join(base, name) }
	apply(t, at("lower"), []file{dirOf("."), fileOf("f", ""), dirOf("o"), fileOf("o/hidden", ""), fileOf("kept", "")}, ApplyOptions{})
	apply(t, at("upper"), []file{dirOf("."), goneOf("f"), opaque, fileOf("o/new", "")}, ApplyOptions{})
	if err := os.Mkdir(at("merged"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", at("merged"), "overlay", unix.MS_RDONLY, "lowerdir="+at("upper")+":"+at("lower")); err != nil {
		t.Skipf("overlayfs can't be mounted here: %v", err)
	}
	defer unix.Unmount(at("merged"), unix.MNT_DETACH)
	if diff := cmp.Diff([]string{"0 kept", "5 o", "0 o/new"}, tree(t, at("merged"))); diff != "" {
		t.Errorf("mounted (-want +got):\n%s", diff)
	}
}

func BenchmarkUnpack(b *testing.B) {
	var blob bytes.Buffer
	p, err := Pack(context.Background(), &blob, stream(randomTree(1, 2000, 12<<10)), PackOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(p.UncompressedSize)
	dir := filepath.Join(b.TempDir(), "layer")
	for b.Loop() {
		if _, err := Unpack(context.Background(), bytes.NewReader(blob.Bytes()), dir, UnpackOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}
