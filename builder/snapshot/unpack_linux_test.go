package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// tarball makes an archive of lines "TYPE NAME [LINK or CONTENT]", where a
// mode follows the name after a colon.
func tarball(t testing.TB, spec ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, line := range spec {
		f := append(strings.Fields(line), "", "")
		name, mode, _ := strings.Cut(f[1], ":")
		hdr := &tar.Header{
			Typeflag: f[0][0], Name: name, Mode: 0o640, Uid: i + 1, Gid: i + 2, ModTime: time.Unix(int64(1e9+i), 0),
			PAXRecords: map[string]string{"SCHILY.xattr.user.n": fmt.Sprint(i)},
		}
		if mode != "" {
			fmt.Sscanf(mode, "%o", &hdr.Mode)
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			hdr.Size = int64(len(f[2]))
		case tar.TypeLink, tar.TypeSymlink:
			hdr.Linkname, hdr.PAXRecords = f[2], nil
		case tar.TypeChar, tar.TypeBlock:
			hdr.Devmajor, hdr.Devminor, hdr.PAXRecords = 1, 3, nil
		case tar.TypeFifo:
			hdr.PAXRecords = nil
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f[2][:hdr.Size])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// fileTree is a tree with one file.
func fileTree(t testing.TB, name string, data []byte) FS {
	t.Helper()
	l, err := PlanLayer(func(yield func(*layer.Entry, error) bool) {
		yield(&layer.Entry{Path: name, Type: layer.Regular, Mode: 0o644, ModTime: time.Unix(1e9, 0), Size: int64(len(data)), Content: layer.Bytes(data)}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return NewView(l)
}

func addArchive(e *Editor, src FS, dest string, owner *Owner) error {
	return e.Copy(context.Background(), src, &pb.FileActionCopy{
		Src: "/a.tar", Dest: dest, Mode: -1, Timestamp: -1, CreateDestPath: true, FollowSymlink: true,
		AttemptUnpackDockerCompatibility: true,
	}, owner)
}

var unpackCases = [][]string{
	{"0 f x"},
	{"5 d:700", "0 d/f x", "0 d/g"},
	{"0 deep/er/f x"},
	{"5 ./:700", "0 ./f x"},
	{"5 /:711", "0 /f x"},
	{"0 ../../up x", "5 ../d", "0 a/../../b y"},
	{"0 f x", "1 g f", "1 h /g"},
	{"0 f x", "1 g f", "0 f new"},
	{"0 f:4755 x", "1 g:600 f"},
	{"2 l /etc/passwd", "2 m ../../../x", "2 n f"},
	{"2 l /", "0 l/f x"},
	{"2 out ../../..", "0 out/esc x"},
	{"2 l nowhere", "0 l/f x"},
	{"2 l f", "1 g l"},
	{"6 p:600", "3 c:620", "4 b:660"},
	{"0 d x", "5 d:700", "0 d/f y"},
	{"0 dir new"},
	{"5 file:700"},
	{"5 dir:1777", "0 dir/keep new"},
	{"0 link/f x"},
	{"0 abs/f x"},
	{"1 hard file", "1 hard2 dir/keep"},
	{"1 hard none"},
	{"1 hard dir"},
	{"1 hard ../../outside"},
	{"0 file/f x"},
	{"0 f x", "1 f f"},
	{"7 cont x"},
	{"5 sticky:1777", "5 sg:2755", "0 sg/f x"},
}

const unpackDest = `
d to/dir 750 3:4
f to/dir/keep old 600 5:6
x to/dir/keep user.old 1
f to/file content 644 7:7
l to/link dir
l to/abs /dir
f outside secret
f dir/outside secret
`

// inRoot runs f on a thread of its own whose root directory is dir.
func inRoot(dir string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread is never given back
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chroot(dir)
		}
		if err == nil {
			err = unix.Chdir("/")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Unpacking an archive leaves what BuildKit's unpacking in a chroot leaves:
// whatever names and links are in it, nothing outside the destination changes.
func TestUnpackLikeBuildKit(t *testing.T) {
	needRoot(t)
	base, _ := dirView(t, unpackDest)
	for i, spec := range unpackCases {
		for _, owner := range []*Owner{nil, {33, 44}} {
			name := fmt.Sprintf("%d %v owner %v", i, spec, owner)
			data := tarball(t, spec...)
			real := t.TempDir()
			makeTree(t, real, unpackDest)
			opts := &archive.TarOptions{BestEffortXattrs: true}
			if owner != nil {
				opts.ChownOpts = &archive.ChownOpts{UID: owner.UID, GID: owner.GID}
			}
			wantErr := inRoot(filepath.Join(real, "to"), func() error { return archive.Untar(bytes.NewReader(data), "/", opts) })
			e := NewEditor(base)
			e.Temp = t.TempDir()
			err := addArchive(e, fileTree(t, "a.tar", data), "/to", owner)
			if (err != nil) != (wantErr != nil) {
				t.Errorf("%s: error %v, BuildKit's is %v", name, err, wantErr)
			}
			if err != nil || wantErr != nil {
				continue
			}
			want := describe(t, Walk(NewView(DirLayer(real)), "."), true)
			if diff := cmp.Diff(want, describe(t, Walk(e, "."), true)); diff != "" {
				t.Errorf("%s (-BuildKit +got):\n%s", name, diff)
			}
			checkLayer(t, base, e)
		}
	}
}

// Archives are told by their bytes, in all compressions; what is none is
// copied as it is.
func TestUnpackFormats(t *testing.T) {
	plain := tarball(t, "0 member x")
	var gz, zst bytes.Buffer
	gw := gzip.NewWriter(&gz)
	gw.Write(plain)
	gw.Close()
	zw, _ := zstd.NewWriter(&zst)
	zw.Write(plain)
	zw.Close()
	unpacked := map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zst.Bytes(),
		"skippable": append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), zst.Bytes()...)}
	for _, tool := range []string{"xz", "bzip2"} {
		if data, err := filter(tool, plain); err == nil {
			unpacked[tool] = data
		}
	}
	copied := map[string][]byte{"text": []byte("hello"), "empty": nil, "short gzip": gz.Bytes()[:12], "gzip of text": nil,
		"empty archive": make([]byte, 1024), "cut": plain[:300], "xz magic": []byte("\xfd7zXZ\x00nothing")}
	for name, data := range unpacked {
		checkUnpacked(t, name, data, []string{"5 . 755 0:0", `0 member 640 1:2 user.n="0" "x"`})
	}
	for name, data := range copied {
		checkUnpacked(t, name, data, []string{"5 . 755 0:0", fmt.Sprintf("0 a.tar 644 0:0 %q", data)})
	}
}

// A member replaces one of the same name that came before, and all below it.
func TestUnpackReplaces(t *testing.T) {
	checkUnpacked(t, "file over directory", tarball(t, "5 d", "0 d/f y", "0 d x"), []string{"5 . 755 0:0", `0 d 640 3:4 user.n="2" "x"`})
	checkUnpacked(t, "link over directory", tarball(t, "5 d", "0 d/f y", "2 d x"), []string{"5 . 755 0:0", "2 d 777 3:4 -> x"})
}

func checkUnpacked(t *testing.T, name string, data []byte, want []string) {
	t.Helper()
	e := NewEditor(Empty())
	e.Temp = t.TempDir()
	if err := addArchive(e, fileTree(t, "a.tar", data), "/", nil); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if diff := cmp.Diff(want, describe(t, e.Entries(), false)); diff != "" {
		t.Errorf("%s:\n%s", name, diff)
	}
}

func filter(tool string, data []byte) ([]byte, error) {
	cmd := exec.Command(tool, "-c")
	cmd.Stdin = bytes.NewReader(data)
	return cmd.Output()
}

// Archives that would take the builder's memory, set overlayfs's notes or make
// whiteouts are refused with a reason, broken ones with an error.
func TestUnpackRefuses(t *testing.T) {
	var big bytes.Buffer
	w, _ := zstd.NewWriter(&big, zstd.WithWindowSize(zstd.MaxWindowSize), zstd.WithSingleSegment(false))
	w.Write(tarball(t, "0 f x"))
	w.Flush()
	w.Write(make([]byte, 1<<20))
	w.Close()
	long := tarball(t, "0 f "+strings.Repeat("x", 4000), "0 g y")
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"window":        {big.Bytes(), "window"},
		"cut":           {long[:2000], "unexpected EOF"},
		"whiteout":      {tarball(t, "0 .wh.passwd"), "start with .wh."},
		"long path":     {tarball(t, "0 "+strings.Repeat("d/", 3000)+"f"), "file name too long"},
		"long link":     {tarball(t, "2 l "+strings.Repeat("d/", 3000)), "file name too long"},
		"opaque marker": {tarball(t, "0 d/.wh..wh..opq"), "start with .wh."},
	} {
		e := NewEditor(Empty())
		e.Temp = t.TempDir()
		if err := addArchive(e, fileTree(t, "a.tar", tc.data), "/", nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
	e := NewEditor(Empty())
	if err := addArchive(e, fileTree(t, "a.tar", tarball(t, "0 f x")), "/", nil); err == nil {
		t.Error("unpacked without a directory for contents")
	}
}

// Whatever an archive says, what comes of it are entries that a layer may
// hold.
func FuzzUnpack(f *testing.F) {
	for _, spec := range unpackCases {
		f.Add(tarball(f, spec...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e := NewEditor(planned(t, "5 to/dir", "2 to/link ../..", "0 outside secret"))
		e.Temp = t.TempDir()
		if addArchive(e, fileTree(t, "a.tar", data), "/to", nil) != nil {
			return
		}
		for ent, err := range e.Entries() {
			if err != nil {
				t.Fatal(err)
			}
			if ent.Path != clean(ent.Path) || ent.Path != "." && ent.Path != "to" && !strings.HasPrefix(ent.Path, "to/") {
				t.Fatalf("entry %q is outside of the destination", ent.Path)
			}
			if ent.Type == layer.Regular {
				readAll(t, ent)
			}
		}
	})
}
