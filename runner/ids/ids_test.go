package ids

import (
	"math"
	"reflect"
	"testing"
)

// An inode has one text, and nothing else is taken for it: the attribute is
// anybody's to write.
func TestParse(t *testing.T) {
	for _, i := range []Inode{
		{}, {UID: 1000, GID: 2000}, {UID: math.MaxUint32 - 1}, {Device: 'c', Major: 1, Minor: 3},
		{UID: 5, GID: 6, Device: 'b', Major: math.MaxUint32, Minor: math.MaxUint32},
	} {
		got, err := Parse(i.String())
		if err != nil || got != i {
			t.Errorf("%s: %+v, %v", i, got, err)
		}
	}
	for _, s := range []string{
		"", "1", "1:0", "2:0:0", "1:0:0:", "1:00:0", "1:+1:0", "1:-1:0", "1:4294967295:0", "1:0:4294967295", "1:0:4294967296",
		"1:0:0:c:0:0", "1:0:0:p:1:3", "1:0:0:cc:1:3", "1:0:0:c:1", "1:0:0:c:1:3:4", "1:0:0\n", "1:0:0\x00", "1:0:0:c:1:0000000000000000000000000000000000000000000000000000000003",
	} {
		if i, err := Parse(s); err == nil {
			t.Errorf("%q was read as %+v", s, i)
		}
	}
}

// A record comes back as it was; a damaged one is an error.
func TestRecord(t *testing.T) {
	r := Record{}
	r.Set("a/b\nc", Inode{UID: 1})
	r.Set("link", Inode{UID: 33, GID: 34})
	r.Set("gone", Inode{UID: 3})
	r.Set("gone", Inode{})
	got, err := ParseRecord(r.Encode())
	if err != nil || !reflect.DeepEqual(got, r) || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"a", "a\x00", "a\x001:1:1", "\x001:1:1\x00", "a\x001:x:1\x00"} {
		if r, err := ParseRecord([]byte(s)); err == nil {
			t.Errorf("%q was read as %v", s, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1:1000:1000")
	f.Add("1:0:0:c:1:3")
	f.Fuzz(func(t *testing.T, s string) {
		if i, err := Parse(s); err == nil && i.String() != s {
			t.Errorf("%q was read as %s", s, i)
		}
		if r, err := ParseRecord([]byte(s)); err == nil {
			again, err := ParseRecord(r.Encode())
			if err != nil || !reflect.DeepEqual(r, again) {
				t.Errorf("%q: %v, then %v, %v", s, r, again, err)
			}
		}
	})
}
