package archive

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File calls write with a writer whose bytes become the file path when write
// returns nil: they go to a temporary file beside it, which is renamed. So the
// file has its old content or all of the new one. A path that is a symbolic
// link keeps being one; one that is a device or a FIFO is written to directly.
func File(path string, write func(io.Writer) error) error {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return writeDirect(path, fi, write)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil { //nolint:forbidigo // where the user wants the file
		path = target
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, withPath(err))
	}
	defer os.Remove(tmp)
	if err := errors.Join(buffered(f, write), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp, path)
}

// writeDirect writes to what is not a regular file.
func writeDirect(path string, fi fs.FileInfo, write func(io.Writer) error) error {
	if fi.IsDir() {
		return fmt.Errorf("write %s: it is a directory, name a file in it", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(buffered(f, write), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func buffered(f *os.File, write func(io.Writer) error) error {
	b := bufio.NewWriterSize(f, 256<<10)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// withPath drops the name of the temporary file from an error.
func withPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
