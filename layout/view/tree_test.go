package view

import (
	"archive/tar"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout/layer"
)

// What a layer says about those below it is applied as overlayfs would.
func TestMerge(t *testing.T) {
	base := []header{dir("a"), dir("a/b"), file("a/b/c", "1"), file("a/f", "2"), symlink("l", "a"), file("g", "3")}
	for _, tt := range []struct {
		name   string
		layers [][]header
		want   []string
	}{
		{"one layer", [][]header{base}, []string{"a/ 755", "a/b/ 755", "l -> a", "a/b/c 644 1", "a/f 644 2", "g 644 3"}},
		{"a file is replaced", [][]header{base, {file("a/f", "new")}}, []string{"a/ 755", "a/b/ 755", "l -> a", "a/b/c 644 1", "g 644 3", "a/f 644 new"}},
		{"whiteout of a file", [][]header{base, {file("a/.wh.f", "")}}, []string{"a/ 755", "a/b/ 755", "l -> a", "a/b/c 644 1", "g 644 3"}},
		{"whiteout of a directory", [][]header{base, {file(".wh.a", "")}}, []string{"l -> a", "g 644 3"}},
		{"whiteout of nothing", [][]header{base, {file("x/.wh.y", "")}}, []string{"a/ 755", "a/b/ 755", "l -> a", "a/b/c 644 1", "a/f 644 2", "g 644 3"}},
		{
			"a whiteout is about the layers below, also after what the layer has",
			[][]header{base, {file("a/n", "new"), file(".wh.a", "")}},
			[]string{"a/ 755", "l -> a", "g 644 3", "a/n 644 new"},
		},
		{
			"opaque directory", [][]header{base, {{name: "a", typ: tar.TypeDir, mode: 0o700}, file("a/.wh..wh..opq", ""), file("a/n", "new")}},
			[]string{"a/ 700", "l -> a", "g 644 3", "a/n 644 new"},
		},
		{"opaque mark after the content", [][]header{base, {dir("a"), file("a/n", "new"), file("a/.wh..wh..opq", "")}}, []string{"a/ 755", "l -> a", "g 644 3", "a/n 644 new"}},
		{"opaque root", [][]header{base, {file(".wh..wh..opq", ""), file("n", "new")}}, []string{"n 644 new"}},
		{"a file replaces a directory", [][]header{base, {file("a", "file")}}, []string{"l -> a", "g 644 3", "a 644 file"}},
		{"a directory replaces a file", [][]header{base, {dir("g"), file("g/n", "new")}}, []string{"a/ 755", "a/b/ 755", "g/ 755", "l -> a", "a/b/c 644 1", "a/f 644 2", "g/n 644 new"}},
		{"a directory's attributes change", [][]header{base, {{name: "a", typ: tar.TypeDir, mode: 0o711, uid: 5, xattr: "v"}}}, []string{"a/ 711 uid=5 map[user.x:v]", "a/b/ 755", "l -> a", "a/b/c 644 1", "a/f 644 2", "g 644 3"}},
		{"an implied parent keeps the directory below", [][]header{{{name: "a", typ: tar.TypeDir, mode: 0o700}}, {file("a/n", "new")}}, []string{"a/ 700", "a/n 644 new"}},
		{"an implied parent replaces a link below", [][]header{base, {file("l/n", "new")}}, []string{"a/ 755", "a/b/ 755", "l/ 755", "a/b/c 644 1", "a/f 644 2", "g 644 3", "l/n 644 new"}},
		{"a link of the same layer is followed", [][]header{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/n", "new")}}, []string{"usr/ 755", "usr/lib/ 755", "lib -> usr/lib", "usr/lib/n 644 new"}},
		{"a link of the same layer leads within the root", [][]header{{symlink("l", "../../../x"), file("l/n", "new")}}, []string{"x/ 755", "l -> ../../../x", "x/n 644 new"}},
		{"the last of two counts", [][]header{{file("x", "1"), file("x", "2")}}, []string{"x 644 2"}},
		{"a directory that comes twice stays", [][]header{{dir("d"), file("d/x", "1"), {name: "d", typ: tar.TypeDir, mode: 0o700}}}, []string{"d/ 700", "d/x 644 1"}},
		{"removed and made again", [][]header{base, {file("a/.wh.f", "")}, {file("a/f", "again")}}, []string{"a/ 755", "a/b/ 755", "l -> a", "a/b/c 644 1", "g 644 3", "a/f 644 again"}},
		{"special files", [][]header{{{name: "c", typ: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, {name: "p", typ: tar.TypeFifo, mode: 0o600}, {name: "s", mode: 0o4755, content: "x", xattr: "cap"}}}, []string{"c 666 31:3", "p 600 fifo", "s 4755 map[user.x:cap] x"}},
		{"the root's attributes", [][]header{{{name: "./", typ: tar.TypeDir, mode: 0o700}, file("x", "1")}}, []string{"./ 700", "x 644 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(describe(t, newImage(t, tt.layers...)), tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// Hard links share a file until a layer replaces one of them, whichever layer
// made them.
func TestMergeHardlinks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers [][]header
		want   []string
	}{
		{"in a layer", [][]header{{file("b", "1"), hardlink("a", "b"), hardlink("c", "b")}}, []string{"a 644 1", "b = a", "c = a"}},
		{"the target is replaced", [][]header{{file("b", "1"), hardlink("c", "b")}, {file("b", "2")}}, []string{"c 644 1", "b 644 2"}},
		{"the target is removed", [][]header{{file("b", "1"), hardlink("c", "b"), hardlink("d", "b")}, {file(".wh.b", "")}}, []string{"c 644 1", "d = c"}},
		{"the target is below", [][]header{{file("b", "1")}, {hardlink("c", "b")}}, []string{"b 644 1", "c = b"}},
		{"the target was replaced below", [][]header{{file("b", "1")}, {file("b", "2")}, {hardlink("c", "b")}}, []string{"b 644 2", "c = b"}},
		{"of an empty file", [][]header{{file("b", ""), hardlink("a", "b")}}, []string{"a 644", "b = a"}},
		{"of a symlink", [][]header{{symlink("b", "x"), hardlink("a", "b")}}, []string{"a -> x", "b = a"}},
		{"to itself below", [][]header{{file("b", "1")}, {hardlink("b", "b")}}, []string{"b 644 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(describe(t, newImage(t, tt.layers...)), tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// What makes no sense in a layer is refused and not guessed.
func TestMergeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers [][]header
	}{
		{"hard link to nothing", [][]header{{hardlink("a", "b")}}},
		{"hard link to a directory", [][]header{{dir("b"), hardlink("a", "b")}}},
		{"hard link to what it replaces", [][]header{{dir("a"), file("a/x", "1"), hardlink("a", "a/x")}}},
		{"hard link to what is removed", [][]header{{file("b", "1")}, {file(".wh.b", ""), hardlink("a", "b")}}},
		{"links in a circle", [][]header{{symlink("a", "b"), symlink("b", "a"), file("a/x", "1")}}},
		{"a name that climbs", [][]header{{file("../x", "1")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newImage(t, tt.layers...).Layers(t.Context())
			if !errors.Is(err, layer.ErrInvalid) {
				t.Errorf("Layers = %v, want an ErrInvalid", err)
			}
		})
	}
}
