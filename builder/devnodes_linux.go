package builder

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// makeDevices makes the directory dir what /dev is in a container. Where no
// device may be made or opened, as in a user namespace or on a file system
// mounted with nodev, there is an ordinary empty file in the place of null, and
// no other device; complete is false then.
func makeDevices(dir string) (complete bool, err error) {
	err = errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755))
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"pts", 0o755}, {"mqueue", 0o777 | os.ModeSticky}, {"shm", 0o777 | os.ModeSticky}} {
		name := filepath.Join(dir, d.name)
		err = errors.Join(err, os.Mkdir(name, 0o755), os.Chmod(name, d.mode))
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(dir, name)))
	}
	if err != nil {
		return false, err
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		name := filepath.Join(dir, d.name)
		err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
		if err == nil {
			err = os.Chmod(name, 0o666)
		}
		if err == nil && d.name == "null" {
			err = openable(name)
		}
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			os.Remove(name)
			return false, errors.Join(writeFile(filepath.Join(dir, "null"), nil, 0o666, 0, 0))
		}
		if err != nil {
			return false, &os.PathError{Op: "make device", Path: d.name, Err: err}
		}
	}
	return true, nil
}

func openable(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		err = f.Close()
	}
	return err
}
