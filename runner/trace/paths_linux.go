//go:build amd64 || arm64

package trace

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// walk returns a resolver for the task.
func (t *task) walk() *walk {
	return &walk{
		view: t.view, tgid: t.tgid, tid: t.tid,
		exe: t.program0, mine: t.known,
		open: func(host string) bool { return t.creds.root() && t.unlock(host) },
	}
}

// program0 returns where in the root the program of a process is.
func (t *task) program0(pid int) (string, bool) {
	k := t.tasks[pid]
	if k == nil || k.exe == "" {
		return "", false
	}
	return k.exe, true
}

// known reports whether a process or thread of this id is the step's, or was.
func (t *task) known(pid int) bool {
	if t.tasks[pid] != nil {
		return true
	}
	// One that has ended, and whose parent hasn't asked for it.
	var st syscall.Stat_t
	if errno := fstatat("/proc/"+strconv.Itoa(pid), 0, &st); errno != 0 {
		return true // the kernel says that it isn't there
	}
	_, errno := readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return errno == syscall.ENOENT && t.zombie(pid)
}

func (t *task) proc(name string) string { return "/proc/" + strconv.Itoa(t.tid) + "/" + name }

func (t *task) fdPath(n int) string { return t.proc("fd/" + strconv.Itoa(n)) }

// dir returns where in the root a directory descriptor, or the working
// directory, is.
func (t *task) dir(n int) (string, syscall.Errno) {
	link := t.proc("cwd")
	if n != atFDCWD {
		link = t.fdPath(n)
	}
	host, errno := readlink(link)
	if errno != 0 {
		if errno == syscall.ENOENT {
			errno = syscall.EBADF
		}
		return "", errno
	}
	guest, ok := t.view.guest(host)
	if !ok || strings.HasSuffix(host, " (deleted)") {
		var st syscall.Stat_t
		if fstatat(link, 0, &st) == 0 && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return "", syscall.ENOTDIR
		}
		return "", syscall.ENOENT
	}
	return guest, 0
}

// target is a place that a call names.
type target struct {
	place
	name string // as the step wrote it
	// same tells that the kernel finds the place too, without translation.
	same bool
}

// find resolves a path of a call. The descriptor is ignored for absolute ones.
func (t *task) find(dirfd int, addr uint64, follow bool) (target, syscall.Errno) {
	name, errno := t.str(addr, pageSize)
	if errno != 0 {
		return target{}, errno
	}
	return t.findName(dirfd, name, follow)
}

func (t *task) findName(dirfd int, name string, follow bool) (target, syscall.Errno) {
	if name == "" {
		return target{}, syscall.ENOENT
	}
	dir := "/"
	if name[0] != '/' {
		var errno syscall.Errno
		if dir, errno = t.dir(dirfd); errno != 0 {
			return target{}, errno
		}
	}
	w := t.walk()
	p, errno := w.resolve(dir, name, follow)
	if errno != 0 {
		return target{}, errno
	}
	same := p.host == name
	if name[0] != '/' {
		at, _ := t.view.at(dir)
		same = p.host == join(at, name)
	}
	return target{p, name, same}, 0
}

// argDir returns the descriptor in an argument; -1 stands for calls without.
func argDir(r *regs, n int) int {
	if n < 0 {
		return atFDCWD
	}
	return int(int32(r.arg(n)))
}

// names describes a path among a call's arguments.
type names struct {
	dir  int // the argument with the directory; -1: there is none
	path int
	// follow, when the last element is a symbolic link.
	follow bool
	// change demands that the place isn't read-only, and create that it is new.
	change, create bool
}

// translate makes the kernel work on translated paths.
func translate(list ...names) handler {
	return func(t *task, r *regs) verdict { return t.translate(r, list) }
}

func (t *task) translate(r *regs, list []names) verdict {
	var found []target
	var made []target
	for _, n := range list {
		f, errno := t.find(argDir(r, n.dir), r.arg(n.path), n.follow)
		if errno != 0 {
			return fail(errno)
		}
		if n.change {
			if errno := t.changes(f.place); errno != 0 {
				return fail(errno)
			}
		}
		if n.create {
			made = append(made, f)
		}
		found = append(found, f)
	}
	var after func(r *regs)
	if len(made) > 0 {
		after = t.creates(made[0].place)
	}
	return t.place(r, list, found, after)
}

// place puts the paths into the task's memory and the arguments.
func (t *task) place(r *regs, list []names, found []target, after func(r *regs)) verdict {
	var bytes []byte
	var at []int
	for _, f := range found {
		at = append(at, len(bytes))
		if !f.same {
			if len(f.host) >= pageSize {
				return fail(syscall.ENAMETOOLONG)
			}
			bytes = append(append(bytes, f.host...), 0)
		}
	}
	if len(bytes) == 0 {
		return verdict{kind: pass, after: after}
	}
	addr, ok := t.scratchAt(uint64(len(bytes)))
	if !ok {
		return verdict{kind: memory, value: int64(len(bytes))}
	}
	if errno := t.write(addr, bytes); errno != 0 {
		return t.lost(int64(len(bytes)))
	}
	for i, f := range found {
		if !f.same {
			r.setArg(list[i].path, addr+uint64(at[i]))
		}
	}
	return verdict{kind: rewrite, after: after}
}

// lost asks for new scratch memory: the step has unmapped the old one.
func (t *task) lost(size int64) verdict {
	t.scratch = 0
	return verdict{kind: memory, value: size}
}

// changes prepares the directory of a place for a change.
func (t *task) changes(p place) syscall.Errno {
	if p.readOnly {
		return syscall.EROFS
	}
	if above, _ := t.view.at(parent(p.guest)); t.creds.root() && faccessat(above, 3) == syscall.EACCES {
		t.unlock(above)
	}
	return 0
}

// creates returns what is to be done when a file was made; nil: nothing, as
// for files of root in ordinary directories.
func (t *task) creates(p place) func(r *regs) {
	c := t.creds
	gid := c.group.fs
	above, _ := t.view.at(parent(p.guest))
	var st syscall.Stat_t
	if errno := fstatat(above, 0, &st); errno == 0 && st.Mode&syscall.S_ISGID != 0 {
		t.owners.apply(above, &st)
		gid = st.Gid
	}
	if c.user.fs == 0 && gid == 0 && len(t.owners.links) == 0 {
		return nil
	}
	host := strings.TrimRight(p.host, "/")
	return func(r *regs) {
		if r.result() < 0 {
			return
		}
		var st syscall.Stat_t
		if errno := fstatat(host, atSymlinkNofollow, &st); errno != 0 {
			return
		}
		t.owners.forget(&st)
		if c.user.fs != 0 || gid != 0 {
			_ = t.remember(host, &st, record{uid: c.user.fs, gid: gid, locked: -1}) // as well as the file system can
		}
	}
}

// remember stores what a file should be. The file must be writable for that: if
// it isn't, its mode is remembered too.
func (t *task) remember(host string, st *syscall.Stat_t, r record) syscall.Errno {
	errno := t.owners.set(host, st, r)
	if errno != syscall.EACCES {
		return errno
	}
	if r.locked < 0 {
		r.locked = int32(st.Mode & 0o7777)
	}
	if errno := fchmodat(host, st.Mode&0o7777|opened(st.Mode)); errno != 0 {
		return errno
	}
	return t.owners.set(host, st, r)
}

// unlock lets a step that believes to be root into a file or directory whose
// permissions keep its real user out; the permissions are remembered.
func (t *task) unlock(host string) bool {
	var st syscall.Stat_t
	if errno := fstatat(host, atSymlinkNofollow, &st); errno != 0 || !keeps(st.Mode) {
		return false
	}
	want := st.Mode&0o7777 | opened(st.Mode)
	if want == st.Mode&0o7777 {
		return false
	}
	r := t.owners.get(host, &st)
	if r.locked < 0 {
		r.locked = int32(st.Mode & 0o7777)
	}
	n, errno := hold(host)
	if errno != 0 {
		return false
	}
	defer syscall.Close(n)
	name := "/proc/self/fd/" + strconv.Itoa(n)
	return fchmodat(name, want) == 0 && t.owners.set(name, &st, r) == 0
}

// opened are the permissions that this process needs of a file that root uses.
func opened(mode uint32) uint32 {
	bits := uint32(0o600)
	if mode&syscall.S_IFMT == syscall.S_IFDIR || mode&0o111 != 0 {
		bits |= 0o100
	}
	return bits
}

// hold opens a file of the host for calls that name it by descriptor. The path
// was resolved: a symbolic link in it now was put there since, and is refused.
func hold(host string) (int, syscall.Errno) {
	how := struct{ flags, mode, resolve uint64 }{oPath | syscall.O_CLOEXEC | syscall.O_NOFOLLOW, 0, 0x04}
	at := atFDCWD
	n, errno := call(sysOpenat2, fd(at), uintptr(unsafe.Pointer(cstr(host))), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how))
	if errno == syscall.ENOSYS || errno == syscall.EPERM {
		m, err := syscall.Open(host, oPath|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return -1, errnoOf(err)
		}
		return m, 0
	}
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}
