//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const everyKey = `
-- Dockerfile --
FROM busybox AS all
COPY . /c
RUN cd /c && find . | sort | while read -r f; do stat -c '%n %f %u %g' "$f"; readlink "$f" || cat "$f" 2>/dev/null; true; done > /state

FROM busybox AS some
RUN --mount=type=bind,target=/m,source=sub cd /m && find . | sort | while read -r f; do stat -c '%n %f' "$f"; readlink "$f" || cat "$f" 2>/dev/null; true; done > /bind

FROM busybox
COPY --from=all /state /
COPY --from=some /bind /
COPY Dockerfile sub/*.txt a* /w/
COPY --link sub /linked
COPY --from=all /c/sub /again
RUN --mount=type=bind,from=all,source=/c,target=/c find /w /again /c | sort | xargs stat -c '%n %f %u %g %h' > /last
-- sub/one.txt --
one
-- sub/two.txt --
two
-- sub/deep/three --
three
-- a --
a
`

// Whatever changes in a context, a build that goes on from the cache gives
// what a build without any cache gives: no step is taken for another.
func TestIncrementalEqualsCold(t *testing.T) {
	needContainers(t)
	rounds := 20
	if testing.Short() {
		rounds = 6
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BK_TEST_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BK_TEST_SEED=%d", seed)
	m := mutator{rand.New(rand.NewPCG(seed, 1))}
	s := newSite(t, everyKey)
	s.env = []string{"SOURCE_DATE_EPOCH=1"}
	args := []string{base(t, "busybox"), "-q", "-o", "type=image,compression=uncompressed"}
	warm := s.result(args)
	for i := range rounds {
		var done []string
		for range 1 + m.IntN(3) {
			done = append(done, m.mutate(t, s.dir))
		}
		cold := s.in("cold")
		if err := os.RemoveAll(cold.root); err != nil {
			t.Fatal(err)
		}
		before := warm
		warm = s.result(args)
		if want := cold.result(args); warm != want {
			t.Fatalf("round %d, after %q: from the cache %s\nwithout %s\nbefore %s", i, done, warm, want, before)
		}
	}
	s.verify()
}

// result is the image that a build gives, or why it gives none.
func (s *site) result(args []string) string {
	o := s.run(append([]string{"build", "."}, args...)...)
	if o.code == 0 {
		return o.stdout
	}
	_, message, _ := strings.Cut(o.stderr, "ERROR: ")
	return fmt.Sprintf("exit code %d: %s", o.code, message)
}

// mutator changes contexts at random.
type mutator struct{ *rand.Rand }

// mutate changes something in a directory and says what.
func (m mutator) mutate(t *testing.T, dir string) string {
	t.Helper()
	names := []string{"a", "ab", "sub/one.txt", "sub/two.txt", "sub/new.txt", "sub/deep/three", "sub/deep/four", "sub/link", "other"}
	name := names[m.IntN(len(names))]
	path := filepath.Join(dir, name)
	kinds := []string{"write", "write", "same", "chmod", "remove", "link", "dir", "touch", "hardlink", "owner", "ignore", "sub", "swap"}
	kind := kinds[m.IntN(len(kinds))]
	if err := m.apply(kind, dir, path); err != nil {
		t.Fatalf("%s %s: %v", kind, name, err)
	}
	return kind + " " + name
}

func (m mutator) apply(kind, dir, path string) error {
	// Something that the Dockerfile names is always there.
	for _, name := range []string{"sub/keep.txt", "akeep"} {
		keep := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(keep), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(keep, nil, 0o644); err != nil {
			return err
		}
	}
	old, _ := os.ReadFile(path)
	if info, err := os.Lstat(path); kind == "chmod" || kind == "touch" || kind == "owner" || kind == "same" {
		if err != nil || info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
	} else if kind != "ignore" && kind != "swap" {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	switch kind {
	case "write":
		return os.WriteFile(path, []byte(strings.Repeat("x", m.IntN(3))+fmt.Sprint(m.IntN(10))), 0o644)
	case "same": // another file with the same bytes
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.WriteFile(path, old, 0o644)
	case "chmod":
		return os.Chmod(path, []os.FileMode{0o755, 0o644, 0o700, 0o755 | os.ModeSetuid, 0o777 | os.ModeSticky}[m.IntN(5)])
	case "link":
		return os.Symlink([]string{"a", "one.txt", "../a", "/nowhere", "deep"}[m.IntN(5)], path)
	case "dir":
		return os.Mkdir(path, []os.FileMode{0o755, 0o700}[m.IntN(2)])
	case "touch":
		then := time.Unix(int64(1e9+m.IntN(1e6)), 0)
		return os.Chtimes(path, then, then)
	case "hardlink":
		return os.Link(filepath.Join(dir, "Dockerfile"), path)
	case "owner": // not kept: what is copied belongs to root
		return syscall.Lchown(path, m.IntN(3), m.IntN(3))
	case "ignore":
		return os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte([]string{"", "other\n", "**/deep\n!sub/deep/four\n", "a\n", "sub/link\n"}[m.IntN(5)]), 0o644)
	case "swap": // contents change places, names and sizes stay
		a, b := filepath.Join(dir, "sub/keep.txt"), filepath.Join(dir, "akeep")
		return exchange(a, b, m.IntN(2) == 0)
	}
	return nil // removed
}

func exchange(a, b string, again bool) error {
	if err := os.WriteFile(a, []byte("1"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(b, []byte("2"), 0o644); err != nil || !again {
		return err
	}
	if err := os.Rename(a, a+".tmp"); err != nil {
		return err
	}
	if err := os.Rename(b, a); err != nil {
		return err
	}
	return os.Rename(a+".tmp", b)
}

// Everything that a step's result depends on is part of its key.
func TestNoFalseHits(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
ARG FROM_ARG=none
ENV FROM_ENV=1
COPY f /f
RUN echo step > /step
-- f --
f
`)
	read := func() string {
		b, err := os.ReadFile(filepath.Join(s.dir, "Dockerfile"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	original := read()
	flag := base(t, "busybox")
	replace := func(old, new string) func() {
		return func() {
			s.write("-- Dockerfile --\n" + strings.Replace(original, old, new, 1))
		}
	}
	for _, tt := range []struct {
		name   string
		change func()
		args   []string
		want   []string // steps that run; they were not run before
	}{
		{"nothing", func() {}, nil, nil},
		{"the command", replace("echo step", "echo other"), nil, []string{"RUN echo other"}},
		{"the form", replace("RUN echo step > /step", `RUN ["/bin/sh", "-ec", "echo step > /step"]`), nil, []string{`RUN ["/bin/sh"`}},
		{"the shell", replace("RUN echo", "SHELL [\"/bin/sh\", \"-xc\"]\nRUN echo"), nil, []string{"RUN echo step"}},
		{"the environment", replace("FROM_ENV=1", "FROM_ENV=2"), nil, []string{"RUN echo step"}},
		{"an argument", func() {}, []string{"--build-arg=FROM_ARG=given"}, []string{"RUN echo step"}},
		{"the user", replace("RUN echo", "USER 0:1\nRUN echo"), nil, []string{"RUN echo step"}},
		{"the directory", replace("RUN echo", "WORKDIR /etc\nRUN echo"), nil, []string{"WORKDIR /etc", "RUN echo step"}},
		{"the network", replace("RUN echo", "RUN --network=none echo"), nil, []string{"RUN --network=none echo step"}},
		{"the owner of a copy", replace("COPY f", "COPY --chown=3:4 f"), nil, []string{"COPY --chown=3:4 f", "RUN echo step"}},
		{"the mode of a copy", replace("COPY f", "COPY --chmod=700 f"), nil, []string{"COPY --chmod=700 f", "RUN echo step"}},
		{"the place of a copy", replace("/f", "/g"), nil, []string{"COPY f /g", "RUN echo step"}},
		{"the name in the context", replace("COPY f", "COPY ./Dockerfile"), nil, []string{"COPY ./Dockerfile", "RUN echo step"}},
		{"hosts", func() {}, []string{"--add-host=name:1.2.3.4"}, []string{"RUN echo step"}},
		{"shared memory", func() {}, []string{"--shm-size=1m"}, []string{"RUN echo step"}},
		{"limits", func() {}, []string{"--ulimit=nofile=100:100"}, []string{"RUN echo step"}},
		{"a mount", replace("RUN echo", "RUN --mount=type=tmpfs,target=/t echo"), nil, []string{"RUN --mount=type=tmpfs"}},
		{"an order", replace("COPY f /f\nRUN echo step > /step", "RUN echo step > /step\nCOPY f /f"), nil, []string{"RUN echo step", "COPY f /f"}},
		{"the bytes", func() { s.write("-- f --\nchanged\n") }, nil, []string{"COPY f", "RUN echo step"}},
		{"all as before", func() { s.write("-- f --\nf\n") }, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			replace("", "")()
			tt.change()
			out := s.build(append([]string{flag}, tt.args...)...)
			if tt.name == "nothing" {
				return // the first build
			}
			checkExecuted(t, out, tt.want)
		})
	}
}
