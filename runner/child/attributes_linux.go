package child

import "syscall"

// remount changes the attributes of what is mounted at the place already.
func (r *rootfs) remount(m *Mount) error {
	n, err := openat2(r.root, m.Dest, oPath, resolveInRoot|resolveNoMagiclinks)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	if err := mountSetattr(n, false, m.Set, m.Clear, 0); err != nil {
		return err
	}
	return mountSetattr(n, true, m.RecSet, m.RecClear, 0)
}

// copyUp copies the directory that a new file system will cover into it: files,
// directories and links, with owners and modes.
func copyUp(place, mount int) error {
	from, err := openat2(place, ".", syscall.O_RDONLY|syscall.O_DIRECTORY, resolveBeneath)
	if err == syscall.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer syscall.Close(from)
	return copyDir(from, mount)
}

func copyDir(from, to int) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(from, &st); err != nil {
		return err
	}
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(from, to, name); err != nil {
			return explain(name, err)
		}
	}
	dir, err := openat2(to, ".", syscall.O_RDONLY|syscall.O_DIRECTORY, resolveBeneath)
	if err != nil {
		return err
	}
	defer syscall.Close(dir)
	if err := syscall.Fchown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return syscall.Fchmod(dir, st.Mode&0o7777)
}

func copyEntry(from, to int, name string) error {
	n, err := openat2(from, name, oPath|syscall.O_NOFOLLOW, resolveBeneath)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return err
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		source, err := openat2(from, name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, resolveBeneath)
		if err != nil {
			return err
		}
		defer syscall.Close(source)
		target, err := subdir(to, name)
		if err != nil {
			return err
		}
		defer syscall.Close(target)
		return copyDir(source, target)
	case syscall.S_IFLNK:
		target, err := readlink(n)
		if err == nil {
			err = symlinkat(target, to, name)
		}
		if err != nil {
			return err
		}
		return syscall.Fchownat(to, name, int(st.Uid), int(st.Gid), atSymlinkNofollow)
	case syscall.S_IFREG:
		return copyFile(from, to, name, &st)
	}
	return nil // devices and sockets belong to the directory that is covered
}

func copyFile(from, to int, name string, st *syscall.Stat_t) error {
	source, err := openat2(from, name, syscall.O_RDONLY|syscall.O_NOFOLLOW, resolveBeneath)
	if err != nil {
		return err
	}
	defer syscall.Close(source)
	target, err := syscall.Openat(to, name, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer syscall.Close(target)
	for left := st.Size; left > 0; {
		n, err := syscall.Sendfile(target, source, nil, int(min(left, 1<<30)))
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		left -= int64(n)
	}
	if err := syscall.Fchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return syscall.Fchmod(target, st.Mode&0o7777)
}

// readNames lists a directory.
func readNames(dir int) (names []string, err error) {
	b := make([]byte, 32<<10)
	for {
		n, err := syscall.ReadDirent(dir, b)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = syscall.ParseDirent(b[:n], -1, names)
	}
}
