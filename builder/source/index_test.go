package source

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
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
	for i := range x.dirs {
		b := x.block(i)
		d := dirRecords{path: b.path}
		for j := range b.count() {
			d.files = append(d.files, fileRecord{b.name(j), b.record(j)})
		}
		list = append(list, d)
	}
	return list
}

func parseIndex(raw []byte) (*index, error) { return newIndex(bytes.NewReader(raw), int64(len(raw))) }

// merged is what merge writes.
func merged(t testing.TB, old *index, fresh []dirRecords, today uint16) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x")
	must(t, writeIndex(name, func(w io.WriteSeeker) error { return merge(w, old, slices.Values(fresh), today) }))
	raw, err := os.ReadFile(name)
	must(t, err)
	return raw
}

// whole writes an index that is in memory.
func whole(raw []byte) func(io.WriteSeeker) error {
	return func(w io.WriteSeeker) error {
		_, err := w.Write(raw)
		return err
	}
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
	x := parsed(t, merged(t, nil, sample(), testDay))
	if diff := cmp.Diff(sample(), decode(x), cmpRecords); diff != "" {
		t.Error(diff)
	}
	for _, d := range sample() {
		for i, f := range d.files {
			c := x.dir(d.path)
			c.from(f.name)
			for _, g := range d.files[i:] {
				if r, ok := c.find(g.name); !ok || r != g.record {
					t.Errorf("%q, %q: %v %v", d.path, g.name, r, ok)
				}
			}
		}
	}
	for _, miss := range [][2]string{{"", "b"}, {"", ""}, {"none", "a"}, {"d-e", "a"}, {"d/e", "z"}} {
		c := x.dir(miss[0])
		c.from(miss[1])
		if r, ok := c.find(miss[1]); ok {
			t.Errorf("%q has %v", miss, r)
		}
	}
	var none *index
	c := none.dir("")
	c.from("a")
	if _, ok := c.find("a"); ok {
		t.Error("no index has an entry")
	}
}

// Entries that a build doesn't visit stay; those that nobody used for long go;
// what the build knows wins.
func TestIndexMerge(t *testing.T) {
	old := parsed(t, merged(t, nil, []dirRecords{
		{"a", []fileRecord{{"x", rec(1)}}},
		{"b", []fileRecord{{"m", rec(2)}, {"old", record{day: testDay - keepDays}}, {"x", rec(3)}}},
		{"gone", []fileRecord{{"x", record{day: testDay - 1}}}},
		{"z", []fileRecord{{"x", rec(4)}}},
	}, testDay-1))
	got := decode(parsed(t, merged(t, old, []dirRecords{
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
	old := parsed(t, merged(t, nil, sample(), testDay))
	fresh := dirRecords{"n", []fileRecord{{"x", rec(9)}}}
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	must(t, err)
	defer f.Close()
	w := indexWriter{out: bufio.NewWriter(f), table: castagnoli(), room: dirSize + fileSize + 2}
	w.out.Write(make([]byte, headerSize))
	for i := range old.dirs {
		w.add(dirRecords{path: old.dirs[i].path}, old.block(i), testDay)
	}
	w.add(fresh, indexBlock{}, testDay)
	must(t, w.finish(f))
	raw, err := os.ReadFile(f.Name())
	must(t, err)
	got := decode(parsed(t, raw))
	want := []dirRecords{{"", []fileRecord{{"a", rec(1)}}}, fresh}
	if diff := cmp.Diff(want, got, cmpRecords); diff != "" {
		t.Error(diff)
	}
}

// An index that was cut off, changed in any byte or grown is no index.
func TestIndexCorrupt(t *testing.T) {
	raw := merged(t, nil, sample(), testDay)
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
	if openIndex(name) != nil {
		t.Error("there is an index")
	}
	raw := merged(t, nil, sample(), testDay)
	must(t, writeIndex(name, whole(raw)))
	x := openIndex(name)
	defer x.close()
	if x == nil || !slices.EqualFunc(decode(x), sample(), func(a, b dirRecords) bool {
		return cmp.Equal(a, b, cmpRecords)
	}) {
		t.Error("the index that was written isn't there")
	}
	must(t, os.WriteFile(name, raw[:len(raw)-1], 0o600))
	if openIndex(name) != nil {
		t.Error("a torn file is an index")
	}
	must(t, os.Remove(name))
	must(t, os.Mkdir(name, 0o700))
	if openIndex(name) != nil {
		t.Error("a directory is an index")
	}
	killed := filepath.Join(filepath.Dir(name), ".new-1")
	must(t, os.WriteFile(killed, nil, 0o600))
	must(t, os.Chtimes(killed, time.Unix(1, 0), time.Unix(1, 0)))
	must(t, os.Remove(name))
	must(t, writeIndex(name, whole(raw)))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// FuzzIndex: bytes that are taken for an index have a consistent meaning: all
// lookups work, and encoding it again gives the same records. The checksum is
// made right, so that the fuzzer comes behind it.
func FuzzIndex(f *testing.F) {
	f.Add(merged(f, nil, sample(), testDay))
	f.Add(merged(f, nil, nil, testDay))
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = withChecksum(raw)
		x, err := parseIndex(raw)
		if err != nil {
			return
		}
		all := decode(x)
		for _, d := range all {
			c := x.dir(d.path)
			for _, r := range d.files {
				if got, ok := c.find(r.name); !ok || got != r.record {
					t.Fatalf("%q, %q is not found", d.path, r.name)
				}
			}
		}
		again := decode(parsed(t, merged(t, x, nil, 0)))
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
		binary.LittleEndian.PutUint32(raw[16:], crc32.Checksum(raw[headerSize:], castagnoli()))
	}
	return raw
}
