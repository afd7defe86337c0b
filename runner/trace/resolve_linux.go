//go:build amd64 || arm64

package trace

import (
	"strconv"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// walk resolves paths as the kernel would for a process whose root is the
// view's: no link and no ".." leads out.
type walk struct {
	*view
	// tgid and tid are those of the task that asks, for /proc/self; 0: none.
	tgid, tid int
	// exe is what /proc/PID/exe leads to, and mine tells which ids in /proc are
	// the step's.
	exe  func(pid int) (string, bool)
	mine func(pid int) bool
	// open is called with directories that can't be searched, and may change
	// that.
	open func(host string) bool
}

// place is where a path leads.
type place struct {
	guest string // without symbolic links, but for the last element
	host  string
	// magic tells that host is a link of /proc that the kernel must follow, and
	// that guest isn't where it leads.
	magic    bool
	readOnly bool
}

func (p *place) missing() bool {
	var st syscall.Stat_t
	return fstatat(p.host, atSymlinkNofollow, &st) != 0
}

// dir reports whether a place is a directory.
func (w *walk) isDir(guest string) syscall.Errno {
	host, _ := w.at(guest)
	var st syscall.Stat_t
	if errno := fstatat(host, 0, &st); errno != 0 {
		return errno
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return syscall.ENOTDIR
	}
	return 0
}

// resolve finds a path, seen from the clean path dir. The last element may be
// missing; when it is a symbolic link it is followed if follow is set, or if a
// slash is behind it.
func (w *walk) resolve(dir, name string, follow bool) (place, syscall.Errno) {
	if name == "" {
		return place{}, syscall.ENOENT
	}
	cur, rest := dir, name
	if rest[0] == '/' {
		cur = "/"
	}
	slash := rest[len(rest)-1] == '/'
	known := cur == "/" // that cur is a directory
	for links := 0; ; {
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			break
		}
		part, after, more := strings.Cut(rest, "/")
		more = more && strings.Trim(after, "/") != ""
		if part == "." || part == ".." {
			if !known {
				if errno := w.isDir(cur); errno != 0 {
					return place{}, errno
				}
			}
			if part == ".." {
				cur = parent(cur)
			}
			known, rest = true, after
			continue
		}
		if len(part) > 255 {
			return place{}, syscall.ENAMETOOLONG
		}
		next := join(cur, part)
		if errno := w.hidden(cur, part); errno != 0 {
			return place{}, errno
		}
		if !more && !follow && !slash {
			return w.placed(next), 0
		}
		target, errno := w.link(cur, part, next, !more)
		switch errno {
		case 0:
		case syscall.EINVAL: // not a link
			cur, rest, known = next, after, false
			continue
		case syscall.ENOENT:
			if more {
				return place{}, errno
			}
			return w.trailing(next, slash), 0
		case errMagic:
			if more || slash {
				return place{}, syscall.ENOTDIR
			}
			p := w.placed(next)
			p.magic = true
			return p, 0
		default:
			return place{}, errno
		}
		if links++; links > maxLinks {
			return place{}, syscall.ELOOP
		}
		if target[0] == '/' {
			cur = "/"
		}
		known = true // cur is the directory of a link, or the root
		slash = slash || !more && target[len(target)-1] == '/'
		rest = target + "/" + after
	}
	if slash && !known {
		if errno := w.isDir(cur); errno != 0 {
			return place{}, errno
		}
	}
	return w.trailing(cur, slash), 0
}

func (w *walk) placed(guest string) place {
	host, readOnly := w.at(guest)
	return place{guest: guest, host: host, readOnly: readOnly}
}

// trailing keeps the slash that demands a directory.
func (w *walk) trailing(guest string, slash bool) place {
	p := w.placed(guest)
	if slash && p.host[len(p.host)-1] != '/' {
		p.host += "/"
	}
	return p
}

// errMagic stands for a link of /proc that leads to something without a path.
const errMagic = syscall.Errno(1 << 20)

// link returns where the element leads when it is a symbolic link, EINVAL when
// it is something else.
func (w *walk) link(dir, part, next string, last bool) (string, syscall.Errno) {
	if rest, ok := under(dir, "/proc"); ok && w.tgid != 0 {
		if target, errno := w.procLink(rest, part, next, last); errno != syscall.EINVAL {
			return target, errno
		}
	}
	host, _ := w.at(next)
	target, errno := readlink(host)
	if errno == syscall.EACCES && w.open != nil {
		if above, _ := w.at(dir); w.open(above) {
			target, errno = readlink(host)
		}
	}
	if errno == 0 && target == "" {
		errno = syscall.ENOENT
	}
	return target, errno
}

// hidden refuses /proc/PID of processes that aren't the step's.
func (w *walk) hidden(dir, part string) syscall.Errno {
	if w.mine == nil || dir != "/proc" || part[0] < '0' || part[0] > '9' {
		return 0
	}
	if pid, err := strconv.Atoi(part); err != nil || !w.mine(pid) {
		return syscall.ENOENT
	}
	return 0
}

// procLink answers for the links of /proc, whose rest is the part below it, that
// the kernel would answer for the helper, or with a path of the host.
func (w *walk) procLink(rest, part, next string, last bool) (string, syscall.Errno) {
	if rest == "" {
		switch part {
		case "self":
			return strconv.Itoa(w.tgid), 0
		case "thread-self":
			return strconv.Itoa(w.tgid) + "/task/" + strconv.Itoa(w.tid), 0
		}
		return "", syscall.EINVAL
	}
	pid, kind, ok := procKind(rest, part)
	if !ok {
		return "", syscall.EINVAL
	}
	switch kind {
	case "root":
		return "/", 0
	case "exe":
		if w.exe != nil {
			if exe, ok := w.exe(pid); ok {
				return exe, 0
			}
		}
	case "fd", "ns", "map_files":
		if last { // the very file, even one without a name
			return "", errMagic
		}
	}
	host, _ := w.at(next)
	target, errno := readlink(host)
	if errno != 0 {
		return "", errno
	}
	guest, ok := w.view.guest(target)
	if !ok || strings.HasSuffix(target, " (deleted)") {
		return "", errMagic
	}
	return guest, 0
}

// procKind tells which link of a process the element part below /proc/rest is.
func procKind(rest, part string) (pid int, kind string, ok bool) {
	fields := strings.Split(rest[1:], "/")
	pid, err := strconv.Atoi(fields[0])
	if err != nil {
		return 0, "", false
	}
	fields = fields[1:]
	if len(fields) >= 2 && fields[0] == "task" {
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return 0, "", false
		}
		fields = fields[2:]
	}
	switch {
	case len(fields) == 0 && (part == "exe" || part == "cwd" || part == "root"):
		return pid, part, true
	case len(fields) == 1 && (fields[0] == "fd" || fields[0] == "ns" || fields[0] == "map_files"):
		return pid, fields[0], true
	}
	return 0, "", false
}

func parent(guest string) string {
	if i := strings.LastIndexByte(guest, '/'); i > 0 {
		return guest[:i]
	}
	return "/"
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
