//go:build linux && (amd64 || arm64)

package trace

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// inRoot asks the kernel where a path leads below a root: the oracle of the
// resolver.
func inRoot(root int, name string, follow bool) (inode, syscall.Errno) {
	how := struct{ flags, mode, resolve uint64 }{oPath | syscall.O_CLOEXEC, 0, 0x10}
	if !follow {
		how.flags |= syscall.O_NOFOLLOW
	}
	n, errno := call(sysOpenat2, fd(root), uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how))
	if errno != 0 {
		return inode{}, errno
	}
	defer syscall.Close(int(n))
	var st syscall.Stat_t
	if err := syscall.Fstat(int(n), &st); err != nil {
		return inode{}, errnoOf(err)
	}
	return key(&st), 0
}

// tree fills a directory with directories, files and links to anywhere, chosen
// by r.
func tree(t testing.TB, root string, r *rand.Rand) {
	t.Helper()
	dirs := []string{root}
	for range 30 {
		at := filepath.Join(dirs[r.IntN(len(dirs))], string(rune('a'+r.IntN(5))))
		var err error
		switch r.IntN(4) {
		case 0:
			if err = os.Mkdir(at, 0o755); err == nil {
				dirs = append(dirs, at)
			}
		case 1:
			if _, errStat := os.Lstat(at); errStat != nil {
				err = os.WriteFile(at, nil, 0o644)
			}
		default:
			err = os.Symlink(somePath(r), at)
		}
		if err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
}

func somePath(r *rand.Rand) string {
	var b strings.Builder
	if r.IntN(3) == 0 {
		b.WriteByte('/')
	}
	for i := range 1 + r.IntN(5) {
		if i > 0 {
			b.WriteString(strings.Repeat("/", 1+r.IntN(8)/7))
		}
		b.WriteString([]string{"a", "b", "c", "d", "e", "..", ".", "none"}[r.IntN(8)])
	}
	if r.IntN(6) == 0 {
		b.WriteByte('/')
	}
	return b.String()
}

// FuzzResolve compares the resolver with the kernel's own, RESOLVE_IN_ROOT, on
// random trees and paths.
func FuzzResolve(f *testing.F) {
	for seed := range int64(60) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		root := t.TempDir()
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		tree(t, root, r)
		n, err := syscall.Open(root, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(n)
		w := walk{view: &view{root: root}}
		for range 100 {
			name, follow := somePath(r), r.IntN(2) == 0
			want, wantErrno := inRoot(n, name, follow)
			if wantErrno == syscall.ENOSYS {
				t.Skip("the kernel has no openat2")
			}
			var got inode
			p, errno := w.resolve("/", name, follow)
			var st syscall.Stat_t
			gotErrno := errno
			if errno == 0 {
				if gotErrno = fstatat(p.host, atSymlinkNofollow, &st); gotErrno == 0 {
					got = key(&st)
				}
			}
			if got != want || gotErrno != wantErrno {
				t.Errorf("seed %d: %q (follow %v) is %v (%v), and in the kernel %v (%v)", seed, name, follow, got, gotErrno, want, wantErrno)
			}
			if errno == 0 && p.host != root && !strings.HasPrefix(p.host, root+"/") {
				t.Errorf("seed %d: %q leads to %s", seed, name, p.host)
			}
		}
	})
}

// FuzzScript: what is read from a script's first line is a part of it.
func FuzzScript(f *testing.F) {
	for _, s := range []string{"#!/bin/sh\n", "#! /bin/sh -e x \n", "#!", "#!\n", "#!  \n", "#!/bin/sh", "#!/a\x00b\n", "#!" + strings.Repeat("x", 300), "#!/a " + strings.Repeat("y", 300), "echo"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		head = head[:min(len(head), scriptHead)]
		interp, arg, ok := readScript(head)
		if !ok && interp+arg != "" {
			t.Errorf("%q isn't a script, but names %q and %q", head, interp, arg)
		}
		if strings.ContainsAny(interp, " \t\n\x00") || strings.ContainsAny(arg, "\n\x00") {
			t.Errorf("%q: interpreter %q, argument %q", head, interp, arg)
		}
		if ok && (!bytes.HasPrefix(head, []byte("#!")) || !bytes.Contains(head, []byte(interp)) || !bytes.Contains(head, []byte(arg))) {
			t.Errorf("%q: interpreter %q, argument %q", head, interp, arg)
		}
	})
}

func TestReadScript(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tt := range []struct {
		line, interp, arg string
		ok                bool
	}{
		{"#!/bin/sh\nrest", "/bin/sh", "", true},
		{"#! \t/bin/sh  -e  x \t\n", "/bin/sh", "-e  x", true},
		{"#!/bin/sh -e", "/bin/sh", "-e", true},
		{"#!/bin/sh -e  ", "/bin/sh", "-e  ", true},
		{"#!", "", "", true}, // the kernel opens the empty name
		{"#! \n", "", "", false},
		{"#!/" + long, "", "", false},
		{"#!/bin/sh " + long, "/bin/sh", long[:scriptHead-10], true},
		{"# !/bin/sh\n", "", "", false},
	} {
		head := []byte(tt.line)
		interp, arg, ok := readScript(head[:min(len(head), scriptHead)])
		if interp != tt.interp || arg != tt.arg || ok != tt.ok {
			t.Errorf("readScript(%.20q) = %q, %q, %v, want %q, %q, %v", tt.line, interp, arg, ok, tt.interp, tt.arg, tt.ok)
		}
	}
}

// FuzzProgram: any bytes are read without a panic, and what is patched names the
// new loader, by the same reader.
func FuzzProgram(f *testing.F) {
	if data, err := os.ReadFile("/bin/ls"); err == nil {
		f.Add(data[:min(len(data), 4096)])
	}
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		p, err := readProgram(file, elfMachine)
		if err != nil || p.interp == "" {
			return
		}
		const loader = "/some/where/ld.so"
		if err := setInterp(file, p, loader); err != nil {
			t.Fatal(err)
		}
		if again, err := readProgram(file, elfMachine); err != nil || again.interp != loader {
			t.Errorf("patched to %q, %v", again.interp, err)
		}
	})
}
