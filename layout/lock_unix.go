//go:build unix

package layout

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockIndex waits for the exclusive right to replace index.json. The lock file
// has the name that BuildKit's client uses; it is removed again, so a process
// that got the lock looks whether its file is still the one that the name leads
// to, and starts again when it is not.
func (d *Dir) lockIndex() (unlock func(), err error) {
	path := filepath.Join(d.path, indexLock)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openFlags, 0o644)
		if err != nil {
			return nil, fmt.Errorf("lock index.json: %w", err)
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if sameFile(f, path) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
	}
}

// flock takes the exclusive lock, and waits for it.
func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			return err
		}
	}
}

// tryLock takes the exclusive lock when nobody has it; it goes with the file.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// sameFile says whether path leads to the open file f.
func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}
