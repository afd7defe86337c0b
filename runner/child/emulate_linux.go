package child

import (
	"syscall"
	"unsafe"
)

// binfmtDir is where the step's private binfmt_misc is mounted and stays: the
// registration lives as long as a mount of it.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// emulate prepares the step's user namespace. All other mounts were made
// outside of it, with the rights of the host. The forked process waits until
// its ids are mapped, mounts a binfmt_misc, which belongs to the namespace,
// registers the emulator, which the kernel opens at once (flag F), and makes
// the mount read-only.
func (s *step) emulate(p *Plan, ready int) {
	s.clone.flags |= syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	kind, dir := s.cref("binfmt_misc"), s.cref(binfmtDir)
	attr := &[4]uint64{attrReadonly}
	here := atFDCWD
	s.add("wait for the user namespace", syscall.SYS_READ, fd(ready), s.ref(unsafe.Pointer(new(byte))), 1)
	s.add("mount binfmt_misc", syscall.SYS_MOUNT, kind, dir, kind,
		syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, 0)
	s.add("open "+binfmtDir+"/register", syscall.SYS_OPENAT, fd(here), s.cref(binfmtDir+"/register"),
		syscall.O_WRONLY|syscall.O_CLOEXEC).keep = true
	s.add("register the emulator", syscall.SYS_WRITE, 0, s.cref(p.Emulator), uintptr(len(p.Emulator))).kept = true
	s.add("close the registration", syscall.SYS_CLOSE, 0).kept = true
	s.add("make binfmt_misc read-only", sysMountSetattr, fd(here), dir, 0,
		s.ref(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
}

// mapIdentity gives the process's user namespace the ids of ours.
func mapIdentity(pid int) error {
	proc, err := privateProc()
	if err != nil {
		return err
	}
	defer syscall.Close(proc)
	for _, file := range []string{"/uid_map", "/gid_map"} {
		own, err := readProc(proc, "1"+file)
		if err != nil {
			return explain("read "+file[1:], err)
		}
		if err := writeProc(proc, itoa(pid)+file, identity(own)); err != nil {
			return explain("write "+file[1:]+" of the step", err)
		}
	}
	return nil
}

// identity turns the text of an id map, lines of "inside outside count", into
// one that maps the ids inside to themselves.
func identity(text string) string {
	var out string
	for text != "" {
		var f [3]string
		for i := range f {
			f[i], text = word(text)
		}
		if f[2] != "" {
			out += f[0] + " " + f[0] + " " + f[2] + "\n"
		}
	}
	return out
}

// word cuts the next word off.
func word(text string) (first, rest string) {
	start := 0
	for start < len(text) && (text[start] == ' ' || text[start] == '\n') {
		start++
	}
	end := start
	for end < len(text) && text[end] != ' ' && text[end] != '\n' {
		end++
	}
	return text[start:end], text[end:]
}
