//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The same files give the same layout byte for byte, in whatever order they
// come: tests on all machines then speak of the same images.
func TestLayoutIsReproducible(t *testing.T) {
	files := busyboxFiles([]byte("program"), []string{"ash", "busybox", "sh", "wget"})
	write := func(files []file) string {
		w, err := newLayout(filepath.Join(t.TempDir(), "layout"))
		if err != nil {
			t.Fatal(err)
		}
		l, err := w.addFiles("COPY", files)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.finish([]*image{{arch: "amd64", layers: []layer{l}}, {arch: "arm64", layers: []layer{l}}}); err != nil {
			t.Fatal(err)
		}
		index, err := os.ReadFile(filepath.Join(w.dir, "index.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(index)
	}
	first := write(slices.Clone(files))
	slices.Reverse(files)
	if d := cmp.Diff(first, write(files)); d != "" {
		t.Errorf("index.json (-first +second):\n%s", d)
	}
}

// A hard link whose name sorts before its target would not unpack.
func TestApplets(t *testing.T) {
	got := map[string]byte{}
	for _, f := range busyboxFiles(nil, []string{"ash", "busybox", "sh"}) {
		if filepath.Dir(f.Name) == "bin" && f.Name != "bin/" {
			got[f.Name] = f.Typeflag
		}
	}
	want := map[string]byte{"bin/ash": tar.TypeSymlink, "bin/busybox": tar.TypeReg, "bin/sh": tar.TypeLink}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files of bin (-want +got):\n%s", d)
	}
}

// What differs from machine to machine or run to run must not get into a base;
// what a distribution needs must stay.
func TestCopyTree(t *testing.T) {
	in := filepath.Join(t.TempDir(), "in.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"./", "./etc/", "./etc/hostname", "./etc/passwd", "./dev/", "./dev/null", "./var/log/", "./var/log/x",
		"./tmp/", "./tmp/x", "./var/lib/apt/lists/", "./var/lib/apt/lists/l", "./developer"} {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
		if name[len(name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	if err := copyTree(tw, in); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		got = append(got, h.Name)
	}
	want := []string{"etc/", "etc/passwd", "var/log/", "tmp/", "var/lib/apt/lists/", "developer"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
}
