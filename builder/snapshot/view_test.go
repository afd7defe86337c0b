package snapshot

import (
	"errors"
	"io/fs"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout/layer"
)

// Directories that planned entries only imply are as in the layer below, and
// plain where no layer says what they are like.
func TestPlanImpliedParents(t *testing.T) {
	v := NewView(plannedLayer(t, "5 .:700", "5 a:711", "0 a/old"), plannedLayer(t, "0 a/new", "0 b/new"), plannedLayer(t, "w a/old"))
	want := []string{"5 . 700 0:0", "5 a 711 0:0", `0 a/new 644 0:0 ""`, "5 b 755 0:0", `0 b/new 644 0:0 ""`}
	if diff := cmp.Diff(want, describe(t, Walk(v, "."), false)); diff != "" {
		t.Errorf("view:\n%s", diff)
	}
}

// A layer whose root is opaque hides all layers below.
func TestOpaqueRoot(t *testing.T) {
	v := NewView(plannedLayer(t, "5 a", "0 a/f"), plannedLayer(t, "D .", "5 a", "0 a/g"))
	want := []string{"5 . 755 0:0", "5 a 755 0:0", `0 a/g 644 0:0 ""`}
	if diff := cmp.Diff(want, describe(t, Walk(v, "."), false)); diff != "" {
		t.Errorf("view:\n%s", diff)
	}
}

// An empty view has a root and nothing else.
func TestEmptyView(t *testing.T) {
	if diff := cmp.Diff([]string{"5 . 755 0:0"}, describe(t, Walk(Empty(), "."), false)); diff != "" {
		t.Error(diff)
	}
	if _, err := Empty().Lstat("a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// Walk of a part of a tree keeps the paths of the whole, and links whose
// first name isn't in the part are files.
func TestWalkPart(t *testing.T) {
	v := planned(t, "0 a x", "5 d", "1 d/b a", "1 d/c a")
	if diff := cmp.Diff([]string{"5 d 755 0:0", `0 d/b 644 0:0 "x"`, "1 d/c 644 0:0 -> d/b"}, describe(t, Walk(v, "/d"), false)); diff != "" {
		t.Error(diff)
	}
	for _, err := range Walk(v, "none") {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
	for range Walk(v, ".") {
		break
	}
}

// Entries that are no layer are refused.
func TestPlanLayerRefuses(t *testing.T) {
	boom := errors.New("boom")
	for name, entries := range map[string]layer.Entries{
		"link to nothing": func(yield func(*layer.Entry, error) bool) { yield(plannedEntry("1 a b"), nil) },
		"link to directory": func(yield func(*layer.Entry, error) bool) {
			_ = yield(plannedEntry("5 b"), nil) && yield(plannedEntry("1 a b"), nil)
		},
		"link to implied": func(yield func(*layer.Entry, error) bool) {
			_ = yield(plannedEntry("0 b/c"), nil) && yield(plannedEntry("1 a b"), nil)
		},
		"unclean":  func(yield func(*layer.Entry, error) bool) { yield(plannedEntry("0 a/../b"), nil) },
		"absolute": func(yield func(*layer.Entry, error) bool) { yield(plannedEntry("0 /a"), nil) },
		"error":    func(yield func(*layer.Entry, error) bool) { yield(nil, boom) },
	} {
		if _, err := PlanLayer(entries); err == nil || name == "error" && !errors.Is(err, boom) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A view may be read by any number of goroutines, in any order.
func TestViewConcurrently(t *testing.T) {
	v := planned(t, "5 a", "0 a/f x", "5 a/b", "0 a/b/c", "1 a/b/d a/f", "2 l a")
	want := describe(t, Walk(v, "."), false)
	v = planned(t, "5 a", "0 a/f x", "5 a/b", "0 a/b/c", "1 a/b/d a/f", "2 l a")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if i%2 == 0 {
				v.Lstat("a/b/c")
				v.Inode("a/b/d")
			}
			if diff := cmp.Diff(want, describe(t, Walk(v, "."), false)); diff != "" {
				t.Error(diff)
			}
		})
	}
	wg.Wait()
}
