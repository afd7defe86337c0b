//go:build linux

package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A volume is a fresh ext4 file system in a sparse file. Every builder starts
// with one, because ext4 avoids recently deleted inodes: where much was just
// deleted, creating files is several times slower.
type volume struct{ dir, file string }

// volumeSize is more than any builder needs for any scenario; the file is
// sparse.
const volumeSize = 16 << 30

func newVolume(ctx context.Context, work, name string) (*volume, error) {
	v := &volume{dir: filepath.Join(work, name), file: filepath.Join(work, name+".ext4")}
	if err := os.Remove(v.file); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if err := os.MkdirAll(v.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(v.file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(volumeSize); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1", v.file},
		{"mount", "-o", "loop,noinit_itable", v.file, v.dir}, // no background initialisation while we measure
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return v, nil
}

// close unmounts the volume and removes its file. The loop device goes with the
// mount.
func (v *volume) close(keep bool) {
	reap()
	unmountBelow(v.dir)
	err := syscall.Unmount(v.dir, 0)
	for range 40 {
		if err != syscall.EBUSY {
			break
		}
		time.Sleep(50 * time.Millisecond)
		reap()
		err = syscall.Unmount(v.dir, 0)
	}
	if err != nil {
		log.Printf("unmount %s: %v; leaving it to the end of the namespace", v.dir, err)
		_ = syscall.Unmount(v.dir, syscall.MNT_DETACH) // nothing else can be done
	}
	if !keep {
		_ = os.Remove(v.file)
	}
}
