//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxScripts is how many interpreters of interpreters the kernel accepts.
const maxScripts = 5

// image is what an execve is to start.
type image struct {
	host  string // the file that the kernel is given
	guest string // where in the root the program is
	args  []string
	// mode and owners of the program, for set-id bits.
	st syscall.Stat_t
}

func execve(t *task, r *regs) verdict {
	name, errno := t.str(r.arg(0), pageSize)
	if errno != 0 {
		return fail(errno)
	}
	if name == "" {
		return fail(syscall.ENOENT)
	}
	f, errno := t.findName(atFDCWD, name, true)
	if errno != 0 {
		return fail(errno)
	}
	return t.exec(r, subject{place: f.place}, name, r.arg(1), r.arg(2))
}

func execveat(t *task, r *regs) verdict {
	dirfd, flags := argDir(r, 0), r.arg(4)
	name, errno := t.str(r.arg(1), pageSize)
	if errno != 0 {
		return fail(errno)
	}
	s, errno := t.subject(dirfd, r.arg(1), true, flags&atEmptyPath != 0)
	if errno != 0 {
		return fail(errno)
	}
	if flags&atSymlinkNofollow != 0 && name != "" {
		if _, errno := t.findName(dirfd, name, false); errno != 0 {
			return fail(errno)
		}
	}
	if dirfd != atFDCWD && (name == "" || name[0] != '/') {
		name = strings.TrimRight("/dev/fd/"+strconv.Itoa(dirfd)+"/"+name, "/")
	}
	return t.exec(r, s, name, r.arg(2), r.arg(3))
}

// exec makes the call an execve of what the kernel can start: scripts become
// their interpreters, and programs name their loader by its path on the host.
func (t *task) exec(r *regs, s subject, name string, argv, envp uint64) verdict {
	img, errno := t.image(s, name)
	if errno != 0 {
		return fail(errno)
	}
	if base := filepath.Base(name); base != filepath.Base(img.host) {
		if img.host, errno = t.alias(img.host, base); errno != 0 {
			return fail(errno)
		}
	}
	bytes := append([]byte(img.host), 0)
	var array []uint64
	if len(img.args) > 0 {
		if array, errno = t.pointers(argv); errno != 0 {
			return fail(errno)
		}
	}
	need := uint64(len(bytes))
	for _, a := range img.args {
		need += uint64(len(a)) + 1
	}
	need += 8 * uint64(len(array)+len(img.args)+3)
	addr, ok := t.scratchAt(need)
	if !ok {
		return verdict{kind: memory, value: int64(need)}
	}
	r.setArg(0, addr)
	r.setArg(1, argv)
	r.setArg(2, envp)
	if len(img.args) > 0 {
		var at []uint64
		for _, a := range img.args {
			at = append(at, addr+uint64(len(bytes)))
			bytes = append(append(bytes, a...), 0)
		}
		for len(bytes)%8 != 0 {
			bytes = append(bytes, 0)
		}
		r.setArg(1, addr+uint64(len(bytes)))
		if len(array) > 0 {
			array = array[1:] // the name of the script takes its place
		}
		for _, p := range append(append(at, array...), 0) {
			bytes = binary.NativeEndian.AppendUint64(bytes, p)
		}
	}
	if errno := t.write(addr, bytes); errno != 0 {
		return t.lost(int64(need))
	}
	if r.nr() != syscall.SYS_EXECVE {
		if err := t.setNr(r, syscall.SYS_EXECVE); err != nil {
			return fail(syscall.EIO)
		}
	}
	t.next = &started{exe: img.guest, name: name, creds: t.raised(&img.st)}
	return verdict{kind: rewrite, after: func(*regs) { t.next = nil }}
}

// started is what becomes of a task whose execve succeeds.
type started struct {
	exe, name string
	creds     *creds
}

// raised are the credentials after execve of a file, with its set-id bits.
func (t *task) raised(st *syscall.Stat_t) *creds {
	c := *t.creds
	if st.Mode&syscall.S_ISUID != 0 {
		c.user.effective = st.Uid
	}
	if st.Mode&(syscall.S_ISGID|0o010) == syscall.S_ISGID|0o010 {
		c.group.effective = st.Gid
	}
	c.user.saved, c.user.fs = c.user.effective, c.user.effective
	c.group.saved, c.group.fs = c.group.effective, c.group.effective
	return &c
}

// pointers reads an array of pointers up to its end.
func (t *task) pointers(addr uint64) (list []uint64, errno syscall.Errno) {
	const maxArgs = 1 << 21
	if addr == 0 {
		return nil, 0
	}
	var b [pageSize]byte
	for len(list) < maxArgs {
		n := pageSize - int(addr%pageSize)
		n -= n % 8
		if n == 0 { // an unaligned array across pages
			n = 8
		}
		if errno := t.read(addr, b[:n]); errno != 0 {
			return nil, errno
		}
		for i := 0; i < n; i += 8 {
			p := le64(b[i:])
			if p == 0 {
				return list, 0
			}
			list = append(list, p)
		}
		addr += uint64(n)
	}
	return nil, syscall.E2BIG
}

// image finds out what is to be started for a file.
func (t *task) image(s subject, name string) (image, syscall.Errno) {
	var img image
	for range maxScripts {
		interp, errno := t.load(s, &img)
		if errno != 0 || interp == nil {
			return img, errno
		}
		args := []string{interp[0]}
		if interp[1] != "" {
			args = append(args, interp[1])
		}
		if len(img.args) == 0 { // else it is an interpreter, whose name is there
			args = append(args, name)
		}
		img.args = append(args, img.args...)
		f, errno := t.findName(atFDCWD, interp[0], true)
		if errno != 0 {
			return img, errno
		}
		s = subject{place: f.place}
	}
	return img, syscall.ELOOP
}

// load looks at one file. For a script it returns the interpreter and its
// argument; for anything else img is complete.
func (t *task) load(s subject, img *image) (interp *[2]string, errno syscall.Errno) {
	if errno := fstatat(s.host, 0, &img.st); errno != 0 {
		return nil, errno
	}
	disk := img.st
	t.owners.apply(s.host, &img.st)
	if disk.Mode&syscall.S_IFMT != syscall.S_IFREG || img.st.Mode&0o111 == 0 {
		return nil, syscall.EACCES
	}
	if t.creds.root() && (disk.Mode&0o500 != 0o500) {
		t.unlock(s.host)
	}
	f, err := os.Open(s.host)
	if err != nil {
		return nil, errnoOf(err)
	}
	defer f.Close()
	var head [scriptHead]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, errnoOf(err)
	}
	if name, arg, ok := readScript(head[:n]); ok {
		if name == "" {
			return nil, syscall.EACCES
		}
		return &[2]string{name, arg}, 0
	}
	img.host, img.guest = s.host, s.guest
	p, err := readProgram(f, elfMachine)
	switch {
	case errors.Is(err, errNotELF):
		return nil, 0 // the kernel may know it
	case err != nil:
		return nil, syscall.ENOEXEC
	case p.interp == "":
		return nil, 0
	}
	img.host, errno = t.adapt(f, &disk, p, filepath.Base(s.guest))
	return nil, errno
}

// copyKey tells one content of an executable, and its loader's place, from
// others.
type copyKey struct {
	inode
	size         int64
	mtime, ctime syscall.Timespec
	loader       string
}

// adapt returns the path of a copy of a program that names its loader by the
// path on the host.
func (t *task) adapt(f *os.File, st *syscall.Stat_t, p program, base string) (string, syscall.Errno) {
	loader, errno := t.findName(atFDCWD, p.interp, true)
	if errno != 0 {
		return "", errno
	}
	if errno := faccessat(loader.host, 5); errno != 0 {
		if errno != syscall.EACCES || !t.creds.root() || !t.unlock(loader.host) {
			return "", errno
		}
	}
	key := copyKey{key(st), st.Size, st.Mtim, st.Ctim, loader.host}
	if have, ok := t.copies[key]; ok {
		return have, 0
	}
	dir := filepath.Join(t.private, "exec", strconv.Itoa(len(t.copies)))
	name := filepath.Join(dir, base)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errnoOf(err)
	}
	if err := copyProgram(f, name, p, loader.host); err != nil {
		return "", errnoOf(err)
	}
	t.copies[key] = name
	return name, 0
}

func copyProgram(f *os.File, name string, p program, loader string) (err error) {
	to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o755)
	if err != nil {
		return err
	}
	defer func() {
		if errClose := to.Close(); err == nil {
			err = errClose
		}
	}()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(to, f); err != nil {
		return err
	}
	return setInterp(to, p, loader)
}

// alias returns a link to a program whose last element is what the step named
// it by: the kernel gives that name to the process.
func (t *task) alias(host, base string) (string, syscall.Errno) {
	key := [2]string{host, base}
	if have, ok := t.aliases[key]; ok {
		return have, 0
	}
	dir := filepath.Join(t.private, "alias", strconv.Itoa(len(t.aliases)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errnoOf(err)
	}
	name := filepath.Join(dir, base)
	if err := os.Symlink(host, name); err != nil {
		return "", errnoOf(err)
	}
	t.aliases[key] = name
	return name, 0
}

// executed makes the new program's memory tell of the root.
func (k *task) executed() {
	k.after = nil
	k.space, k.scratch, k.room = &space{}, 0, 0
	next := k.next
	k.next = nil
	if next == nil {
		return
	}
	raised := next.creds.user != k.creds.user || next.creds.group != k.creds.group
	k.exe, k.creds = next.exe, next.creds
	var r regs
	if k.getRegs(&r) == nil {
		k.fixAuxiliary(r.stack(), next.name, raised)
	}
}

// Entries of the auxiliary vector.
const (
	atUID    = 11
	atEUID   = 12
	atGID    = 13
	atEGID   = 14
	atSecure = 23
	atExecfn = 31
)

// fixAuxiliary changes what the kernel told the program of itself.
func (k *task) fixAuxiliary(sp uint64, name string, raised bool) {
	var count [8]byte
	if k.read(sp, count[:]) != 0 {
		return
	}
	env, errno := k.pointers(sp + 8 + 8*(le64(count[:])+1))
	if errno != 0 {
		return
	}
	at := sp + 8 + 8*(le64(count[:])+1) + 8*(uint64(len(env))+1)
	for range 64 {
		var pair [16]byte
		if k.read(at, pair[:]) != 0 {
			return
		}
		kind, value := le64(pair[:8]), le64(pair[8:])
		switch c := k.creds; kind {
		case 0:
			return
		case atUID:
			value = uint64(c.user.real)
		case atEUID:
			value = uint64(c.user.effective)
		case atGID:
			value = uint64(c.group.real)
		case atEGID:
			value = uint64(c.group.effective)
		case atSecure:
			if raised {
				value = 1
			}
		case atExecfn:
			k.rename(value, name)
		}
		if value != le64(pair[8:]) {
			_ = k.write(at+8, binary.NativeEndian.AppendUint64(nil, value))
		}
		at += 16
	}
}

// rename replaces a string in the task by one that isn't longer.
func (k *task) rename(addr uint64, name string) {
	if old, errno := k.str(addr, pageSize); errno == 0 && len(name) <= len(old) {
		_ = k.write(addr, append([]byte(name), 0)) // it may have been killed
	}
}
