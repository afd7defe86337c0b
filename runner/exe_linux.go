package runner

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ownExecutable opens this program so that nobody who gets hold of the child's
// /proc/PID/exe can write to it (CVE-2019-5736): on a read-only mount of its
// own, or else as a sealed copy in memory.
//
// Between fork and execve os.StartProcess moves its pipe and its files to the
// numbers that follow the highest of the files'; the program's descriptor
// stays beyond them.
func ownExecutable(files []*os.File) (*os.File, error) {
	n, err := readOnlyExecutable()
	if err != nil {
		n, err = sealedExecutable()
	}
	if err != nil {
		return nil, fmt.Errorf("open this program's executable: %w", err)
	}
	defer unix.Close(n)
	beyond := len(files)
	for _, f := range files {
		beyond = max(beyond, int(f.Fd()))
	}
	high, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, beyond+len(files)+2)
	if err != nil {
		return nil, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return os.NewFile(uintptr(high), "executable"), nil
}

func readOnlyExecutable() (int, error) {
	n, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == unix.EINVAL {
		n, err = cloneByName()
	}
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(n, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(n)
		return -1, err
	}
	return n, nil
}

// cloneByName clones the mount of the executable that this mount namespace has:
// who enters a new one still runs from the mount of the old one, which can't be
// cloned.
func cloneByName() (int, error) {
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	n, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, err
	}
	var own, named unix.Stat_t
	if err = unix.Stat("/proc/self/exe", &own); err == nil {
		err = unix.Fstat(n, &named)
	}
	if err == nil && (own.Dev != named.Dev || own.Ino != named.Ino) {
		err = unix.ENOENT // another file has its name now
	}
	if err != nil {
		unix.Close(n)
		return -1, err
	}
	return n, nil
}

// sealedExecutable copies the program; it takes milliseconds.
func sealedExecutable() (int, error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer exe.Close()
	n, err := unix.MemfdCreate("bk", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		n, err = unix.MemfdCreate("bk", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, err
	}
	copied := os.NewFile(uintptr(n), "executable")
	defer copied.Close()
	if _, err := io.Copy(copied, exe); err != nil {
		return -1, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(copied.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, err
	}
	return unix.FcntlInt(copied.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}
