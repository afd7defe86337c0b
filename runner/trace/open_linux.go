//go:build amd64 || arm64

package trace

import (
	"syscall"
	"unsafe"
)

const (
	oAccmode = 3
	oTmpfile = 0x400000 // without O_DIRECTORY, which differs
)

// open translates the calls that open files.
func open(dir, path, flags int) handler {
	return func(t *task, r *regs) verdict { return t.open(r, names{dir: dir, path: path}, r.arg(flags)) }
}

// creat is open with fixed flags.
func creat(t *task, r *regs) verdict {
	return t.open(r, names{dir: -1, path: 0}, syscall.O_CREAT|syscall.O_WRONLY|syscall.O_TRUNC)
}

// openat2 leaves to the kernel what it confines itself.
func openat2(t *task, r *regs) verdict {
	const beneath, inRoot, noSymlinks = 0x08, 0x10, 0x04
	var how struct{ flags, mode, resolve uint64 }
	if errno := t.read(r.arg(2), unsafe.Slice((*byte)(unsafe.Pointer(&how)), unsafe.Sizeof(how))); errno != 0 {
		return fail(errno)
	}
	name, errno := t.str(r.arg(1), pageSize)
	if errno != 0 {
		return fail(errno)
	}
	if how.resolve&(beneath|inRoot) != 0 {
		// The directory is inside of the root, or the step wouldn't have it.
		if _, errno := t.dir(argDir(r, 0)); errno != 0 {
			return fail(errno)
		}
		return verdict{kind: pass}
	}
	if how.resolve&noSymlinks != 0 {
		if errno := t.noSymlinks(argDir(r, 0), name, how.flags); errno != 0 {
			return fail(errno)
		}
	}
	return t.open(r, names{dir: 0, path: 1}, how.flags)
}

// noSymlinks refuses a path with a symbolic link in it.
func (t *task) noSymlinks(dirfd int, name string, flags uint64) syscall.Errno {
	last := flags&syscall.O_NOFOLLOW != 0 && flags&oPath != 0
	f, errno := t.findName(dirfd, name, !last)
	if errno != 0 {
		return errno
	}
	dir := "/"
	if name[0] != '/' {
		if dir, errno = t.dir(dirfd); errno != 0 {
			return errno
		}
	}
	if lexical(dir, name) != f.guest {
		return syscall.ELOOP
	}
	return 0
}

// open decides on the opening of a file.
func (t *task) open(r *regs, n names, flags uint64) verdict {
	creates := flags&syscall.O_CREAT != 0
	follow := flags&syscall.O_NOFOLLOW == 0 && (!creates || flags&syscall.O_EXCL == 0)
	f, errno := t.find(argDir(r, n.dir), r.arg(n.path), follow)
	if errno != 0 {
		return fail(errno)
	}
	var after func(r *regs)
	if !f.magic && follow && flags&oPath == 0 {
		if after, errno = t.opens(f.place, flags); errno != 0 {
			return fail(errno)
		}
	} else if creates {
		after, errno = t.opensNew(f.place)
		if errno != 0 {
			return fail(errno)
		}
	}
	if f.readOnly && (flags&oAccmode != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0) && flags&oPath == 0 {
		return fail(syscall.EROFS)
	}
	return t.place(r, []names{n}, []target{f}, after)
}

// opens prepares the opening of a file that may be there.
func (t *task) opens(p place, flags uint64) (func(r *regs), syscall.Errno) {
	mode := 4
	switch flags & oAccmode {
	case syscall.O_WRONLY:
		mode = 2
	case syscall.O_RDWR:
		mode = 6
	}
	if flags&syscall.O_TRUNC != 0 {
		mode |= 2
	}
	switch errno := faccessat(p.host, mode); {
	case errno == syscall.ENOENT && flags&syscall.O_CREAT != 0:
		return t.opensNew(p)
	case errno == syscall.ENOENT || errno == syscall.ENOTDIR:
		return nil, errno // spares the task a stop
	case errno == syscall.EACCES && t.creds.root():
		t.unlock(p.host)
	}
	if flags&oTmpfile != 0 {
		return nil, t.changes(place{guest: join(p.guest, "x"), readOnly: p.readOnly})
	}
	return nil, 0
}

func (t *task) opensNew(p place) (func(r *regs), syscall.Errno) {
	if !p.missing() {
		return nil, 0
	}
	if errno := t.changes(p); errno != 0 {
		return nil, errno
	}
	return t.creates(p), 0
}

// lexical joins and cleans a path without looking at files.
func lexical(dir, name string) string {
	cur := dir
	if name[0] == '/' {
		cur = "/"
	}
	for part, rest := cutPart(name); part != ""; part, rest = cutPart(rest) {
		switch part {
		case ".":
		case "..":
			cur = parent(cur)
		default:
			cur = join(cur, part)
		}
	}
	return cur
}

func cutPart(name string) (part, rest string) {
	i := 0
	for i < len(name) && name[i] == '/' {
		i++
	}
	j := i
	for j < len(name) && name[j] != '/' {
		j++
	}
	return name[i:j], name[j:]
}
