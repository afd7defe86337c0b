package cache

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A file arrives although its directory is replaced or not there: the first
// form of a layer takes the place of an empty directory while the second is
// being written into it.
func TestWriteFileIntoReplacedDirectory(t *testing.T) {
	top := t.TempDir()
	for range 500 {
		dir, whole := filepath.Join(top, "dir"), filepath.Join(top, "whole")
		for _, d := range []string{dir, filepath.Join(whole, "fs")} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = os.Rename(whole, dir) }) // or it comes too late
		if err := WriteFile(filepath.Join(dir, "file"), []byte("x")); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "x" {
			t.Fatalf("read %q, %v", b, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(filepath.Join(top, "a", "b", "c"), nil); err != nil {
		t.Error(err)
	}
}
