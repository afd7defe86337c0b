//go:build !linux

package main

import (
	"fmt"
	"os"
	"runtime"

	"bk.build/bk/layout/layer"
)

func setXattrs(*os.File, map[string]string) {}

// addNode makes a device or a FIFO: not on this system.
func (w *localWriter) addNode(entry *layer.Entry) error {
	return fmt.Errorf("a device or FIFO cannot be made on %s", runtime.GOOS)
}
