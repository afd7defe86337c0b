//go:build linux

package child

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The package imports nothing but syscall and unsafe: whatever it imported
// would be initialised before each step.
func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if !slices.Contains([]string{`"syscall"`, `"unsafe"`}, i.Path.Value) {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
	}
}

// fill sets every field of v to something that differs from its zero value,
// so that a field that coder forgets shows.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.String:
		v.SetString(strings.Repeat("s", int(*n%300)))
	case reflect.Uint64:
		v.SetUint(*n << (*n % 50))
	case reflect.Bool:
		v.SetBool(true)
	}
}

// A plan arrives as it was sent, every field of it.
func TestRoundTrip(t *testing.T) {
	var full, empty Plan
	var n uint64
	fill(reflect.ValueOf(&full).Elem(), &n)
	for _, p := range []Plan{full, empty} {
		var got Plan
		if !got.Decode(p.Encode()) {
			t.Fatal("Decode refused what Encode wrote")
		}
		if d := cmp.Diff(p, got); d != "" {
			t.Errorf("plan (-sent +received):\n%s", d)
		}
	}
}

// A plan that was cut off, or is followed by something, is refused.
func TestDecodeRefuses(t *testing.T) {
	var p Plan
	var n uint64
	fill(reflect.ValueOf(&p).Elem(), &n)
	b := p.Encode()
	for i := range len(b) {
		if new(Plan).Decode(b[:i]) {
			t.Fatalf("Decode took the first %d of %d bytes", i, len(b))
		}
	}
	if new(Plan).Decode(append(b, 0)) {
		t.Error("Decode took a byte too many")
	}
}

// No bytes make the decoder fail otherwise than by refusing, or allocate more
// than in proportion to their number.
func FuzzDecode(f *testing.F) {
	var p Plan
	var n uint64
	fill(reflect.ValueOf(&p).Elem(), &n)
	f.Add(p.Encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Plan
		if p.Decode(b) {
			var again Plan
			if !again.Decode(p.Encode()) {
				t.Error("Decode refused what it decoded before")
			}
		}
	})
}
