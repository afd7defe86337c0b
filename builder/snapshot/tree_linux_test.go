package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips tests that make owners, devices or trusted attributes.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes owners and devices")
	}
}

// makeTree makes files below dir as a spec says, one a line:
//
//	d PATH [MODE [UID:GID]]        f PATH CONTENT [MODE [UID:GID]]
//	l PATH TARGET                  h PATH EXISTING
//	p PATH   s PATH                c PATH MAJOR MINOR
//	x PATH KEY VALUE
//
// All times are set to a time that depends on the path alone.
func makeTree(t testing.TB, dir, spec string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(spec, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			if err := makeFile(dir, f); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	setTimes(t, dir)
}

func makeFile(dir string, f []string) error {
	p := filepath.Join(dir, f[1])
	os.MkdirAll(filepath.Dir(p), 0o755)
	arg := func(i int, def string) string {
		if i < len(f) {
			return f[i]
		}
		return def
	}
	switch f[0] {
	case "d":
		os.Mkdir(p, 0o755)
		return setMode(p, arg(2, "755"), arg(3, "0:0"))
	case "f":
		if err := os.WriteFile(p, []byte(f[2]), 0o644); err != nil {
			return err
		}
		return setMode(p, arg(3, "644"), arg(4, "0:0"))
	case "l":
		return os.Symlink(f[2], p)
	case "h":
		return os.Link(filepath.Join(dir, f[2]), p)
	case "p":
		return unix.Mkfifo(p, 0o640)
	case "s":
		return unix.Mknod(p, unix.S_IFSOCK|0o600, 0)
	case "c":
		major, _ := strconv.Atoi(f[2])
		minor, _ := strconv.Atoi(f[3])
		return unix.Mknod(p, unix.S_IFCHR|0o620, int(unix.Mkdev(uint32(major), uint32(minor))))
	case "x":
		return unix.Lsetxattr(p, f[2], []byte(f[3]), 0)
	}
	return fmt.Errorf("unknown kind")
}

func setMode(p, mode, owner string) error {
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return err
	}
	uid, gid, _ := strings.Cut(owner, ":")
	u, _ := strconv.Atoi(uid)
	g, _ := strconv.Atoi(gid)
	if os.Geteuid() == 0 {
		if err := os.Chown(p, u, g); err != nil {
			return err
		}
	}
	return unix.Chmod(p, uint32(m))
}

// setTimes gives every path a time that depends on the path alone.
func setTimes(t testing.TB, dir string) {
	t.Helper()
	var paths []string
	filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		paths = append(paths, p)
		return err
	})
	for i := len(paths) - 1; i >= 0; i-- {
		rel, _ := filepath.Rel(dir, paths[i])
		sec := int64(1_500_000_000)
		for _, b := range []byte(rel) {
			sec += int64(b) * 1000
		}
		ts := []unix.Timespec{{Sec: sec, Nsec: 5}, {Sec: sec, Nsec: 5}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, paths[i], ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

// dirView returns the view of one unpacked layer made as spec says.
func dirView(t testing.TB, spec string) (*View, string) {
	t.Helper()
	dir := t.TempDir()
	makeTree(t, dir, spec)
	return NewView(DirLayer(dir)), dir
}
