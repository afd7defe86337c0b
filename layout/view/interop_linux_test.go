package view

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/layout/transfer"
)

// samples are images that other tools unpack too, by name, in a layout of ours.
func samples(t *testing.T) (*layout.Dir, map[string]ocispec.Descriptor) {
	t.Helper()
	d := newStore(t)
	list := map[string]ocispec.Descriptor{"made": putImage(t, d, "{}",
		[]header{
			dir("a"), dir("a/b"), file("a/b/c", "1"), file("a/f", "22"), symlink("l", "a"), file("g", "333"), hardlink("h", "g"), dir("gone"), file("gone/x", "4"),
			{name: "suid", mode: 0o4755, content: "x", uid: 12, mtime: 1000}, dir("opq"), file("opq/old", "1"), {name: "dev", typ: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, {name: "fifo", typ: tar.TypeFifo, mode: 0o600},
			{name: "sticky", typ: tar.TypeDir, mode: 0o1777}, file("f2d", "x"), dir("d2f"), file("d2f/x", "x"), file(strings.Repeat("long/", 60)+"name", "long"), file("nön-äscii", "x"),
		},
		[]header{file("a/f", "new"), file(".wh.gone", ""), file("g", "replaced"), dir("opq"), file("opq/.wh..wh..opq", ""), file("opq/new", "2"), dir("f2d"), file("f2d/in", "1"), file("d2f", "file")},
		[]header{file("a/b/.wh.c", ""), file("gone/again", "1"), hardlink("a/f2", "a/f")},
	)}
	bases, err := filepath.Abs("../../.cache/bases")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"busybox", "debian"} {
		from, err := layout.Open(filepath.Join(bases, name))
		if errors.Is(err, fs.ErrNotExist) || testing.Short() {
			t.Logf("without %s: it is made by \"make bases\", and not used with -short", name)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		index, err := from.Resolve("")
		if err != nil {
			t.Fatal(err)
		}
		src := transfer.Layout(from)
		img, err := Open(t.Context(), src, index, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := transfer.Copy(t.Context(), transfer.Layout(d), src, img.Descriptor, nil, transfer.Options{}); err != nil {
			t.Fatal(err)
		}
		list[name] = img.Descriptor
	}
	for name, desc := range list {
		if err := d.SetRefs([]string{name}, desc); err != nil {
			t.Fatal(err)
		}
	}
	return d, list
}

// exported is the tree of the tar that an image is exported as: path -> what it
// is. Times are those of files; hard links are what they lead to.
func exported(t *testing.T, img *Image) map[string]string {
	t.Helper()
	var b bytes.Buffer
	if _, err := layer.Pack(t.Context(), &b, img.Entries(t.Context()), layer.PackOptions{Compression: layer.Compression{Type: layer.Uncompressed}}); err != nil {
		t.Fatal(err)
	}
	return treeOfTar(t, &b)
}

func treeOfTar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	tree := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return tree
		}
		if err != nil {
			t.Fatal(err)
		}
		p := strings.TrimPrefix(filepath.Clean("/"+h.Name), "/")
		if h.Typeflag == tar.TypeLink {
			tree[p] = tree[strings.TrimPrefix(filepath.Clean("/"+h.Linkname), "/")]
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, tr); err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%c %04o %d:%d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid)
		switch h.Typeflag {
		case tar.TypeReg:
			s += fmt.Sprintf(" %d %d %x", h.Size, h.ModTime.Unix(), sum.Sum(nil)[:6])
		case tar.TypeSymlink:
			s += " " + h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			s += fmt.Sprintf(" %d:%d", h.Devmajor, h.Devminor)
		}
		tree[p] = s
	}
}

// treeOfDir is treeOfTar of a directory.
func treeOfDir(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		kind := map[uint32]byte{
			syscall.S_IFREG: tar.TypeReg, syscall.S_IFDIR: tar.TypeDir, syscall.S_IFLNK: tar.TypeSymlink,
			syscall.S_IFCHR: tar.TypeChar, syscall.S_IFBLK: tar.TypeBlock, syscall.S_IFIFO: tar.TypeFifo,
		}[st.Mode&syscall.S_IFMT]
		s := fmt.Sprintf("%c %04o %d:%d", kind, st.Mode&0o7777, st.Uid, st.Gid)
		switch kind {
		case tar.TypeReg:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			s += fmt.Sprintf(" %d %d %x", st.Size, st.Mtim.Sec, sum[:6])
		case tar.TypeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			s += " " + to
		case tar.TypeChar, tar.TypeBlock:
			s += fmt.Sprintf(" %d:%d", st.Rdev>>8, st.Rdev&0xff)
		}
		tree[rel] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// umoci unpacks an image to the tree that we export.
func TestExportLikeUmoci(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and devices")
	}
	umoci, err := exec.LookPath("umoci")
	if err != nil {
		t.Skip("umoci is not installed")
	}
	d, list := samples(t)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		t.Run(name, func(t *testing.T) {
			bundle := filepath.Join(t.TempDir(), "bundle")
			out, err := exec.CommandContext(t.Context(), umoci, "unpack", "--image", d.Path()+":"+name, bundle).CombinedOutput()
			if err != nil {
				t.Fatalf("umoci: %v\n%s", err, out)
			}
			if diff := cmp.Diff(exported(t, open(t, d, list[name])), treeOfDir(t, filepath.Join(bundle, "rootfs"))); diff != "" {
				t.Errorf("(-bk +umoci)\n%s", diff)
			}
		})
	}
}

// crane export's library extracts the same files, but for what it does not do: it
// knows no opaque directories, keeps hard links to what is gone, and leaves out
// directories that no layer names.
func TestExportLikeCrane(t *testing.T) {
	d, list := samples(t)
	delete(list, "made")
	for name, desc := range list {
		t.Run(name, func(t *testing.T) {
			p, err := ggcr.FromPath(d.Path())
			if err != nil {
				t.Fatal(err)
			}
			h, err := v1.NewHash(desc.Digest.String())
			if err != nil {
				t.Fatal(err)
			}
			img, err := p.Image(h)
			if err != nil {
				t.Fatal(err)
			}
			r := mutate.Extract(img)
			defer r.Close()
			var b bytes.Buffer
			if _, err := io.Copy(&b, r); err != nil {
				t.Fatal(err)
			}
			want, got := treeOfTar(t, &b), exported(t, open(t, d, desc))
			delete(want, "")
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("(-bk +crane)\n%s", diff)
			}
		})
	}
}

// Cat gives each file of an image as the export has it.
func TestCatLikeExport(t *testing.T) {
	d, list := samples(t)
	for name, desc := range list {
		img := open(t, d, desc)
		n := 0
		for p, want := range exported(t, img) {
			if want[0] != tar.TypeReg || n == 20 {
				continue
			}
			n++
			sum := sha256.New()
			if err := img.Cat(t.Context(), p, sum); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if !strings.HasSuffix(want, fmt.Sprintf(" %x", sum.Sum(nil)[:6])) {
				t.Errorf("%s: Cat(%q) is not what the export has: %s", name, p, want)
			}
		}
	}
}

// The same image gives the same tar, whatever was read before what.
func TestExportIsDeterministic(t *testing.T) {
	d, list := samples(t)
	var first []byte
	for range 3 {
		h := sha256.New()
		img := open(t, d, list["made"])
		if _, err := layer.Pack(t.Context(), h, img.Entries(t.Context()), layer.PackOptions{Compression: layer.Compression{Type: layer.Uncompressed}}); err != nil {
			t.Fatal(err)
		}
		if sum := h.Sum(nil); first == nil {
			first = sum
		} else if !bytes.Equal(sum, first) {
			t.Errorf("the tar is %x, was %x", sum, first)
		}
	}
}
