//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"bk.build/bk/runner/spec"
)

// imageUser resolves an image's user with the files of its root, which may
// hold anything: links stay inside of it, and what is no regular file is not
// opened for reading.
func imageUser(rootfs, user string) (spec.User, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return spec.User{}, err
	}
	defer root.Close()
	passwd, err := openUserFile(root, "etc/passwd")
	if err != nil {
		return spec.User{}, err
	}
	defer passwd.Close()
	group, err := openUserFile(root, "etc/group")
	if err != nil {
		return spec.User{}, err
	}
	defer group.Close()
	return spec.ResolveUser(passwd, group, user)
}

// openUserFile opens a file of a root; one that isn't there is empty.
func openUserFile(root *os.Root, name string) (io.ReadCloser, error) {
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(eof{}), nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("/%s of the image is not a regular file", name)
	}
	return root.Open(name)
}

// eof is an empty file.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
