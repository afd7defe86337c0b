//go:build linux

package child

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
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

// In a program with large dependencies the child runs before they are
// initialised: only packages below syscall come first. The test binary,
// started as a child, must not get far enough to fail differently.
func TestInitOrder(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{Marker + "=1", "GODEBUG=inittrace=1"}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitRefused || !strings.Contains(errs.String(), "is not a runner") {
		t.Fatalf("%v: %s", err, &errs)
	}
	allowed := regexp.MustCompile(`^(runtime|internal/|errors$|sync$|syscall$|unicode/utf|sync/atomic$|slices$|iter$|math|cmp$)`)
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) `).FindAllStringSubmatch(errs.String(), -1) {
		if !allowed.MatchString(m[1]) {
			t.Errorf("package %s is initialised before the child takes over", m[1])
		}
	}
}

// An ordinary process is left alone.
func TestNotAChild(t *testing.T) {
	if _, ok := os.LookupEnv(Marker); ok {
		t.Fatal("the marker is set in a test")
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

// BenchmarkStart is the time from execve to the child's first own system call,
// and the exit: what a step pays for being started by this program.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{Marker + "=1", "GOGC=off", "GOMAXPROCS=2"}
		if cmd.Run(); cmd.ProcessState.ExitCode() != exitRefused {
			b.Fatal(cmd.ProcessState)
		}
	}
}
