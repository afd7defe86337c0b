//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const storedBuild = `
-- Dockerfile --
FROM busybox AS made
RUN mkdir /out && echo made > /out/f
FROM busybox
COPY f /f
COPY --from=made /out/f /g
RUN cat /f /g > /h
-- f --
f
`

// A store that lost files, or has torn ones, is not a reason to fail or to
// build something else: what is missing is made again.
func TestDamagedStore(t *testing.T) {
	needContainers(t)
	flag := base(t, "busybox")
	s := newSite(t, storedBuild)
	s.env = []string{"SOURCE_DATE_EPOCH=1"}
	want := s.build(flag, "-q", "-t", "app").stdout
	remove := func(name string) error { return os.RemoveAll(name) }
	empty := func(name string) error { return os.Truncate(name, 0) }
	half := func(name string) error {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		return os.Truncate(name, info.Size()/2)
	}
	for _, tt := range []struct {
		pattern string
		kinds   []func(string) error
	}{
		{"actions/*/*", []func(string) error{remove, empty, half}},
		{"actions", []func(string) error{remove}},
		{"snapshots/*", []func(string) error{remove}},
		{"snapshots/*/fs", []func(string) error{remove}},
		{"snapshots/*/packed-*", []func(string) error{remove, empty, half}},
		{"snapshots", []func(string) error{remove}},
		{"files/*", []func(string) error{remove, empty, half}},
		{"chunks/*", []func(string) error{remove, empty, half}},
		{"blobs/sha256/*", []func(string) error{remove, empty, half}},
		{"blobs", []func(string) error{remove}},
		{"index.json", []func(string) error{remove}},
		{"tmp", []func(string) error{remove}},
		{"lock", []func(string) error{remove}},
	} {
		for kind, damage := range tt.kinds {
			t.Run(fmt.Sprint(tt.pattern, " ", kind), func(t *testing.T) {
				list, err := filepath.Glob(filepath.Join(s.root, tt.pattern))
				if err != nil || len(list) == 0 {
					t.Fatalf("nothing in the store is called %s (%v)", tt.pattern, err)
				}
				// All of them, and one of them.
				for _, some := range [][]string{list, list[:min(1, len(list))]} {
					damaged := *s
					damaged.t = t
					top := t.TempDir()
					damaged.root = filepath.Join(top, "store")
					program(t, "cp", "-a", s.root, damaged.root)
					for _, name := range some {
						rel, _ := filepath.Rel(s.root, name)
						if err := damage(filepath.Join(damaged.root, rel)); err != nil {
							t.Fatal(err)
						}
					}
					out := damaged.run("build", ".", flag, "-q", "-t", "app", "-o", "type=image", "-o", "type=oci,dest="+filepath.Join(top, "out")+",tar=false")
					if out.code != 0 || out.stdout != want {
						t.Fatalf("%d of %d damaged: exit code %d, %s, want %s\n%s", len(some), len(list), out.code, out.stdout, want, out.stderr)
					}
					theImage(t, filepath.Join(top, "out"))
					imagesOf(t, damaged.root, "app")
				}
			})
		}
	}
}

// Processes may write names into one layout directory at the same time.
func TestSharedLayoutDirectory(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nARG N\nCOPY f /$N\n-- f --\nf\n")
	// A process that was killed may have left the beginning of a layout.
	if err := os.MkdirAll(s.path("out/blobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	const builds = 8
	var wg sync.WaitGroup
	for i := range builds {
		wg.Go(func() {
			o := s.run("build", ".", fmt.Sprintf("--build-arg=N=%d", i/2), "-t", fmt.Sprintf("app:%d", i), "-o", "type=oci,dest=../out,tar=false")
			if o.code != 0 {
				t.Errorf("build %d: %s", i, o.stderr)
			}
		})
	}
	wg.Wait()
	for i := range builds {
		if t.Failed() {
			return
		}
		images := imagesOf(t, s.path("out"), fmt.Sprintf("app:%d", i))
		if files := images[0].files(t, 0); len(files) != 1 || files[0] != fmt.Sprint(i/2) {
			t.Errorf("app:%d holds %q", i, files)
		}
	}
}

// What was pruned is made again; what has a name stays.
func TestPruneAndBuildAgain(t *testing.T) {
	needContainers(t)
	flag := base(t, "busybox")
	s := newSite(t, storedBuild)
	s.env = []string{"SOURCE_DATE_EPOCH=1"}
	want := s.build(flag, "-q", "-t", "app").stdout
	s.must("cache", "prune")
	imagesOf(t, s.root, "app")
	s.verify()
	if got := s.build(flag, "-q", "-t", "app").stdout; got != want {
		t.Errorf("after pruning %s, before %s", got, want)
	}
	s.must("image", "rm", "app")
	s.must("cache", "prune")
	if left, _ := filepath.Glob(filepath.Join(s.root, "blobs", "sha256", "*")); len(left) > 0 {
		t.Errorf("blobs that nothing needs stay: %q", left)
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "snapshots", "*")); len(left) > 0 {
		t.Errorf("layers that nothing needs stay: %q", left)
	}
	s.verify()
}

// A blob of the store whose bytes changed is found by "bk cache verify", and
// when it is copied to an archive: no archive with wrong bytes is ever complete.
// A layout directory shares the store's files and is not read again.
func TestFlippedBlob(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY f /\n-- f --\n"+string(fmt.Appendln(nil, randomBytes(1000)))+"\n")
	s.env = []string{"SOURCE_DATE_EPOCH=1"} // for what is packed again
	want := s.build("-q", "-t", "app").stdout
	list, err := filepath.Glob(filepath.Join(s.root, "blobs", "sha256", "*"))
	if err != nil || len(list) != 3 {
		t.Fatalf("%d blobs, %v", len(list), err)
	}
	for i, name := range list {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		flipped := append([]byte(nil), b...)
		flipped[len(b)/2] ^= 1
		// Another file: the blob may be a hard link.
		if err := errors.Join(os.Remove(name), os.WriteFile(name, flipped, 0o444)); err != nil {
			t.Fatal(err)
		}
		if o := s.run("cache", "verify"); o.code != 1 {
			t.Errorf("verify: exit code %d: %s%s", o.code, o.stdout, o.stderr)
		}
		for j, output := range []string{"type=oci,dest=../out%d-%d", "type=docker,dest=../out%d-%d"} {
			o := s.run("build", ".", "-q", "-t", "app", "-o", fmt.Sprintf(output, i, j))
			out := s.path(fmt.Sprintf("out%d-%d", i, j))
			switch info, err := os.Stat(out); {
			case o.code != 0 && err == nil && info.Size() > 0:
				t.Errorf("blob %d, %s: an output is there: %s", i, output, o.stderr)
			case o.code == 0 && o.stdout != want:
				t.Errorf("blob %d, %s: %s, want %s", i, output, o.stdout, want)
			case o.code == 0 && len(filesWith(t, out, string(flipped))) > 0:
				t.Errorf("blob %d, %s: wrong bytes in an output", i, output)
			}
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o444); err != nil {
			t.Fatal(err)
		}
	}
}
