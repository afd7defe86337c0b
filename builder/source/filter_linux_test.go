package source

import (
	"context"
	"fmt"
	gofs "io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"bk.build/bk/layout/layer"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sent returns what BuildKit's client would send, in the same shape as entries:
// type, mode, size, link target or hard link, device. Extended attributes, which
// its server drops, are left out.
func sent(t testing.TB, dir string, opts LocalOptions) map[string]string {
	t.Helper()
	plain, err := fsutil.NewFS(dir)
	must(t, err)
	owners, err := fsutil.NewFilterFS(plain, &fsutil.FilterOpt{Map: func(_ string, st *types.Stat) fsutil.MapResult {
		st.Uid, st.Gid = 0, 0
		return fsutil.MapResultKeep
	}})
	must(t, err)
	filtered, err := fsutil.NewFilterFS(owners, &fsutil.FilterOpt{
		IncludePatterns: opts.Include, ExcludePatterns: opts.Exclude, FollowPaths: opts.FollowPaths,
	})
	must(t, err)
	all := map[string]string{}
	must(t, fsutil.WithHardlinkReset(filtered).Walk(context.Background(), "/", func(p string, e gofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*types.Stat)
		m := os.FileMode(st.Mode)
		kind := m.Type().String()[:1]
		switch {
		case m.Type() == 0 && st.Linkname != "":
			all[st.Path] = "hard link " + st.Linkname
			return nil
		case m.IsDir():
			st.Size = 0
		case m&os.ModeSymlink != 0:
			st.Size = 0
		}
		all[st.Path] = fmt.Sprint(kind, " ", unixMode(m), st.Size, st.Linkname, st.Devmajor, st.Devminor, st.Uid, st.Gid, st.ModTime, map[string]string(nil))
		return nil
	}))
	return all
}

func unixMode(m os.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, has := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if m&has != 0 {
			u |= bit
		}
	}
	return u
}

// seen returns what a Local shows in the same shape as sent.
func seen(t testing.TB, l *Local) map[string]string {
	t.Helper()
	kinds := map[layer.Type]string{
		layer.Regular: "-", layer.Directory: "d", layer.Symlink: "L", layer.Fifo: "p", layer.Char: "D", layer.Block: "D",
	}
	all := map[string]string{}
	entries := list(t, l)
	names := slices.Collect(maps.Keys(entries))
	slices.SortFunc(names, fsutil.ComparePath)
	first := map[any]string{}
	for _, p := range names {
		e := entries[p]
		if ino := l.Inode(p); ino != nil {
			if to, ok := first[ino]; ok {
				all[p] = "hard link " + to
				continue
			}
			first[ino] = p
		}
		all[p] = fmt.Sprint(kinds[e.Type], " ", e.Mode, e.Size, e.Link, e.DevMajor, e.DevMinor, e.UID, e.GID, e.ModTime.UnixNano(), e.Xattrs)
	}
	return all
}

var ignoreTests = []struct {
	name  string
	opts  LocalOptions
	files string // blank separated; directories end in a slash
	want  string
}{
	{"nothing", LocalOptions{}, "a d/b", "a d d/b"},
	{"file", LocalOptions{Exclude: []string{"a"}}, "a d/a", "d d/a"},
	{"file anywhere", LocalOptions{Exclude: []string{"**/a"}}, "a d/a d/e/a d/b", "d d/b d/e"},
	{"directory with all in it", LocalOptions{Exclude: []string{"d"}}, "a d/b d/e/f", "a"},
	{"what is in a directory", LocalOptions{Exclude: []string{"d/*"}}, "a d/b d/e/f", "a d"},
	{"all but one", LocalOptions{Exclude: []string{"*", "!a"}}, "a b d/a", "a"},
	{"exception in an excluded directory", LocalOptions{Exclude: []string{"d", "!d/keep"}}, "d/keep d/x d/e/y", "d d/keep"},
	{"exception deep in excluded directories", LocalOptions{Exclude: []string{"d", "!d/e/f/keep"}}, "d/e/f/keep d/e/f/x d/g/y", "d d/e d/e/f d/e/f/keep"},
	{"exception that matches nothing", LocalOptions{Exclude: []string{"d", "!d/none"}}, "d/x a", "a"},
	{"exception and exclusion again", LocalOptions{Exclude: []string{"d", "!d/e", "d/e/x"}}, "d/a d/e/x d/e/y", "d d/e d/e/y"},
	{"exception before the exclusion", LocalOptions{Exclude: []string{"!d/keep", "d"}}, "d/keep a", "a"},
	{"exception with wildcards", LocalOptions{Exclude: []string{"*", "!**/*.go"}}, "a.go b.c d/c.go e/d.c", "a.go d d/c.go"},
	{"exception one level down", LocalOptions{Exclude: []string{"*", "!*/keep"}}, "keep d/keep d/x e/f/keep", "d d/keep"},
	{"extension", LocalOptions{Exclude: []string{"*.o"}}, "a.o a.c d/b.o", "a.c d d/b.o"},
	{"question mark", LocalOptions{Exclude: []string{"a?"}}, "a ab abc", "a abc"},
	{"class", LocalOptions{Exclude: []string{"[a-c]x"}}, "ax bx dx", "dx"},
	{"escaped", LocalOptions{Exclude: []string{`a\*`}}, "a* ab", "ab"},
	{"double star in the middle", LocalOptions{Exclude: []string{"a/**/z"}}, "a/z a/b/z a/b/c/z a/y z", "a a/b a/b/c a/y z"},
	{"include", LocalOptions{Include: []string{"d/e"}}, "a d/b d/e/f d/e/g/h", "d d/e d/e/f d/e/g d/e/g/h"},
	{"include and exclude", LocalOptions{Include: []string{"d"}, Exclude: []string{"d/x"}}, "a d/b d/x", "d d/b"},
	{"include with wildcards", LocalOptions{Include: []string{"*/keep"}}, "keep d/keep e/x", "d d/keep"},
	{"followed path", LocalOptions{FollowPaths: []string{"d/b"}}, "a d/b d/c", "d d/b"},
	{"followed root", LocalOptions{FollowPaths: []string{"/"}}, "a d/b", "a d d/b"},
	{"followed path that isn't there", LocalOptions{FollowPaths: []string{"none"}}, "a d/b", ""},
}

// The patterns of a .dockerignore file mean what they mean to BuildKit's client.
func TestIgnore(t *testing.T) {
	for _, tt := range ignoreTests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			for f := range strings.FieldsSeq(tt.files) {
				files[f] = f
			}
			dir := tree(t, files)
			want := sent(t, dir, tt.opts)
			if got := strings.Join(sortedKeys(want), " "); got != tt.want {
				t.Fatalf("the test expects %q, fsutil sends %q", tt.want, got)
			}
			if diff := cmp.Diff(want, seen(t, open(t, dir, tt.opts))); diff != "" {
				t.Errorf("-sent +seen\n%s", diff)
			}
			if diff := cmp.Diff(want, seen(t, scanned(t, dir, tt.opts))); diff != "" {
				t.Errorf("after a scan: -sent +seen\n%s", diff)
			}
		})
	}
}

// Random trees look to us like to BuildKit's client through random patterns,
// whether they are read lazily or scanned, and single paths do too.
func TestIgnoreRandom(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	for i := range rounds {
		r := rand.New(rand.NewPCG(uint64(i), 7))
		dir := randomTree(t, r)
		opts := LocalOptions{Exclude: randomPatterns(r, "!")}
		switch r.IntN(4) {
		case 0:
			opts.Include = randomPatterns(r, "!")
		case 1:
			opts.FollowPaths = randomPatterns(r, "/")
		}
		want := sent(t, dir, opts)
		if diff := cmp.Diff(want, seen(t, open(t, dir, opts))); diff != "" {
			t.Fatalf("round %d: %+v\n-sent +seen\n%s", i, opts, diff)
		}
		if diff := cmp.Diff(want, seen(t, scanned(t, dir, opts))); diff != "" {
			t.Fatalf("round %d: %+v, after a scan\n-sent +seen\n%s", i, opts, diff)
		}
		lazy := open(t, dir, opts)
		for range 20 {
			p := randomPath(r)
			_, err := lazy.Lstat(p)
			if _, ok := want[p]; ok != (err == nil) {
				t.Fatalf("round %d: %+v: sent %s: %v; lstat: %v", i, opts, p, ok, err)
			}
		}
	}
}

var names = []string{"a", "b", "ab", "a.go", "b.go", "node_modules", "src", "x y", "é", "a*", "[b]", "b\xe9", "a\nb"}

func randomPath(r *rand.Rand) string {
	p := names[r.IntN(len(names))]
	for r.IntN(2) == 0 {
		p += "/" + names[r.IntN(len(names))]
	}
	return p
}

func randomTree(t *testing.T, r *rand.Rand) string {
	dir := t.TempDir()
	for i := range 25 {
		p := filepath.Join(dir, randomPath(r))
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue // there is a file on the way
		}
		switch r.IntN(8) {
		case 0:
			os.Symlink([]string{randomPath(r), "/" + randomPath(r), "../" + randomPath(r), "."}[r.IntN(4)], p)
		case 1:
			os.Mkdir(p, 0o700)
		case 2:
			os.Link(filepath.Join(dir, randomPath(r)), p)
		default:
			os.WriteFile(p, make([]byte, i), os.FileMode(0o600|r.IntN(0o100)))
		}
	}
	return dir
}

var patternParts = []string{"*", "**", "?", "a*", "*.go", "a?", "[ab]", "node_modules", "**b", "a**", "*a*b", `\*`, "x*", "?*"}

func randomPatterns(r *rand.Rand, before string) []string {
	var list []string
	for range 1 + r.IntN(5) {
		p := randomPath(r)
		for r.IntN(2) == 0 {
			p = path.Join(p, patternParts[r.IntN(len(patternParts))])
		}
		if r.IntN(3) == 0 {
			p = path.Join(patternParts[r.IntN(len(patternParts))], p)
		}
		if r.IntN(3) == 0 {
			p = path.Base(p)
		}
		if r.IntN(3) == 0 {
			p = before + p
		}
		list = append(list, p)
	}
	return list
}
