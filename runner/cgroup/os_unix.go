//go:build unix

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// gone reports that a group, or the process that was asked about, ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ESRCH)
}

func isBusy(err error) bool     { return errors.Is(err, syscall.EBUSY) }
func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }

// removeDir is rmdir(2), which os.Remove tries only after unlink(2).
func removeDir(dir string) error {
	if err := syscall.Rmdir(dir); err != nil {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// writable reports whether this process may write to a file.
func writable(name string) bool {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
