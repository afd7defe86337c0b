package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/layout/layer"
)

// planned returns a tree of entries written as "TYPE PATH [LINK or CONTENT]",
// with mode 0644, directories 0755; "D" is an opaque directory. A mode follows
// the path after a colon.
func planned(t testing.TB, spec ...string) *View {
	t.Helper()
	return NewView(plannedLayer(t, spec...))
}

func plannedLayer(t testing.TB, spec ...string) Layer {
	t.Helper()
	l, err := PlanLayer(func(yield func(*layer.Entry, error) bool) {
		for _, line := range spec {
			if !yield(plannedEntry(line), nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func plannedEntry(line string) *layer.Entry {
	f := append(strings.Fields(line), "")
	p, mode, _ := strings.Cut(f[1], ":")
	ent := &layer.Entry{Path: p, Type: layer.Type(f[0][0]), Mode: 0o644, ModTime: time.Unix(1e9, 0)}
	switch f[0] {
	case "5", "D":
		ent.Type, ent.Mode, ent.Opaque = layer.Directory, 0o755, f[0] == "D"
	case "1", "2":
		ent.Link = f[2]
	case "0":
		if ent.Size = int64(len(f[2])); ent.Size > 0 {
			ent.Content = layer.Bytes(f[2])
		}
	}
	if ent.Type == layer.Symlink {
		ent.Mode = 0o777
	}
	if mode != "" {
		fmt.Sscanf(mode, "%o", &ent.Mode)
	}
	return ent
}

func mkdir(p string, parents bool) func(*Editor) error {
	return func(e *Editor) error {
		return e.Mkdir(&pb.FileActionMkDir{Path: p, Mode: 0o4750, MakeParents: parents, Timestamp: -1}, &Owner{3, 4})
	}
}

func mkfile(p, data string) func(*Editor) error {
	return func(e *Editor) error {
		return e.Mkfile(&pb.FileActionMkFile{Path: p, Mode: 0o600, Data: []byte(data), Timestamp: 5e9}, nil)
	}
}

func symlink(old, p string) func(*Editor) error {
	return func(e *Editor) error {
		return e.Symlink(&pb.FileActionSymlink{Oldpath: old, Newpath: p, Timestamp: -1}, &Owner{1, 2})
	}
}

func rm(p string, notFound, wildcard bool) func(*Editor) error {
	return func(e *Editor) error {
		return e.Rm(&pb.FileActionRm{Path: p, AllowNotFound: notFound, AllowWildcard: wildcard})
	}
}

var editCases = []struct {
	name string
	base []string
	do   []func(*Editor) error
	want []string // the layer
	err  string
}{
	{name: "nothing", base: []string{"5 a"}},
	{name: "mkdir", do: []func(*Editor) error{mkdir("/a", false)}, want: []string{"5 . 755 0:0", "5 a 750 3:4"}},
	{name: "mkdir existing", base: []string{"5 a"}, do: []func(*Editor) error{mkdir("/a", false), mkdir("a/", true)}},
	{name: "mkdir where a file is", base: []string{"0 a"}, do: []func(*Editor) error{mkdir("/a", false)}},
	{name: "mkdir all where a file is", base: []string{"0 a"}, do: []func(*Editor) error{mkdir("/a", true)}, err: "mkdir /a: not a directory"},
	{name: "mkdir below a file", base: []string{"0 a"}, do: []func(*Editor) error{mkdir("/a/b", true)}, err: "not a directory"},
	{name: "mkdir without parent", do: []func(*Editor) error{mkdir("/a/b", false)}, err: "mkdir /a/b: no such file or directory"},
	{name: "mkdir all", base: []string{"5 a:700"}, do: []func(*Editor) error{mkdir("/a/b/c", true)},
		want: []string{"5 . 755 0:0", "5 a 700 0:0", "5 a/b 750 3:4", "5 a/b/c 750 3:4"}},
	{name: "mkdir through links", base: []string{"5 x", "2 a /x", "2 x/b ../../y"}, do: []func(*Editor) error{mkdir("/a/b/c", true)},
		want: []string{"5 . 755 0:0", "5 y 750 3:4", "5 y/c 750 3:4"}},
	{name: "mkdir in setgid", base: []string{"5 a:2755"}, do: []func(*Editor) error{mkdir("/a/b", false)},
		want: []string{"5 . 755 0:0", "5 a 2755 0:0", "5 a/b 2750 3:4"}},
	{name: "mkfile", base: []string{"5 a"}, do: []func(*Editor) error{mkfile("/a/f", "data")},
		want: []string{"5 . 755 0:0", "5 a 755 0:0", `0 a/f 600 0:0 1970-01-01T00:00:05Z "data"`}},
	{name: "mkfile over", base: []string{"0 f old"}, do: []func(*Editor) error{mkfile("f", "")},
		want: []string{"5 . 755 0:0", `0 f 600 0:0 1970-01-01T00:00:05Z ""`}},
	{name: "mkfile through a link", base: []string{"5 a", "2 f a/g"}, do: []func(*Editor) error{mkfile("f", "x")},
		want: []string{"5 . 755 0:0", "5 a 755 0:0", `0 a/g 600 0:0 1970-01-01T00:00:05Z "x"`}},
	{name: "mkfile over a directory", base: []string{"5 a"}, do: []func(*Editor) error{mkfile("a", "x")}, err: "rename /a: file exists"},
	{name: "mkfile as the root", do: []func(*Editor) error{mkfile("/", "x")}, err: "mkfile /: is a directory"},
	{name: "mkfile without parent", do: []func(*Editor) error{mkfile("/a/b", "x")}, err: "open /a/b: no such file or directory"},
	{name: "mkfile through a loop", base: []string{"2 a b", "2 b a"}, do: []func(*Editor) error{mkfile("/a", "x")}, err: "too many levels of symbolic links"},
	{name: "mkfile like a whiteout", do: []func(*Editor) error{mkfile("/.wh.a", "x")}, err: "start with .wh."},
	{name: "symlink", do: []func(*Editor) error{symlink("../x", "/a")}, want: []string{"5 . 755 0:0", "2 a 777 1:2 -> ../x"}},
	{name: "symlink over", base: []string{"0 a"}, do: []func(*Editor) error{symlink("x", "/a")}, err: "symlink x /a: file exists"},
	{name: "symlink without parent", do: []func(*Editor) error{symlink("x", "/a/b")}, err: "no such file"},
	{name: "rm file", base: []string{"5 a", "0 a/f", "0 a/g"}, do: []func(*Editor) error{rm("/a/f", false, false)},
		want: []string{"5 . 755 0:0", "5 a 755 0:0", "w a/f"}},
	{name: "rm directory", base: []string{"5 a", "0 a/f"}, do: []func(*Editor) error{rm("/a", false, false)}, want: []string{"5 . 755 0:0", "w a"}},
	{name: "rm link", base: []string{"5 a", "2 l a"}, do: []func(*Editor) error{rm("/l", false, false)}, want: []string{"5 . 755 0:0", "w l"}},
	{name: "rm dangling link", base: []string{"2 l a"}, do: []func(*Editor) error{rm("/l", false, false)}, err: "stat /l: no such file"},
	{name: "rm dangling link allowed", base: []string{"2 l a"}, do: []func(*Editor) error{rm("/l", true, false)}, want: []string{"5 . 755 0:0", "w l"}},
	{name: "rm through link", base: []string{"5 a", "0 a/f", "2 l a"}, do: []func(*Editor) error{rm("/l/f", false, false)},
		want: []string{"5 . 755 0:0", "5 a 755 0:0", "w a/f"}},
	{name: "rm escaping", base: []string{"5 a", "0 f"}, do: []func(*Editor) error{rm("/a/../../../f", false, false)}, want: []string{"5 . 755 0:0", "w f"}},
	{name: "rm missing", do: []func(*Editor) error{rm("/a", false, false)}, err: "no such file"},
	{name: "rm missing allowed", do: []func(*Editor) error{rm("/a/b", true, false)}},
	{name: "rm root", do: []func(*Editor) error{rm("/", true, false)}, err: "the root"},
	{name: "rm wildcard", base: []string{"5 a", "0 a/1.x", "0 a/2.x", "0 a/3.y"}, do: []func(*Editor) error{rm("/a/*.x", false, true)},
		want: []string{"5 . 755 0:0", "5 a 755 0:0", "w a/1.x", "w a/2.x"}},
	{name: "rm wildcard without match", base: []string{"5 a"}, do: []func(*Editor) error{rm("/a/*.x", false, true)}},
	{name: "rm what was made", do: []func(*Editor) error{mkfile("f", "x"), rm("/f", false, false)}},
	{name: "rm and make directory", base: []string{"5 a", "0 a/f"}, do: []func(*Editor) error{rm("/a", false, false), mkdir("/a", false)},
		want: []string{"5 . 755 0:0", "5 a 750 3:4 opaque"}},
	{name: "rm and make deep", base: []string{"5 a/b", "0 a/b/f"}, do: []func(*Editor) error{rm("/a", false, false), mkdir("/a/b", true)},
		want: []string{"5 . 755 0:0", "5 a 750 3:4 opaque", "5 a/b 750 3:4"}},
	{name: "rm file and make directory", base: []string{"0 a"}, do: []func(*Editor) error{rm("/a", false, false), mkdir("/a", false)},
		want: []string{"5 . 755 0:0", "5 a 750 3:4"}},
	{name: "rm directory and make file", base: []string{"5 a", "0 a/f"}, do: []func(*Editor) error{rm("/a", false, false), mkfile("/a", "x")},
		want: []string{"5 . 755 0:0", `0 a 600 0:0 1970-01-01T00:00:05Z "x"`}},
	{name: "rm and make again", base: []string{"0 a"}, do: []func(*Editor) error{rm("/a", false, false), mkfile("/a", "x"), rm("/a", false, false)},
		want: []string{"5 . 755 0:0", "w a"}},
}

// Each operation leaves the layer that BuildKit's would: parents as they are
// in the base, whiteouts only for what is in the base, opaque directories only
// where a directory was replaced.
func TestEditor(t *testing.T) {
	for _, tc := range editCases {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			base := planned(t, tc.base...)
			e := NewEditor(base)
			e.Now = time.Unix(0, 0)
			var err error
			for _, do := range tc.do {
				if err = do(e); err != nil {
					break
				}
			}
			if err != nil || tc.err != "" {
				if err == nil || tc.err == "" || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			got := describeFiles(t, e.Entries())
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("layer (-want +got):\n%s", diff)
			}
			checkLayer(t, base, e)
		})
	}
}

// describeFiles is describe with times for regular files alone.
func describeFiles(t testing.TB, entries layer.Entries) []string {
	t.Helper()
	var lines []string
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, describeEntry(t, e, e.Type == layer.Regular))
	}
	return lines
}

// A clone and its original don't see each other's changes, nor do hard links
// across them.
func TestEditorClone(t *testing.T) {
	src := planned(t, "0 f x", "1 g f")
	a := NewEditor(planned(t, "5 d"))
	if err := a.Copy(t.Context(), src, &pb.FileActionCopy{Src: "/", Dest: "/d", Mode: -1, Timestamp: -1, DirCopyContents: true}, nil); err != nil {
		t.Fatal(err)
	}
	before := describe(t, Walk(a, "."), false)
	b := a.Clone()
	if err := errors.Join(rm("/d/f", false, false)(b), mkfile("/d/new", "n")(b)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, describe(t, Walk(a, "."), false)); diff != "" {
		t.Errorf("the original changed:\n%s", diff)
	}
	want := []string{"5 . 755 0:0", "5 d 755 0:0", `0 d/g 644 0:0 "x"`, `0 d/new 600 0:0 "n"`}
	if diff := cmp.Diff(want, describe(t, Walk(b, "."), false)); diff != "" {
		t.Errorf("clone:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"5 . 755 0:0", "5 d 755 0:0", `0 d/f 644 0:0 "x"`, "1 d/g 644 0:0 -> d/f"}, describe(t, a.Entries(), false)); diff != "" {
		t.Errorf("original's layer:\n%s", diff)
	}
}

// Copying a tree into itself takes what was there before.
func TestCopyIntoItself(t *testing.T) {
	e := NewEditor(planned(t, "5 a", "0 a/f x"))
	if err := e.Copy(t.Context(), e, &pb.FileActionCopy{Src: "/", Dest: "/a/sub", Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true}, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"5 . 755 0:0", "5 a 755 0:0", "5 a/sub 755 0:0", "5 a/sub/a 755 0:0", `0 a/sub/a/f 644 0:0 "x"`}
	if diff := cmp.Diff(want, describe(t, e.Entries(), false)); diff != "" {
		t.Errorf("layer:\n%s", diff)
	}
}

// Attributes in which overlayfs keeps notes never enter a layer, wherever they
// come from: they would hide files of lower layers.
func TestCopyDropsOverlayNotes(t *testing.T) {
	src := planned(t, "5 d")
	ent, _ := src.Lstat("d")
	ent.Xattrs = map[string]string{"trusted.overlay.opaque": "y", "user.overlay.redirect": "/etc", "security.selinux": "s", "user.mine": "1"}
	e := NewEditor(planned(t, "5 d", "0 d/f"))
	if err := e.Copy(t.Context(), src, copyAllTo("/"), nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"5 . 755 0:0", `5 d 755 0:0 user.mine="1"`}
	if diff := cmp.Diff(want, describe(t, e.Entries(), false)); diff != "" {
		t.Errorf("layer:\n%s", diff)
	}
}

func copyAllTo(dest string) *pb.FileActionCopy {
	return &pb.FileActionCopy{Src: "/", Dest: dest, Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true, FollowSymlink: true}
}

// A cancelled copy ends with the context's error and an untouched layer isn't
// promised, but no panic.
func TestCopyCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := NewEditor(Empty()).Copy(ctx, planned(t, "0 f x"), copyAllTo("/"), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Mount points that are missing are made, and nothing else changes; links in
// targets stay inside the tree.
func TestStubs(t *testing.T) {
	root := planned(t, "5 a:711", "0 file", "2 out /../../a", "5 run", "2 var /run")
	for _, tc := range []struct {
		targets []Target
		want    []string
	}{
		{[]Target{{Path: "/a"}, {Path: "/file", File: true}, {Path: "/"}}, nil},
		{[]Target{{Path: "/a/b/c"}}, []string{"5 . 755 0:0", "5 a 711 0:0", "5 a/b 755 0:0", "5 a/b/c 755 0:0"}},
		{[]Target{{Path: "out/x", File: true}}, []string{"5 . 755 0:0", "5 a 711 0:0", `0 a/x 644 0:0 ""`}},
		{[]Target{{Path: "/var/lock"}, {Path: "/run/secrets/k", File: true}},
			[]string{"5 . 755 0:0", "5 run 755 0:0", "5 run/lock 755 0:0", "5 run/secrets 755 0:0", `0 run/secrets/k 644 0:0 ""`}},
	} {
		if diff := cmp.Diff(tc.want, describe(t, Stubs(root, tc.targets), false)); diff != "" {
			t.Errorf("%v:\n%s", tc.targets, diff)
		}
	}
	for _, err := range Stubs(root, []Target{{Path: "/file/x"}}) {
		if err == nil {
			t.Error("a mount point below a file")
		}
	}
}

func id(n uint32) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: n}} }
func named(s string) *pb.UserOpt {
	return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: s}}}
}

// Owners are resolved by BuildKit's rules, in files that can't hang or fill
// the memory.
func TestLookupOwner(t *testing.T) {
	tree := planned(t, "5 etc", "0 real u:x:10:20::/:/bin/sh", "2 etc/passwd ../real", "0 etc/group g:x:30:")
	for _, tc := range []struct {
		user, group *pb.UserOpt
		want        Owner
	}{
		{id(5), nil, Owner{5, 5}},
		{id(5), id(6), Owner{5, 6}},
		{nil, id(6), Owner{0, 6}},
		{named("u"), nil, Owner{10, 20}},
		{named("u"), named("g"), Owner{10, 30}},
		{named("nobody"), named("none"), Owner{0, 0}},
		{named("10"), nil, Owner{0, 0}},
	} {
		got, err := LookupOwner(&pb.ChownOpt{User: tc.user, Group: tc.group}, tree, tree)
		if err != nil || *got != tc.want {
			t.Errorf("%v:%v: %v, %v; want %v", tc.user, tc.group, got, err, tc.want)
		}
	}
	if o, err := LookupOwner(nil, nil, nil); o != nil || err != nil {
		t.Errorf("no owner: %v, %v", o, err)
	}
	opt := &pb.ChownOpt{User: named("u")}
	for _, spec := range []string{"6 etc/passwd", "5 etc/passwd", "2 etc/passwd passwd"} {
		if o, err := LookupOwner(opt, planned(t, spec), nil); err == nil {
			t.Errorf("%s: %v", spec, o)
		}
	}
	if o, err := LookupOwner(opt, Empty(), nil); err != nil || *o != (Owner{}) {
		t.Errorf("without a file: %v, %v", o, err)
	}
	if _, err := LookupOwner(opt, nil, nil); err == nil {
		t.Error("no tree")
	}
	big := planned(t, "0 etc/passwd x")
	ent, _ := big.Lstat("etc/passwd")
	ent.Size = maxUserFile + 1
	if _, err := LookupOwner(opt, big, nil); err == nil || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("giant file: %v", err)
	}
}

// Files are read through links in the tree, and nothing else than a bounded
// regular file is.
func TestReadFile(t *testing.T) {
	tree := planned(t, "0 d/f hello", "2 l /d/f", "6 fifo", "3 dev", "2 loop loop", "0 empty")
	for p, want := range map[string]string{"/d/f": "hello", "l": "hello", "/../l": "hello", "empty": ""} {
		if got, err := ReadFile(tree, p, 5); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	for p, want := range map[string]error{"fifo": ErrNotRegular, "dev": ErrNotRegular, "d": ErrNotRegular, "none": fs.ErrNotExist} {
		if _, err := ReadFile(tree, p, 5); !errors.Is(err, want) {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []string{"loop", "d/f/x"} {
		if _, err := ReadFile(tree, p, 5); err == nil {
			t.Errorf("%s was read", p)
		}
	}
	if _, err := ReadFile(tree, "l", 4); err == nil || !strings.Contains(err.Error(), "exceeds 4 bytes") {
		t.Errorf("too big: %v", err)
	}
}

// The difference of two trees, applied to the lower, gives the upper.
func TestDiff(t *testing.T) {
	lower := planned(t, "5 a", "0 a/same x", "0 a/changed 1", "0 a/gone x", "5 b", "0 b/f", "0 file", "5 same", "0 same/f x", "5 dir")
	upper := planned(t, "5 a", "0 a/same x", "0 a/changed 2", "0 a/new n", "1 a/new2 a/new", "0 b", "5 file", "0 file/in x", "5 same", "0 same/f x", "5 dir:700")
	want := []string{
		"5 . 755 0:0", "5 a 755 0:0", `0 a/changed 644 0:0 "2"`, "w a/gone", `0 a/new 644 0:0 "n"`, "1 a/new2 644 0:0 -> a/new",
		`0 b 644 0:0 ""`, "5 dir 700 0:0", "5 file 755 0:0", `0 file/in 644 0:0 "x"`,
	}
	if diff := cmp.Diff(want, describe(t, Diff(lower, upper), false)); diff != "" {
		t.Errorf("layer:\n%s", diff)
	}
	if got := describe(t, Diff(upper, upper), false); got != nil {
		t.Errorf("of equal trees: %v", got)
	}
	l, err := PlanLayer(Diff(lower, upper))
	if err != nil {
		t.Fatal(err)
	}
	got := describe(t, Walk(NewView(Layer{lower.layers[0]}, l), "."), false)
	if diff := cmp.Diff(describe(t, Walk(upper, "."), false), got); diff != "" {
		t.Errorf("lower with the layer:\n%s", diff)
	}
}
