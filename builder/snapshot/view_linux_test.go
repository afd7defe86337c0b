package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// inMounts runs f on a thread with mounts of its own, which end with it.
func inMounts(t *testing.T, f func()) {
	t.Helper()
	needRoot(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // the thread is never given back
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Skipf("no mount namespace: %v", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("make mounts private: %v", err)
			return
		}
		f()
	})
	wg.Wait()
}

// overlay mounts layers, the bottom first, read-only at dir/merged.
func overlay(dir string, layers []string) (string, error) {
	at := filepath.Join(dir, "merged")
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	lower := slices.Clone(layers)
	slices.Reverse(lower)
	return at, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":"))
}

// randomLayer makes a layer of few names, so that layers often meet.
func randomLayer(t *testing.T, dir string, r *rand.Rand) {
	var files []string
	for range 3 + r.IntN(14) {
		p := dir
		for range r.IntN(3) {
			p = filepath.Join(p, name(r))
		}
		if os.MkdirAll(p, 0o755) != nil {
			continue
		}
		files = randomFile(filepath.Join(p, name(r)), files, 0, r)
	}
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if d.IsDir() && p != dir {
			randomDir(p, r)
		}
		return err
	})
	setTimes(t, dir)
}

func name(r *rand.Rand) string { return string("abcd"[r.IntN(4)]) }

func randomFile(p string, files []string, dev uint32, r *rand.Rand) []string {
	switch r.IntN(8) {
	case 0, 1, 2:
		if os.WriteFile(p, []byte(fmt.Sprint(r.IntN(1000)))[:r.IntN(3)], os.FileMode(0o600+r.IntN(0o200))) == nil {
			files = append(files, p)
		}
	case 3:
		os.Symlink([]string{"a", "../b", "/c", "d/x"}[r.IntN(4)], p)
	case 4, 5:
		unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(dev, 0)))
	case 6:
		if len(files) > 0 {
			os.Link(files[r.IntN(len(files))], p)
		}
	case 7:
		os.Mkdir(p, 0o700)
	}
	return files
}

// randomDir makes some directories opaque, and some hold whiteouts that are
// attributes of files.
func randomDir(p string, r *rand.Rand) {
	os.Chmod(p, os.FileMode(0o700+r.IntN(0o100)))
	switch r.IntN(6) {
	case 0:
		unix.Setxattr(p, "trusted.overlay.opaque", []byte("y"), 0)
	case 1:
		unix.Setxattr(p, "trusted.overlay.opaque", []byte("x"), 0)
		w := filepath.Join(p, name(r))
		if f, err := os.OpenFile(w, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			f.Close()
			unix.Setxattr(w, "trusted.overlay.whiteout", []byte("y"), 0)
		}
	}
}

// A View of random stacks shows what the kernel's overlayfs shows: names,
// types, attributes, contents and hard links.
func TestViewLikeOverlayfs(t *testing.T) {
	inMounts(t, func() {
		for seed := range uint64(60) {
			if t.Failed() {
				return
			}
			viewLikeOverlayfs(t, seed)
		}
	})
}

func viewLikeOverlayfs(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	tmp := t.TempDir()
	var dirs []string
	var layers []Layer
	for i := range 2 + r.IntN(5) {
		dir := filepath.Join(tmp, fmt.Sprint(i))
		os.Mkdir(dir, 0o755)
		randomLayer(t, dir, r)
		dirs = append(dirs, dir)
		layers = append(layers, DirLayer(dir))
	}
	at, err := overlay(tmp, dirs)
	if err != nil {
		t.Errorf("mount: %v", err)
		return
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	want := describe(t, Walk(NewView(DirLayer(at)), "."), true)
	got := describe(t, Walk(NewView(layers...), "."), true)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("seed %d (-overlayfs +view):\n%s", seed, diff)
	}
	checkLookups(t, NewView(layers...), NewView(layers...), seed)
	for i := range layers {
		layers[i] = Remember(layers[i])
	}
	checkLookups(t, NewView(layers...), NewView(layers...), seed)
	checkLookups(t, NewView(layers...), NewView(layers...), seed) // from memory
	checkPlans(t, dirs, got, seed)
}

// checkLookups checks that asking for single paths gives what listing gives.
func checkLookups(t *testing.T, listed, asked *View, seed uint64) {
	t.Helper()
	exists := map[string]*layer.Entry{}
	for e, err := range Walk(listed, ".") {
		if err != nil {
			t.Fatal(err)
		}
		exists[e.Path] = e
	}
	var all []string
	for _, a := range "abcd" {
		for _, b := range "abcd" {
			for _, c := range "abcd" {
				all = append(all, string(a), fmt.Sprintf("%c/%c", a, b), fmt.Sprintf("%c/%c/%c", a, b, c))
			}
		}
	}
	for _, p := range all {
		got, err := asked.Lstat(p)
		want := exists[p]
		switch {
		case want == nil && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("seed %d: Lstat(%s) = %v, %v; it isn't there", seed, p, got, err)
		case want != nil && (err != nil || got.Mode != want.Mode || got.Path != p):
			t.Errorf("seed %d: Lstat(%s) = %v, %v; want %v", seed, p, got, err, want)
		}
	}
}

// checkPlans checks that layers show the same tree when they are entries in
// memory.
func checkPlans(t *testing.T, dirs []string, want []string, seed uint64) {
	t.Helper()
	var layers []Layer
	for _, dir := range dirs {
		l, err := PlanLayer(rawEntries(t, &dirLayer{root: dir, notes: layer.OverlayPrefix()}, "."))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	if diff := cmp.Diff(want, describe(t, Walk(NewView(layers...), "."), true)); diff != "" {
		t.Errorf("seed %d (-directories +plans):\n%s", seed, diff)
	}
}

// rawEntries yields a layer's own entries, whiteouts too.
func rawEntries(t *testing.T, l *dirLayer, dir string) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		first := map[any]string{}
		var walk func(dir string)
		walk = func(dir string) {
			d, err := l.open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			names, _ := d.names()
			slices.Sort(names)
			for _, name := range names {
				f, err := d.stat(name)
				if err != nil {
					t.Fatal(err)
				}
				ent := f.ent
				if target, ok := first[f.ino]; ok && f.ino != nil {
					ent = hardlink(ent, target)
				} else {
					first[f.ino] = ent.Path
				}
				yield(ent, nil)
				if ent.Type == layer.Directory {
					walk(ent.Path)
				}
			}
		}
		d, err := l.open(".")
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		root, err := d.stat(".")
		if err != nil {
			t.Fatal(err)
		}
		yield(root.ent, nil)
		walk(".")
	}
}

// A directory whose content overlayfs keeps elsewhere is refused: shown as it
// is it would be wrong.
func TestViewRefusesRedirects(t *testing.T) {
	needRoot(t)
	v, _ := dirView(t, "d a\nx a trusted.overlay.redirect b")
	if _, err := v.ReadDir("."); err == nil || !strings.Contains(err.Error(), "redirect_dir=off") {
		t.Errorf("ReadDir: %v", err)
	}
}

// Contents are read from the layer itself: a path that became a symlink or a
// fifo meanwhile is neither followed nor waited for.
func TestContentIsNotFollowed(t *testing.T) {
	v, dir := dirView(t, "f d/file 12345\nf other 54321")
	ent, err := v.Lstat("d/file")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "d/file")
	for _, swap := range []func() error{
		func() error { return os.Symlink("../other", file) },
		func() error { return unix.Mkfifo(file, 0o600) },
		func() error {
			os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e"))
			return os.Symlink("e", filepath.Join(dir, "d"))
		},
	} {
		os.Remove(file)
		if err := swap(); err != nil {
			t.Fatal(err)
		}
		if r, err := ent.Content.Open(); err == nil {
			r.Close()
			t.Error("opened what isn't the file")
		}
	}
}

// A tree of one layer, seen through a View, has the entries that the layer's
// own walk has: keys and packed layers never disagree about a file.
func TestViewLikeLayerWalk(t *testing.T) {
	needRoot(t)
	for seed := range uint64(30) {
		dir := t.TempDir()
		randomTree(t, dir, rand.New(rand.NewPCG(seed, 4)))
		makeTree(t, dir, "s sock\nf cap x\nx cap user.k v")
		if err := unix.Setxattr(filepath.Join(dir, "cap"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04"+strings.Repeat("\x00", 14)), 0); err != nil {
			t.Fatal(err)
		}
		want := describe(t, layer.Walk(dir), true)
		if diff := cmp.Diff(want, describe(t, Walk(NewView(DirLayer(dir)), "."), true)); diff != "" {
			t.Errorf("seed %d (-layer +view):\n%s", seed, diff)
		}
	}
}

// Where the kernel has no openat2 the same is opened, and no link followed,
// one element at a time.
func TestOpenSteps(t *testing.T) {
	_, dir := dirView(t, "f a/b/c x\nl l a\nl a/m b\nl a/b/n c")
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(base)
	for p, ok := range map[string]bool{"a/b/c": true, "a": true, ".": true, "l/b/c": false, "a/m/c": false, "a/b/n": false, "a/b/c/d": false, "none/x": false} {
		fd, err := openSteps(base, p, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if (err == nil) != ok {
			t.Errorf("%s: %v", p, err)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}
