package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// No tar writes, links or removes outside of the directory, whatever symlinks it
// makes; and what can't be applied is an error and not something else.
func TestApplyHostile(t *testing.T) {
	sym := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	base := t.TempDir()
	outside := filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		fail bool
		in   []tar.Header
	}{
		{"absolute symlink parent", false, []tar.Header{sym("l", outside), {Name: "l/secret", Size: 3}}},
		{"relative symlink parent", false, []tar.Header{sym("l", "../outside"), {Name: "l/secret", Size: 3}}},
		{"chain of symlinks", false, []tar.Header{dir("a"), sym("a/b", "../.."), sym("c", "a/b/outside"), {Name: "c/secret", Size: 3}}},
		{"symlink as the last element", false, []tar.Header{sym("l", secret), {Name: "l", Size: 3}}},
		{"directory over a symlink", false, []tar.Header{sym("l", outside), dir("l"), {Name: "l/secret", Size: 3}}},
		{"attributes through a symlink", false, []tar.Header{dir("d"), sym("d", outside), {Name: "x"}}},
		{"whiteout through a symlink", false, []tar.Header{sym("l", outside), {Name: "l/.wh.secret"}}},
		{"opaque through a symlink", false, []tar.Header{sym("l", outside), {Name: "l/.wh..wh..opq"}}},
		{"hard link through a symlink", true, []tar.Header{sym("l", outside), hard("h", "l/secret")}},
		{"hard link to an absolute name", true, []tar.Header{hard("h", secret)}},
		{"write through a hard link to a symlink", false, []tar.Header{sym("l", secret), hard("h", "l"), {Name: "h", Size: 3}}},
		{"root replaced", true, []tar.Header{sym("./", outside), {Name: "secret", Size: 3}}},
		{"symlink loop", true, []tar.Header{sym("a", "b"), sym("b", "a"), {Name: "a/f"}}},
		{"symlink that grows", true, []tar.Header{sym("a", "a/a/a/a"), {Name: "a/f"}}},
		{"file as a parent", true, []tar.Header{{Name: "f", Size: 1}, {Name: "f/g"}}},
		{"whiteout as a parent", true, []tar.Header{{Name: ".wh.f"}, {Name: "f/g"}}},
		{"hard link to a directory", true, []tar.Header{dir("d"), hard("h", "d")}},
		{"hard link to a removed file", true, []tar.Header{{Name: ".wh.f"}, hard("h", "f")}},
		{"hard link to nothing", true, []tar.Header{hard("h", "missing/f")}},
	} {
		d := filepath.Join(base, "layer")
		_, err := Apply(context.Background(), Read(bytes.NewReader(tarOf(t, c.in...)), Limits{}), d, ApplyOptions{})
		if (err != nil) != c.fail {
			t.Errorf("%s: error %v, want one: %v", c.what, err, c.fail)
		}
		if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
			t.Fatalf("%s: the file outside has %q, %v", c.what, got, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(secret, &st); err != nil || st.Nlink != 1 {
			t.Fatalf("%s: the file outside has %d links, %v", c.what, st.Nlink, err)
		}
		if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
			t.Fatalf("%s: %d files outside, %v", c.what, len(names), err)
		}
		if fi, err := os.Lstat(d); err != nil || !fi.IsDir() {
			t.Fatalf("%s: the layer's directory is %v, %v", c.what, fi, err)
		}
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
	}
}

// No tar makes Apply touch a file outside of its directory, fail to end, or
// leave something that Walk can't read.
func FuzzApply(f *testing.F) {
	sym := tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}
	f.Add(tarOf(f, sym, tar.Header{Name: "l/secret", Size: 3}))
	f.Add(tarOf(f, sym, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/secret"}, tar.Header{Name: "l/.wh.secret"}))
	f.Add(tarOf(f, tar.Header{Name: "a/", Typeflag: tar.TypeDir}, tar.Header{Name: "a/.wh..wh..opq"}, tar.Header{Name: "a"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		secret := filepath.Join(base, "outside", "secret")
		if err := errors.Join(os.Mkdir(filepath.Dir(secret), 0o755), os.WriteFile(secret, []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(base, "layer")
		_, err := Apply(context.Background(), Read(bytes.NewReader(mended(data)), Limits{Entries: 100, Size: 1 << 20}), dir, ApplyOptions{})
		if got, rerr := os.ReadFile(secret); rerr != nil || string(got) != "secret" {
			t.Fatalf("the file outside has %q, %v", got, rerr)
		}
		if names, rerr := os.ReadDir(base); rerr != nil || len(names) > 2 {
			t.Fatalf("%d files outside, %v", len(names), rerr)
		}
		if err != nil {
			return
		}
		if _, err := summary(Walk(dir)); err != nil {
			t.Errorf("Walk of what was applied: %v", err)
		}
	})
}
