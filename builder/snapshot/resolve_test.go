package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing"

	"bk.build/bk/layout/layer"
)

// Paths that aren't all there resolve as far as they are, and the rest stays
// inside the tree.
func TestResolveMissing(t *testing.T) {
	tree := planned(t, "5 a", "0 f", "2 out ../../..", "2 dangling a/none", "2 up ../../../etc/passwd", "2 loop loop")
	for p, want := range map[string]string{
		"/":             ".",
		"":              ".",
		"x/y":           "x/y",
		"a/x/../y":      "a/y",
		"x/../../../a":  "a",
		"out/x":         "x",
		"dangling":      "a/none",
		"dangling/more": "a/none/more",
		"up":            "etc/passwd",
		"//a//.//b//":   "a/b",
	} {
		got, err := Resolve(tree, p, AllowMissing)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", p, got, err, want)
		}
	}
	for p, want := range map[string]error{"f/x": syscall.ENOTDIR, "loop": syscall.ELOOP, "loop/x": syscall.ELOOP} {
		if got, err := Resolve(tree, p, AllowMissing); !errors.Is(err, want) {
			t.Errorf("%q: %q, %v; want %v", p, got, err, want)
		}
	}
	if _, err := Resolve(tree, "x/y", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// A chain of 40 links is followed, one of 41 isn't.
func TestResolveBound(t *testing.T) {
	spec := []string{"5 0"}
	for i := range 41 {
		spec = append(spec, fmt.Sprintf("2 l%d %s", i+1, map[bool]string{true: "0", false: fmt.Sprintf("l%d", i)}[i == 0]))
	}
	tree := planned(t, spec...)
	if got, err := Resolve(tree, "l40", 0); err != nil || got != "0" {
		t.Errorf("40 links: %q, %v", got, err)
	}
	if _, err := Resolve(tree, "l41", 0); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("41 links: %v", err)
	}
}

// Whatever links a tree has and whatever path is asked for, what comes back is
// a clean path of the tree that needs no more resolving.
func FuzzResolve(f *testing.F) {
	f.Add("a", "/../b", "b/c/../..", "a/x")
	f.Add("a/b", "..", "a", "../../a/b/./c")
	f.Add("loop", "loop", "x", "loop/loop")
	f.Fuzz(func(t *testing.T, name1, target1, name2, p string) {
		var entries []*layer.Entry
		for _, name := range []string{name1, name2} {
			if at := clean(name); at != "." && target1 != "" && !strings.Contains(at, "\x00") {
				entries = append(entries, &layer.Entry{Path: at, Type: layer.Symlink, Link: target1})
			}
		}
		l, err := PlanLayer(func(yield func(*layer.Entry, error) bool) {
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		})
		if err != nil {
			t.Skip(err)
		}
		tree := NewView(l)
		for _, flags := range []ResolveFlags{0, NoFollow, AllowMissing, AllowMissing | NoFollow} {
			got, err := Resolve(tree, p, flags)
			if err != nil {
				continue
			}
			if got != clean(got) || strings.HasPrefix(got+"/", "../") || path.IsAbs(got) {
				t.Fatalf("%q: %q is not a path of the tree", p, got)
			}
			if again, err := Resolve(tree, got, flags); err != nil || again != got {
				t.Fatalf("%q: %q resolves again to %q, %v", p, got, again, err)
			}
		}
	})
}
