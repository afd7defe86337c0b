package snapshot

import (
	"fmt"
	"io"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout/layer"
)

// describe returns a tree as one line a path, for comparison.
func describe(t testing.TB, entries layer.Entries, times bool) []string {
	t.Helper()
	var lines []string
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, describeEntry(t, e, times))
	}
	return lines
}

func describeEntry(t testing.TB, e *layer.Entry, times bool) string {
	t.Helper()
	s := fmt.Sprintf("%c %s %o %d:%d", e.Type, e.Path, e.Mode, e.UID, e.GID)
	if e.Type == layer.Whiteout {
		s = fmt.Sprintf("%c %s", e.Type, e.Path)
	}
	if times && e.Type != layer.Directory && e.Type != layer.Whiteout {
		s += " " + e.ModTime.UTC().Format(time.RFC3339Nano)
	}
	if e.Link != "" {
		s += " -> " + e.Link
	}
	if e.Type == layer.Char || e.Type == layer.Block {
		s += fmt.Sprintf(" %d,%d", e.DevMajor, e.DevMinor)
	}
	if e.Opaque {
		s += " opaque"
	}
	for _, key := range sortedKeys(e.Xattrs) {
		s += fmt.Sprintf(" %s=%q", key, e.Xattrs[key])
	}
	if e.Type == layer.Regular {
		s += fmt.Sprintf(" %q", readAll(t, e))
	}
	return s
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func readAll(t testing.TB, e *layer.Entry) string {
	t.Helper()
	r, err := openContent(e)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != e.Size {
		t.Fatalf("%s: read %d bytes, size is %d", e.Path, len(data), e.Size)
	}
	return string(data)
}

// checkLayer checks that the editor's entries on top of the base give what the
// editor shows.
func checkLayer(t *testing.T, base FS, e *Editor) {
	t.Helper()
	l, err := PlanLayer(e.Entries())
	if err != nil {
		t.Fatal(err)
	}
	v := base.(*View)
	var layers []Layer
	for i := len(v.layers) - 1; i >= 0; i-- {
		layers = append(layers, Layer{v.layers[i]})
	}
	got := describe(t, Walk(NewView(append(layers, l)...), "."), true)
	if diff := cmp.Diff(describe(t, Walk(e, "."), true), got); diff != "" {
		t.Errorf("base with the layer (-editor +layers):\n%s", diff)
	}
}
