package source

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testDay = 20000

func rec(n int) record {
	return record{
		id:  identity{dev: 1, ino: uint64(n), size: int64(n) + 1, mtime: int64(n) * 7, ctime: -int64(n)},
		sum: [32]byte{byte(n)}, day: testDay,
	}
}

// sample has directories whose order as text differs from that of a walk.
func sample() []dirRecords {
	return []dirRecords{
		{"", []fileRecord{{"a", rec(1)}, {"z", rec(2)}}},
		{"d", []fileRecord{{"a", rec(3)}}},
		{"d-e", []fileRecord{{"b", rec(4)}, {"c", rec(5)}}},
		{"d/e", []fileRecord{{"", rec(6)}, {"é", rec(7)}}},
	}
}

// decode returns all that an index holds.
func decode(x *index) []dirRecords {
	var list []dirRecords
	for i := range x.dirCount() {
		d := dirRecords{path: x.dirName(i)}
		first, end := x.filesOf(i)
		for j := first; j < end; j++ {
			d.files = append(d.files, fileRecord{x.fileName(j), x.record(j)})
		}
		list = append(list, d)
	}
	return list
}

func parsed(t testing.TB, raw []byte) *index {
	t.Helper()
	x, err := parseIndex(raw)
	must(t, err)
	return x
}

var cmpRecords = cmp.AllowUnexported(dirRecords{}, fileRecord{}, record{}, identity{})

// What is written is read back, all of it and by single lookups.
func TestIndexRoundTrip(t *testing.T) {
	x := parsed(t, merge(nil, sample(), testDay))
	if diff := cmp.Diff(sample(), decode(x), cmpRecords); diff != "" {
		t.Error(diff)
	}
	for _, d := range sample() {
		for i, f := range d.files {
			c := x.dir(d.path, f.name)
			for _, g := range d.files[i:] {
				if r, ok := c.find(g.name); !ok || r != g.record {
					t.Errorf("%q, %q: %v %v", d.path, g.name, r, ok)
				}
			}
		}
	}
	for _, miss := range [][2]string{{"", "b"}, {"", ""}, {"none", "a"}, {"d-e", "a"}, {"d/e", "z"}} {
		c := x.dir(miss[0], miss[1])
		if r, ok := c.find(miss[1]); ok {
			t.Errorf("%q has %v", miss, r)
		}
	}
	var none *index
	c := none.dir("", "a")
	if _, ok := c.find("a"); ok {
		t.Error("no index has an entry")
	}
}

// Entries that a build doesn't visit stay; those that nobody used for long go;
// what the build knows wins.
func TestIndexMerge(t *testing.T) {
	old := parsed(t, merge(nil, []dirRecords{
		{"a", []fileRecord{{"x", rec(1)}}},
		{"b", []fileRecord{{"m", rec(2)}, {"old", record{day: testDay - keepDays}}, {"x", rec(3)}}},
		{"gone", []fileRecord{{"x", record{day: testDay - 1}}}},
		{"z", []fileRecord{{"x", rec(4)}}},
	}, testDay-1))
	got := decode(parsed(t, merge(old, []dirRecords{
		{"b", []fileRecord{{"a", rec(10)}, {"m", rec(11)}, {"z", rec(12)}}},
		{"c", []fileRecord{{"x", rec(13)}}},
	}, testDay+1)))
	want := []dirRecords{
		{"a", []fileRecord{{"x", rec(1)}}},
		{"b", []fileRecord{{"a", rec(10)}, {"m", rec(11)}, {"x", rec(3)}, {"z", rec(12)}}},
		{"c", []fileRecord{{"x", rec(13)}}},
		{"gone", []fileRecord{{"x", record{day: testDay - 1}}}},
		{"z", []fileRecord{{"x", rec(4)}}},
	}
	if diff := cmp.Diff(want, got, cmpRecords); diff != "" {
		t.Error(diff)
	}
}

// Old entries make room for new ones when the index is full.
func TestIndexFull(t *testing.T) {
	old := parsed(t, merge(nil, sample(), testDay))
	fresh := dirRecords{"n", []fileRecord{{"x", rec(9)}}}
	w := indexWriter{room: dirSize + fileSize + 2}
	for i := range old.dirCount() {
		w.add(dirRecords{path: old.dirName(i)}, old, i, testDay)
	}
	w.add(fresh, nil, -1, testDay)
	got := decode(parsed(t, w.finish()))
	want := []dirRecords{{"", []fileRecord{{"a", rec(1)}}}, fresh}
	if diff := cmp.Diff(want, got, cmpRecords); diff != "" {
		t.Error(diff)
	}
}

// An index that was cut off, changed in any byte or grown is no index.
func TestIndexCorrupt(t *testing.T) {
	raw := merge(nil, sample(), testDay)
	for i := range raw {
		if _, err := parseIndex(raw[:i]); err == nil {
			t.Errorf("the first %d bytes are an index", i)
		}
		for _, flip := range []byte{1, 0x80} {
			bad := bytes.Clone(raw)
			bad[i] ^= flip
			if _, err := parseIndex(bad); err == nil {
				t.Errorf("it is an index with byte %d changed", i)
			}
		}
	}
	if _, err := parseIndex(append(bytes.Clone(raw), 0)); err == nil {
		t.Error("it is an index with a byte more")
	}
}

// Files that are no index are none, without an error; writing replaces them.
func TestIndexFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "files", "x")
	if readIndex(name) != nil {
		t.Error("there is an index")
	}
	raw := merge(nil, sample(), testDay)
	must(t, writeIndex(name, raw))
	if x := readIndex(name); x == nil || !slices.EqualFunc(decode(x), sample(), func(a, b dirRecords) bool {
		return cmp.Equal(a, b, cmpRecords)
	}) {
		t.Error("the index that was written isn't there")
	}
	must(t, os.WriteFile(name, raw[:len(raw)-1], 0o600))
	if readIndex(name) != nil {
		t.Error("a torn file is an index")
	}
	must(t, os.Remove(name))
	must(t, os.Mkdir(name, 0o700))
	if readIndex(name) != nil {
		t.Error("a directory is an index")
	}
	killed := filepath.Join(filepath.Dir(name), ".new-1")
	must(t, os.WriteFile(killed, nil, 0o600))
	must(t, os.Chtimes(killed, time.Unix(1, 0), time.Unix(1, 0)))
	must(t, os.Remove(name))
	must(t, writeIndex(name, raw))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// FuzzIndex: bytes that are taken for an index have a consistent meaning: all
// lookups work, and encoding it again gives the same records. The checksum is
// made right, so that the fuzzer comes behind it.
func FuzzIndex(f *testing.F) {
	f.Add(merge(nil, sample(), testDay))
	f.Add(merge(nil, nil, testDay))
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = withChecksum(raw)
		x, err := parseIndex(raw)
		if err != nil {
			return
		}
		all := decode(x)
		for _, d := range all {
			c := x.dir(d.path, "")
			for _, r := range d.files {
				if got, ok := c.find(r.name); !ok || got != r.record {
					t.Fatalf("%q, %q is not found", d.path, r.name)
				}
			}
		}
		again := decode(parsed(t, merge(x, nil, 0)))
		all = slices.DeleteFunc(all, func(d dirRecords) bool { return len(d.files) == 0 })
		if fmt.Sprint(again) != fmt.Sprint(all) {
			t.Fatal("merging it into nothing changes it")
		}
	})
}

// withChecksum returns a copy with a right checksum.
func withChecksum(raw []byte) []byte {
	raw = bytes.Clone(raw)
	if len(raw) >= headerSize {
		copy(raw[24:28], checksum(raw[headerSize:]))
	}
	return raw
}
