package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// saved scans a directory with an index, saves it, and returns the digests of
// all files and how many files the scan had to look at anew.
func saved(t *testing.T, dir, index string, opts LocalOptions) map[string][32]byte {
	t.Helper()
	opts.Index = index
	l := scanned(t, dir, opts)
	sums := map[string][32]byte{}
	for p, e := range list(t, l) {
		if e.Content != nil {
			sum, ok := e.Content.Digest()
			if !ok {
				t.Errorf("%s has no digest", p)
			}
			sums[p] = sum
		}
	}
	must(t, l.Save())
	return sums
}

// stored returns the digests in a directory's index.
func stored(t *testing.T, dir, index string) map[string][32]byte {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	must(t, err)
	sums := map[string][32]byte{}
	x := openIndex(indexPath(index, real))
	defer x.close()
	if x == nil {
		return sums
	}
	for _, d := range decode(x) {
		for _, f := range d.files {
			sums[strings.TrimPrefix(d.path+"/"+f.name, "/")] = f.sum
		}
	}
	return sums
}

func wantSums(t *testing.T, what string, got, want map[string][32]byte) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, sortedKeys(got), sortedKeys(want))
		for p := range want {
			if got[p] != want[p] {
				t.Errorf("%s: %s has %x", what, p, got[p])
			}
		}
	}
}

// poison changes all digests in an index, so that it shows who uses them.
func poison(t *testing.T, index string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(index, "*"))
	must(t, err)
	for _, n := range names {
		x := openIndex(n)
		all := decode(x)
		x.close()
		for _, d := range all {
			for i := range d.files {
				d.files[i].sum = [32]byte{1}
			}
		}
		must(t, writeIndex(n, whole(merged(t, nil, all, uint16(time.Now().Unix()/86400)))))
	}
}

func indexState(t *testing.T, index string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(index, "*"))
	must(t, err)
	var s []string
	for _, n := range names {
		var st unix.Stat_t
		must(t, unix.Stat(n, &st))
		s = append(s, fmt.Sprint(n, st.Ino, st.Mtim))
	}
	return strings.Join(s, "\n")
}

// Unchanged files' digests come from the index, and it isn't written again;
// every kind of change makes a file be read, that file only.
func TestIndexUse(t *testing.T) {
	dir, index := tree(t, map[string]string{"a": "1", "d/b": "2", "d/c": "3", "e/empty": ""}), t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	want := map[string][32]byte{"a": sumOf("1"), "d/b": sumOf("2"), "d/c": sumOf("3")}
	wantSums(t, "first", saved(t, dir, index, LocalOptions{}), want)
	state := indexState(t, index)
	wantSums(t, "second", saved(t, dir, index, LocalOptions{}), want)
	if indexState(t, index) != state {
		t.Error("an index without news was written")
	}
	poison(t, index)
	bad := [32]byte{1}
	wantSums(t, "from the index", saved(t, dir, index, LocalOptions{}), map[string][32]byte{"a": bad, "d/b": bad, "d/c": bad})
	changes := map[string]func() error{
		"mtime":      func() error { return os.Chtimes(at("d/b"), time.Now(), time.Unix(5, 0)) },
		"mode":       func() error { return os.Chmod(at("d/b"), 0o600) },
		"same bytes": func() error { return os.WriteFile(at("d/b"), []byte("2"), 0) },
		"replaced": func() error {
			return errors.Join(os.WriteFile(at("tmp"), []byte("2"), 0o644), os.Rename(at("tmp"), at("d/b")))
		},
		"hidden mtime": func() error {
			st, err := os.Stat(at("d/b"))
			must(t, err)
			return errors.Join(os.WriteFile(at("d/b"), []byte("2"), 0), os.Chtimes(at("d/b"), st.ModTime(), st.ModTime()))
		},
	}
	for what, change := range changes {
		poison(t, index)
		must(t, change())
		wantSums(t, what, saved(t, dir, index, LocalOptions{}), map[string][32]byte{"a": bad, "d/b": sumOf("2"), "d/c": bad})
		state := indexState(t, index)
		wantSums(t, what+", then unchanged", saved(t, dir, index, LocalOptions{}), map[string][32]byte{"a": bad, "d/b": sumOf("2"), "d/c": bad})
		if indexState(t, index) != state {
			t.Errorf("%s: the file was read twice", what)
		}
	}
}

// A change right after a file was hashed is seen by the next build, even when
// it keeps the size and the mtime.
func TestRacyChange(t *testing.T) {
	dir, index := t.TempDir(), t.TempDir()
	p := filepath.Join(dir, "a")
	same := time.Unix(1000, 0)
	for i := range 30 {
		text := fmt.Sprintf("%02d", i)
		must(t, os.WriteFile(p, []byte(text), 0o644))
		must(t, os.Chtimes(p, same, same))
		wantSums(t, text, saved(t, dir, index, LocalOptions{}), map[string][32]byte{"a": sumOf(text)})
	}
}

// What one build doesn't look at stays known to the next: files that its
// patterns hide, other directories, and what another process has found
// meanwhile.
func TestIndexKeeps(t *testing.T) {
	dir, index := tree(t, map[string]string{"a": "1", "d/b": "2", "d/c": "3", "e/f": "4"}), t.TempDir()
	l := open(t, dir, LocalOptions{Index: index})
	must(t, l.Scan(context.Background(), "a")) // before the other one saves
	saved(t, dir, index, LocalOptions{Exclude: []string{"d/b", "a"}})
	must(t, l.Save())
	all := map[string][32]byte{"a": sumOf("1"), "d/c": sumOf("3"), "e/f": sumOf("4")}
	wantSums(t, "both", stored(t, dir, index), all)
	must(t, os.Remove(filepath.Join(dir, "e/f")))
	saved(t, dir, index, LocalOptions{Include: []string{"d/b"}})
	all["d/b"] = sumOf("2")
	wantSums(t, "all", stored(t, dir, index), all)
}

// A damaged index is no index: the build is right, and writes a new one.
func TestIndexDamaged(t *testing.T) {
	dir, index := tree(t, map[string]string{"a": "1"}), t.TempDir()
	want := map[string][32]byte{"a": sumOf("1")}
	saved(t, dir, index, LocalOptions{})
	names, err := filepath.Glob(filepath.Join(index, "*"))
	must(t, err)
	raw, err := os.ReadFile(names[0])
	must(t, err)
	for _, bad := range [][]byte{nil, raw[:len(raw)/2], []byte(strings.Repeat("x", 1000)), append(raw[:len(raw)-1], raw[len(raw)-1]^1)} {
		must(t, os.WriteFile(names[0], bad, 0o600))
		wantSums(t, "damaged", saved(t, dir, index, LocalOptions{}), want)
		wantSums(t, "written again", stored(t, dir, index), want)
	}
}

// An index that cannot be written is an error of Save, not of the build.
func TestIndexUnwritable(t *testing.T) {
	dir := tree(t, map[string]string{"a": "1"})
	l := scanned(t, dir, LocalOptions{Index: filepath.Join(dir, "a")})
	if err := l.Save(); err == nil {
		t.Error("an index was written below a file")
	}
}

// Files of all sizes at which the way of reading changes are hashed right.
func TestHashSizes(t *testing.T) {
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{})
	want := map[string][32]byte{}
	for _, n := range []int{1, wholeBytes - 1, wholeBytes, wholeBytes + 1, chunkBytes, chunkBytes + 1, aheadBytes + chunkBytes, 6*chunkBytes + 7} {
		buf := make([]byte, n)
		r.Read(buf)
		name := fmt.Sprint(n)
		must(t, os.WriteFile(filepath.Join(dir, name), buf, 0o644))
		want[name] = sumOf(string(buf))
	}
	settleDown()
	wantSums(t, "sizes", saved(t, dir, t.TempDir(), LocalOptions{}), want)
}

// Any number of goroutines may scan and look at the same time; what they see is
// one consistent tree.
func TestConcurrent(t *testing.T) {
	files := map[string]string{}
	for i := range 600 {
		files[fmt.Sprintf("d%d/e%d/f%d", i%3, i%7, i)] = fmt.Sprint(i)
	}
	for i := range 400 {
		files[fmt.Sprintf("many/f%d", i)] = fmt.Sprint(i)
	}
	dir := tree(t, files)
	l := open(t, dir, LocalOptions{Jobs: 4, Exclude: []string{"none", "!**/x"}})
	var wg sync.WaitGroup
	entries := make([]map[string]*layer.Entry, 4)
	for i := range entries {
		wg.Go(func() { entries[i] = list(t, l) })
		wg.Go(func() {
			if err := l.Scan(context.Background(), []string{".", "many", "d1", "d1/e2"}[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, all := range entries {
		if !maps.EqualFunc(all, entries[0], func(a, b *layer.Entry) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("reader %d saw another tree", i)
		}
	}
	for name, text := range files {
		if sum, ok := entries[0][name].Content.Digest(); !ok || sum != sumOf(text) {
			t.Errorf("%s has the digest %x %v", name, sum, ok)
		}
	}
}

// What settle says depends on the clock and on how finely times are stored.
func TestSettle(t *testing.T) {
	now := func(d time.Duration) identity {
		ns := time.Now().Add(d).UnixNano()
		if ns%int64(time.Second) == 0 {
			ns++
		}
		return identity{ctime: ns}
	}
	whole := func(d time.Duration) identity {
		return identity{ctime: time.Now().Add(d).Truncate(time.Second).UnixNano()}
	}
	for _, tt := range []struct {
		name   string
		remote bool
		id     identity
		want   bool
	}{
		{"old", false, now(-time.Hour), false},
		{"fresh", false, now(0), false},
		{"from the future", false, now(time.Hour), true},
		{"whole seconds, fresh", false, whole(0), true},
		{"whole seconds, old", false, whole(-time.Minute), false},
		{"remote, fresh", true, now(-time.Second), true},
		{"remote, old", true, now(-time.Minute), false},
	} {
		if got := (&Local{remote: tt.remote}).settle(tt.id); got != tt.want {
			t.Errorf("%s: unsure %v", tt.name, got)
		}
	}
	id := now(0)
	(&Local{}).settle(id)
	if age := time.Now().UnixNano() - id.ctime; age < int64(tick) {
		t.Errorf("a file may be hashed %v after its change", time.Duration(age))
	}
}

// A context that turns its directories into symlinks while it is scanned leads
// to no file outside of it.
func TestHostileLinks(t *testing.T) {
	outside := tree(t, map[string]string{"f": "outside", "sub/f": "outside"})
	dir := tree(t, map[string]string{"d/f": "inside", "d/sub/f": "inside"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		d := filepath.Join(dir, "d")
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(d, d+".real")
			os.Symlink(outside, d)
			os.Remove(d)
			os.Rename(d+".real", d)
		}
	})
	for range 200 {
		l := open(t, dir, LocalOptions{})
		l.Scan(context.Background(), ".")
		for _, p := range []string{"d/f", "d/sub/f"} {
			e, err := l.Lstat(p)
			if err != nil {
				continue
			}
			if text, err := read(e); err == nil && text != "inside" {
				t.Fatalf("%s is %q", p, text)
			}
			if sum, ok := e.Content.Digest(); ok && sum != sumOf("inside") {
				t.Fatalf("%s has the digest of something else", p)
			}
		}
		l.Close()
	}
	close(stop)
	wg.Wait()
}

// The way for systems without openat2 opens the same and refuses the same.
func TestOpenStepwise(t *testing.T) {
	dir := tree(t, map[string]string{"d/e/f": "x", "d/link": "-> e", "l": "-> d", "abs": "-> /"})
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(root)
	before := openFDs(t)
	for _, p := range []string{".", "d", "d/e", "d/e/f", "d/link", "l", "l/e", "d/link/f", "abs/etc", "none", "d/e/f/g", "d/none/x"} {
		for _, flags := range []int{unix.O_PATH, unix.O_RDONLY, unix.O_RDONLY | unix.O_DIRECTORY} {
			a, errA := openBeneath(root, p, flags)
			b, errB := openStepwise(root, p, flags)
			if missing(errA) != missing(errB) {
				t.Errorf("%s: %v, stepwise %v", p, errA, errB)
			}
			for _, fd := range []int{a, b} {
				if fd >= 0 {
					unix.Close(fd)
				}
			}
		}
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A file that vanishes between listing and looking isn't there; one that was
// seen before is an error.
func TestVanished(t *testing.T) {
	dir := tree(t, map[string]string{"a": "1", "b": "2", "c": "3"})
	l := open(t, dir, LocalOptions{})
	_, err := l.Lstat("b")
	must(t, err)
	f, err := l.find("b")
	must(t, err)
	must(t, f.in.list(-1, nil))
	must(t, os.Remove(filepath.Join(dir, "a")))
	must(t, l.Scan(context.Background(), "."))
	if _, err := l.Lstat("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a: %v", err)
	}
	l = open(t, dir, LocalOptions{})
	_, err = l.Lstat("b")
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, "b")))
	if err := l.Scan(context.Background(), "b"); !errors.Is(err, layer.ErrChanged) {
		t.Errorf("b: %v", err)
	}
}
