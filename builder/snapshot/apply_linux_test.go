package snapshot

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// randomEdit makes one change; that it may fail is part of it.
func randomEdit(t *testing.T, e *Editor, src FS, r *rand.Rand) {
	p := "/" + name(r)
	for range r.IntN(3) {
		p += "/" + name(r)
	}
	switch r.IntN(6) {
	case 0:
		e.Mkdir(&pb.FileActionMkDir{Path: p, Mode: 0o751, MakeParents: r.IntN(2) == 0, Timestamp: 1e18}, nil)
	case 1:
		e.Mkfile(&pb.FileActionMkFile{Path: p, Mode: 0o640, Data: []byte(p), Timestamp: 1e18}, nil)
	case 2:
		e.Symlink(&pb.FileActionSymlink{Oldpath: "../" + name(r), Newpath: p, Timestamp: 1e18}, nil)
	case 3, 4:
		e.Rm(&pb.FileActionRm{Path: p, AllowNotFound: true})
	case 5:
		a := randomAction(r)
		a.Dest = p
		e.Copy(t.Context(), src, a, nil)
	}
}

// Whatever was done with an editor: its entries, written as a layer and
// mounted by the kernel on top of the base, give what the editor showed.
func TestEditorLayerOnOverlayfs(t *testing.T) {
	inMounts(t, func() {
		for seed := range uint64(60) {
			if t.Failed() {
				return
			}
			editorOnOverlayfs(t, seed)
		}
	})
}

func editorOnOverlayfs(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 6))
	tmp := t.TempDir()
	base, src, top := filepath.Join(tmp, "base"), filepath.Join(tmp, "src"), filepath.Join(tmp, "top")
	for _, dir := range []string{base, src} {
		os.Mkdir(dir, 0o755)
		randomTree(t, dir, r)
	}
	e := NewEditor(NewView(DirLayer(base)))
	e.Now = time.Unix(1e9, 0)
	for range 1 + r.IntN(8) {
		randomEdit(t, e, NewView(DirLayer(src)), r)
	}
	want := describe(t, Walk(e, "."), true)
	layers := []string{base}
	if applied(t, e.Entries(), top) {
		layers = append(layers, top)
	}
	at := base
	if len(layers) > 1 {
		var err error
		if at, err = overlay(tmp, layers); err != nil {
			t.Errorf("mount: %v", err)
			return
		}
		defer unix.Unmount(at, unix.MNT_DETACH)
	}
	if diff := cmp.Diff(want, describe(t, Walk(NewView(DirLayer(at)), "."), true)); diff != "" {
		t.Errorf("seed %d (-editor +overlayfs):\n%s\nlayer: %q", seed, diff, describe(t, e.Entries(), false))
	}
	checkLayer(t, NewView(DirLayer(base)), e)
	checkDiff(t, NewView(DirLayer(base)), e, seed)
}

// applied writes a layer to dir, unless it is empty.
func applied(t *testing.T, entries layer.Entries, dir string) bool {
	t.Helper()
	some := false
	for range entries {
		some = true
	}
	if some {
		if _, err := layer.Apply(t.Context(), entries, dir, layer.ApplyOptions{}); err != nil {
			t.Error(err)
		}
	}
	return some
}

// checkDiff checks that the difference of two trees makes one of the other.
func checkDiff(t *testing.T, lower *View, upper FS, seed uint64) {
	t.Helper()
	l, err := PlanLayer(Diff(lower, upper))
	if err != nil {
		t.Fatal(err)
	}
	got := describe(t, Walk(NewView(Layer{lower.layers[0]}, l), "."), true)
	want := describe(t, Walk(upper, "."), true)
	if diff := cmp.Diff(withoutLinks(want), withoutLinks(got)); diff != "" {
		t.Errorf("seed %d: lower with the difference (-upper +got):\n%s", seed, diff)
	}
}

// withoutLinks leaves out which names are one file: a difference names only
// those that changed.
func withoutLinks(lines []string) (kept []string) {
	for _, l := range lines {
		if l[0] != '1' && l[0] != '0' {
			kept = append(kept, l)
		}
	}
	return kept
}
