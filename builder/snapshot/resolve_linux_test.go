package snapshot

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelResolve asks the kernel where a path leads when dir is the root.
func kernelResolve(dir, p string, flags int) (string, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, p, &unix.OpenHow{Flags: uint64(unix.O_PATH | flags), Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	return clean(strings.TrimPrefix(at, real)), nil
}

// linkTree makes directories and links of few names, with chains, loops and
// ways out.
func linkTree(dir string, r *rand.Rand) {
	targets := []string{"a", "b", "../a", "../../../b", "/c", "/a/b", "b/..", "d/../c", "/", ".", "..", "/../a/./b", "c/d"}
	for range 4 + r.IntN(12) {
		p := dir
		for range r.IntN(3) {
			p = filepath.Join(p, name(r))
		}
		if rel, _ := filepath.Rel(dir, p); strings.HasPrefix(rel, "..") {
			continue
		}
		at, err := kernelResolve(dir, strings.TrimPrefix(p, dir)+"/", unix.O_DIRECTORY)
		if err != nil {
			if os.Mkdir(p, 0o755) != nil {
				continue
			}
		} else {
			p = filepath.Join(dir, at)
		}
		switch r.IntN(3) {
		case 0:
			os.Mkdir(filepath.Join(p, name(r)), 0o755)
		case 1:
			os.WriteFile(filepath.Join(p, name(r)), nil, 0o644)
		case 2:
			os.Symlink(targets[r.IntN(len(targets))], filepath.Join(p, name(r)))
		}
	}
}

// Resolve leads where the kernel leads a process whose root is the tree:
// nowhere else, and to the same error.
func TestResolveLikeKernel(t *testing.T) {
	found := 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 5))
		dir := t.TempDir()
		linkTree(dir, r)
		v := NewView(DirLayer(dir))
		for range 40 {
			var elems []string
			for range 1 + r.IntN(4) {
				elems = append(elems, []string{"a", "b", "c", "d", "..", ".", ""}[r.IntN(7)])
			}
			p := strings.Join(elems, "/")
			if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "" {
				continue // the kernel insists on directories then
			}
			flags, how := 0, ResolveFlags(0)
			if r.IntN(2) == 0 {
				flags, how = unix.O_NOFOLLOW, NoFollow
			}
			want, wantErr := kernelResolve(dir, p, flags)
			got, err := Resolve(v, p, how)
			if wantErr == nil {
				found++
			}
			var errno syscall.Errno
			if got != want || (err == nil) != (wantErr == nil) || err != nil && (!errors.As(err, &errno) || errno != wantErr) {
				t.Errorf("seed %d: %q (flags %d): %q, %v; the kernel's %q, %v", seed, p, how, got, err, want, wantErr)
			}
		}
	}
	if found < 500 {
		t.Errorf("only %d paths were found: the test says little", found)
	}
}
