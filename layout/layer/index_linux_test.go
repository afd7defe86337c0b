package layer

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// baseScript makes the tree that the cases of TestChanges change.
const baseScript = `
mkdir -p a/b/c d/e empty && echo 1 > a/f && echo 2 > a/b/f && echo 3 > d/e/f && echo 4 > d/g
ln a/f a/hard && ln -s f a/link && mkfifo a/fifo && mkdir -m 1777 tmp && echo 5 > h1 && ln h1 h2 && ln h1 h3
find . -exec touch -h -d @1000000000 {} +`

// changeCases are what steps do.
var changeCases = map[string]string{
	"nothing":                             "cat a/f; ls -R >/dev/null",
	"new file":                            "echo x > a/b/new",
	"append":                              "echo x >> d/g",
	"truncate":                            ": > d/g",
	"same content and time":               "echo 4 > d/g; touch -d @1000000000 d/g",
	"chmod":                               "chmod 600 d/g",
	"chmod to what it was":                "chmod 644 d/g",
	"chown":                               "chown 5:6 d/e/f; chown -h 7 a/link",
	"chmod of a directory":                "chmod 700 a/b",
	"chmod of a directory to what it was": "chmod 755 a/b",
	"touch":                               "touch d/e/f",
	"touch of a directory":                "touch -d @1100000000 d/e",
	"xattr":                               "setfattr -n user.x -v y d/g; setfattr -n user.d -v y d",
	"remove":                              "rm a/b/f d/g",
	"remove a directory":                  "rm -r a",
	"make and remove":                     "echo x > a/b/new; rm a/b/new",
	"directory again":                     "rm -r a; mkdir a; echo x > a/f",
	"directory again at once":             "rmdir empty; mkdir empty",
	"file to directory":                   "rm d/g; mkdir d/g; echo x > d/g/f",
	"directory to file":                   "rm -r a; echo x > a",
	"file to link":                        "rm d/g; ln -s e d/g",
	"rename":                              "mv d/g d/e/moved",
	"rename over":                         "mv d/g d/e/f",
	"rename and back":                     "mv d/g d/x; mv d/x d/g",
	"replace":                             "cp d/g d/x; mv d/x d/g",
	"new directories":                     "mkdir -p n/e/w; echo x > n/e/w/f; chmod 711 n/e",
	"move a new directory":                "mkdir n; echo x > n/f; mv n d/e/n",
	"move a directory":                    "mv a/b d/e/b",
	"hard link to a new file":             "echo x > n; ln n a/n; ln n d/n",
	"hard link to an old file":            "ln d/g a/g",
	"hard link before it":                 "ln d/g 0",
	"remove a hard link":                  "rm a/hard",
	"remove a hard link of three":         "rm h2",
	"symlink":                             "ln -s nowhere a/dangling; rm a/link; ln -s b a/link",
	"fifo":                                "mkfifo d/fifo; rm a/fifo",
	"device":                              "mknod d/null c 1 3",
	"setuid":                              "cp /bin/true d/s; chmod 4755 d/s",
	"root":                                "chmod 700 .; echo x > new",
	"sparse":                              "truncate -s 10M d/sparse; echo x >> d/sparse",
	"sorted":                              "mkdir a.b a-b; touch a.b/x a-b/x a/x",
}

// What a step leaves in a plain tree is the layer that it leaves in overlayfs:
// digests don't depend on how a build keeps its trees.
func TestChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting overlayfs needs root")
	}
	if _, err := exec.LookPath("setfattr"); err != nil {
		t.Skip("needs setfattr (package attr)")
	}
	for name, script := range changeCases {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			os.Chmod(base, 0o755)
			sh(t, base, baseScript)
			want, err := overlayLayer(t, base, script)
			if err != nil {
				t.Skip(err)
			}
			tree := copyOf(t, base)
			x := index(t, tree)
			sh(t, tree, script)
			if got := describe(t, x.Changes(t.Context()), nil); got != want {
				t.Errorf("changes:\n%s\noverlayfs:\n%s", got, want)
			}
			// The index follows.
			if got := describe(t, x.Changes(t.Context()), nil); strings.Count(got, "\n") > 1 {
				t.Errorf("changes after changes:\n%s", got)
			}
		})
	}
}

// The layer on top of the base is the tree.
func TestChangesApply(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making devices and files of others needs root")
	}
	for name, script := range changeCases {
		t.Run(name, func(t *testing.T) {
			tree := t.TempDir()
			sh(t, tree, baseScript)
			again := copyOf(t, tree)
			x := index(t, tree)
			sh(t, tree, script)
			if _, err := Apply(t.Context(), x.Changes(t.Context()), again, ApplyOptions{Merged: true}); err != nil {
				t.Fatal(err)
			}
			if got, want := describe(t, Walk(again), nil), describe(t, Walk(tree), nil); got != want {
				t.Errorf("base and layer:\n%s\nthe tree itself:\n%s", got, want)
			}
		})
	}
}

// What a step finds mounted, and the places made to mount on, is no change; what
// was covered stays, and what it writes beside is its own.
func TestChangesIgnored(t *testing.T) {
	tree := t.TempDir()
	sh(t, tree, "mkdir -p etc/keep etc/masked gone; echo 1 > etc/masked/f; echo 2 > etc/keep/f")
	x := index(t, tree)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sh(t, tree, "mkdir -p run/secrets run/used; echo secret > run/secrets/s; mv etc/masked aside; mkdir etc/masked; echo other > etc/masked/other")
	for _, p := range []string{".", "etc"} {
		must(x.Touch(p))
	}
	for _, p := range []string{"run", "run/secrets", "run/used", "run/secrets/s", "aside"} {
		must(x.Stub(p))
	}
	for _, p := range []string{"run/secrets/s", "etc/masked", "aside"} {
		must(x.Mask(p))
	}
	sh(t, tree, "echo x > run/used/new; echo y >> etc/masked/other; mv run/secrets/s etc/stolen; ln etc/stolen etc/keep/stolen")
	got := describe(t, x.Changes(t.Context()), func(e *Entry) bool { return e.Path == "etc" || e.Path == "etc/keep" || e.Path == "run/secrets" })
	paths := ""
	for line := range strings.Lines(got) {
		paths += strings.Fields(line)[0] + " "
	}
	if want := ". run run/used run/used/new "; paths != want {
		t.Errorf("changed paths %q, want %q", paths, want)
	}
	if x.IsStub("run") || x.IsStub("run/used") || !x.IsStub("aside") {
		t.Error("a stub counts as one until something is put into it")
	}
	if x.Exact() {
		t.Error("a file that was moved away from a masked path is in no layer, but in the tree")
	}
	sh(t, tree, "rm -r run etc/stolen etc/keep/stolen etc/masked; mv aside etc/masked")
	x.Unmask()
	must(x.Touch("etc/masked"))
	for _, p := range []string{"aside", ".", "etc", "etc/keep"} {
		must(x.Touch(p))
	}
	if got := describe(t, x.Changes(t.Context()), nil); !strings.Contains(got, "run w") || strings.Count(got, "\n") != 2 {
		t.Errorf("after everything is back only run is gone:\n%s", got)
	}
}

// Every change of a file is seen, however soon it follows on the index, and
// though its size and its time are what they were.
func TestChangesAtOnce(t *testing.T) {
	tree := t.TempDir()
	name := filepath.Join(tree, "f")
	for i := range 100 {
		if err := os.WriteFile(name, []byte(fmt.Sprint(i%10)), 0o644); err != nil {
			t.Fatal(err)
		}
		x := index(t, tree)
		x.Settle()
		if err := os.WriteFile(name, []byte(fmt.Sprint((i+1)%10)), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := describe(t, x.Changes(t.Context()), nil); !strings.Contains(got, "f 0") {
			t.Fatalf("round %d: the second content is not seen:\n%s", i, got)
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	tree := b.TempDir()
	for i := range 1000 {
		dir := filepath.Join(tree, fmt.Sprint("d", i%100), fmt.Sprint("e", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 9 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", j)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	x, err := NewIndex(b.Context(), tree)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range x.Changes(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func index(t *testing.T, tree string) *Index {
	t.Helper()
	x, err := NewIndex(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	x.Settle()
	return x
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	tree := t.TempDir()
	if _, err := Apply(t.Context(), Walk(dir), tree, ApplyOptions{Merged: true}); err != nil {
		t.Fatal(err)
	}
	return tree
}

// overlayLayer runs the script over base in overlayfs, mounted as the runner
// does, and describes the layer.
func overlayLayer(t *testing.T, base, script string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	merged := filepath.Join(dir, "merged")
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=nofollow,metacopy=off,index=off", base, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		return "", fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	sh(t, merged, script)
	return describe(t, Walk(filepath.Join(dir, "upper")), func(e *Entry) bool {
		// A mark where there is nothing to hide; see the builder.
		if st, err := os.Lstat(filepath.Join(base, e.Path)); err != nil || !st.IsDir() {
			e.Opaque = false
		}
		return false
	}), nil
}

// describe prints entries; times that are not from the base's script are "now".
func describe(t *testing.T, entries Entries, skip func(*Entry) bool) string {
	t.Helper()
	var b strings.Builder
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		if skip != nil && skip(e) {
			continue
		}
		mtime := e.ModTime.UTC().Format(time.RFC3339)
		if time.Since(e.ModTime) < time.Hour || e.Path == "." {
			mtime = "now"
		}
		fmt.Fprintf(&b, "%s %c %o %d:%d %s", e.Path, e.Type, e.Mode, e.UID, e.GID, mtime)
		if e.Content != nil {
			r, err := e.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, " %d bytes %.10q", len(text), strings.TrimLeft(string(text), "\x00"))
		}
		fmt.Fprintf(&b, " %s %v %v %d:%d\n", e.Link, e.Opaque, e.Xattrs, e.DevMajor, e.DevMinor)
	}
	return b.String()
}

// Where overlayfs refuses its own whiteouts, on itself, there are those in the
// form of attributes.
func TestWhiteoutsOnOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting overlayfs needs root")
	}
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Skip("mount overlay: ", err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	entries := func(yield func(*Entry, error) bool) {
		_ = yield(&Entry{Path: ".", Type: Directory, Mode: 0o755}, nil) &&
			yield(&Entry{Path: "d", Type: Directory, Mode: 0o755}, nil) &&
			yield(&Entry{Path: "d/gone", Type: Whiteout}, nil) &&
			yield(&Entry{Path: "gone", Type: Whiteout}, nil) &&
			yield(&Entry{Path: "o", Type: Directory, Mode: 0o755}, nil) &&
			yield(&Entry{Path: "o/back", Type: Whiteout}, nil) &&
			yield(&Entry{Path: "o/back", Type: Regular, Mode: 0o644}, nil) &&
			yield(&Entry{Path: "o/gone", Type: Whiteout}, nil) &&
			yield(&Entry{Path: "o", Type: Directory, Mode: 0o755, Opaque: true}, nil)
	}
	layer := filepath.Join(merged, "layer")
	if _, err := Apply(t.Context(), entries, layer, ApplyOptions{}); err != nil {
		t.Skip("the overlay takes no marks of another: ", err)
	}
	got := ""
	for e, err := range Walk(layer) {
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%c %s %v\n", e.Type, e.Path, e.Opaque)
	}
	if want := "5 . false\n5 d false\nw d/gone false\nw gone false\n5 o true\n0 o/back false\n"; got != want {
		t.Errorf("layer:\n%swant:\n%s", got, want)
	}
}
