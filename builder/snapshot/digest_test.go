package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/layout/layer"
)

func copyDigest(t testing.TB, src FS, a *pb.FileActionCopy) string {
	t.Helper()
	d, err := CopyDigest(t.Context(), src, a)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest.String()
}

func action(from string, opts ...func(*pb.FileActionCopy)) *pb.FileActionCopy {
	a := &pb.FileActionCopy{Src: from, Dest: "/d/", Mode: -1, Timestamp: -1, CreateDestPath: true, FollowSymlink: true,
		DirCopyContents: true, AllowWildcard: true, AllowEmptyWildcard: true}
	for _, o := range opts {
		o(a)
	}
	return a
}

// The digest changes with everything that the copy uses, and with nothing
// else.
func TestCopyDigestDependsOn(t *testing.T) {
	base := []string{"5 d", "0 d/f x", "0 d/g y", "5 d/e", "0 other o", "2 l d/f", "2 ld d"}
	change := func(old, new string) []string {
		spec := slices.Clone(base)
		for i := range spec {
			if spec[i] == old {
				spec[i] = new
				return spec
			}
		}
		return append(spec, new)
	}
	noDirContents := func(a *pb.FileActionCopy) { a.DirCopyContents = false }
	only := func(p string) func(*pb.FileActionCopy) {
		return func(a *pb.FileActionCopy) { a.IncludePatterns = []string{p} }
	}
	without := func(p string) func(*pb.FileActionCopy) {
		return func(a *pb.FileActionCopy) { a.ExcludePatterns = []string{p} }
	}
	for _, tc := range []struct {
		name    string
		a       *pb.FileActionCopy
		changed []string
		same    bool
	}{
		{"content", action("/d"), change("0 d/f x", "0 d/f z"), false},
		{"mode", action("/d"), change("0 d/f x", "0 d/f:600 x"), false},
		{"name", action("/d"), change("0 d/f x", "0 d/F x"), false},
		{"added", action("/d"), change("", "0 d/new"), false},
		{"added directory", action("/d"), change("", "5 d/new"), false},
		{"type", action("/d"), change("0 d/g y", "2 d/g y"), false},
		{"hard link", action("/d"), change("0 d/g y", "1 d/g d/f"), false},
		{"not selected", action("/d"), change("0 other o", "0 other p"), true},
		{"the directory itself", action("/d"), change("5 d", "5 d:700"), true},
		{"the directory itself, copied", action("/d", noDirContents), change("5 d", "5 d:700"), false},
		{"subdirectory", action("/d"), change("5 d/e", "5 d/e:700"), false},
		{"link's target", action("/l"), change("0 d/f x", "0 d/f z"), false},
		{"link to another place", action("/l"), change("2 l d/f", "2 l /d/f"), true},
		{"link not followed", action("/l", func(a *pb.FileActionCopy) { a.FollowSymlink = false }), change("0 d/f x", "0 d/f z"), true},
		{"through a link", action("/ld/f"), change("0 d/f x", "0 d/f z"), false},
		{"through a link, elsewhere", action("/ld/f"), change("0 d/g y", "0 d/g z"), true},
		{"included", action("/d", only("f")), change("0 d/f x", "0 d/f z"), false},
		{"not included", action("/d", only("f")), change("0 d/g y", "0 d/g z"), true},
		{"parent of what is included", action("/", only("d/f")), change("5 d", "5 d:700"), false},
		{"directory without anything included", action("/", only("d/f")), change("5 d/e", "5 d/e:700"), true},
		{"excluded", action("/d", without("g")), change("0 d/g y", "0 d/g z"), true},
		{"not excluded", action("/d", without("g")), change("0 d/f x", "0 d/f z"), false},
		{"wildcard", action("/d/?"), change("0 d/g y", "0 d/g z"), false},
		{"wildcard names", action("/d/[fg]"), change("0 d/g y", "0 d/h y"), false},
		{"wildcard elsewhere", action("/d/f*"), change("0 d/g y", "0 d/g z"), true},
		{"archive behind a link", action("/l", func(a *pb.FileActionCopy) { a.FollowSymlink, a.AttemptUnpackDockerCompatibility = false, true }),
			change("0 d/f x", "0 d/f z"), false},
	} {
		before, after := copyDigest(t, planned(t, base...), tc.a), copyDigest(t, planned(t, tc.changed...), tc.a)
		if (before == after) != tc.same {
			t.Errorf("%s: same digest: %t, want %t", tc.name, before == after, tc.same)
		}
	}
}

// Times don't count, and neither does how a tree came to be: in one layer or
// several, with known digests or without.
func TestDigestIsStable(t *testing.T) {
	whole := planned(t, "5 d", "0 d/f x", "1 d/h d/f", "2 d/l f", "0 d/m y")
	stacked := NewView(plannedLayer(t, "5 d", "0 d/old x", "0 d/m old", "0 d/f x", "1 d/h d/f"), plannedLayer(t, "w d/old", "0 d/m y", "2 d/l f"))
	e := NewEditor(Empty())
	if err := e.Copy(t.Context(), whole, copyAllTo("/"), nil); err != nil {
		t.Fatal(err)
	}
	e.root.kids["d"].ent.ModTime = time.Unix(7, 7)
	digests := map[string]string{}
	for name, tree := range map[string]FS{"whole": whole, "stacked": stacked, "edited": e, "plain": NewEditor(stacked)} {
		d, err := PathDigest(t.Context(), tree, "/", true)
		if err != nil {
			t.Fatal(err)
		}
		digests[name] = d.Digest.String()
	}
	for name, d := range digests {
		if d != digests["whole"] {
			t.Errorf("%s: %s, whole: %s", name, d, digests["whole"])
		}
	}
}

// A digest that was computed once stays what it is between releases, or every
// cache is lost: when it has to change, the version in it changes too.
func TestDigestValue(t *testing.T) {
	d := copyDigest(t, planned(t, "5 d:750", "0 d/f:4755 x", "2 d/l f", "1 d/h d/f"), action("/"))
	const want = "sha256:a335675a"
	if !strings.HasPrefix(d, want) {
		t.Errorf("digest %s, want %s...", d, want)
	}
}

// Files names exactly what changed.
func TestDigestedFiles(t *testing.T) {
	list := func(spec ...string) map[string]string {
		d, err := CopyDigest(t.Context(), planned(t, spec...), action("/"))
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for p, sum := range d.Files() {
			m[p] = sum.String()
		}
		return m
	}
	a := list("5 d", "0 d/f x", "0 d/g y", "0 h")
	b := list("5 d", "0 d/f x", "0 d/g z", "0 h")
	var changed []string
	for p := range a {
		if a[p] != b[p] {
			changed = append(changed, p)
		}
	}
	if len(a) != 5 || !cmp.Equal(changed, []string{"/d/g"}) {
		t.Errorf("%d paths, changed: %v", len(a), changed)
	}
}

// What is missing is reported in BuildKit's words, with the path that was
// asked for.
func TestDigestNotFound(t *testing.T) {
	tree := planned(t, "0 f x", "2 l none")
	for _, tc := range []struct {
		a    *pb.FileActionCopy
		want string
	}{
		{action("/x"), `"/x": not found`},
		{action("x/y/../z/"), `"/x/z": not found`},
		{action("/f/x"), `"/f/x": not found`},
		{action("/l"), `"/l": not found`},
		{action("/", func(a *pb.FileActionCopy) { a.IncludePatterns, a.RequiredPaths = []string{"g"}, []string{"/g"} }), `"/g": not found`},
	} {
		_, err := CopyDigest(t.Context(), tree, tc.a)
		if err == nil || err.Error() != tc.want || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want %s", tc.a.Src, err, tc.want)
		}
	}
	if _, err := PathDigest(t.Context(), tree, "x", true); err == nil || err.Error() != `"/x": not found` {
		t.Errorf("mount: %v", err)
	}
	if d, err := CopyDigest(t.Context(), tree, action("/*.zip")); err != nil || d.Digest == "" {
		t.Errorf("no match: %v, %v", d, err)
	}
}

// A file that has other bytes than its entry says isn't hashed: the digest
// would be of no state that the tree ever had.
func TestDigestOfChangedFile(t *testing.T) {
	tree := planned(t, "0 f xyz")
	ent, _ := tree.Lstat("f")
	ent.Content = layer.Bytes("xy")
	if _, err := CopyDigest(t.Context(), tree, action("/")); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CopyDigest(ctx, tree, action("/")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// treeOf makes a tree of what bytes say, so that near bytes give near trees.
func treeOf(data []byte) (spec []string) {
	types := []string{"0", "0", "5", "2", "6", "3", "1"}
	seen := map[string]bool{}
	first := ""
	for len(data) >= 3 && len(spec) < 12 {
		kind, at, arg := types[int(data[0])%len(types)], data[1], data[2]
		data = data[3:]
		p := fmt.Sprintf("%c", 'a'+at%3)
		if at&8 != 0 {
			p = fmt.Sprintf("d%d/%c%s", at>>4&1, 'a'+at%3, strings.Repeat("x", int(at>>6)))
		}
		if kind == "1" && first == "" || seen[p] {
			continue
		}
		seen[p] = true
		line := fmt.Sprintf("%s %s:%o %s", kind, p, 0o600+uint32(arg%4), strings.Repeat("ab", int(arg>>6))+fmt.Sprint(arg>>2%4))
		if kind == "1" {
			line = fmt.Sprintf("1 %s %s", p, first)
		}
		if kind == "0" && first == "" {
			first = p
		}
		spec = append(spec, line)
	}
	return spec
}

// Two trees have one digest exactly when they are the same in all that counts.
func FuzzDigestInjective(f *testing.F) {
	f.Add([]byte("\x00\x00\x00"), []byte("\x00\x00\x01"))
	f.Add([]byte("\x00\x00\x00\x06\x01\x00"), []byte("\x00\x00\x00\x00\x01\x00"))
	f.Add([]byte("\x02\x08\x00\x00\x09\x40"), []byte("\x02\x18\x00\x00\x09\x40"))
	f.Add([]byte("\x03\x41\x80\x00\x49\xc0"), []byte("\x00\x81\x80\x03\x49\xc0"))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		a, b := planned(t, treeOf(x)...), planned(t, treeOf(y)...)
		same := cmp.Equal(describe(t, Walk(a, "."), false), describe(t, Walk(b, "."), false))
		contents := func(a *pb.FileActionCopy) { a.DirCopyContents = false }
		if got := copyDigest(t, a, action("/", contents)) == copyDigest(t, b, action("/", contents)); got != same {
			t.Fatalf("same digest: %t, same tree: %t\n%q\n%q", got, same, treeOf(x), treeOf(y))
		}
	})
}
