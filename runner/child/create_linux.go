package child

import "syscall"

// maxLinks bounds the symbolic links followed on the way to a new mount point.
const maxLinks = 40

// create makes the path and what is missing above it inside of the root, and
// opens it. Symbolic links, dangling ones too, are followed inside of the
// root; the kernel checks each step again, so that a link that appears in
// between leads nowhere else.
func (r *rootfs) create(path string, dir bool) (int, error) {
	if n, err := r.createLast(path, dir); err == nil {
		return n, nil
	}
	done, rest := "", path
	for links := 0; ; {
		var name string
		if name, rest = cut(rest); name == "" {
			return openat2(r.root, "/"+done, oPath, resolveInRoot|resolveNoSymlinks)
		}
		switch name {
		case ".":
			continue
		case "..":
			done = parent(done)
			continue
		}
		target, err := r.step(done, name, dir || rest != "")
		if err != nil {
			return -1, err
		}
		if target == "" {
			done += "/" + name
			continue
		}
		if links++; links > maxLinks {
			return -1, syscall.ELOOP
		}
		if target[0] == '/' {
			done = ""
		}
		rest = target + "/" + rest
	}
}

// createLast is the short way when only the last element is missing.
func (r *rootfs) createLast(path string, dir bool) (int, error) {
	d, err := openat2(r.root, parent(path)+"/", oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoMagiclinks)
	if err != nil {
		return -1, err
	}
	defer syscall.Close(d)
	name := base(path)
	if err := makeNode(d, name, dir); err != nil {
		return -1, err
	}
	return openat2(d, name, oPath, resolveBeneath|resolveNoSymlinks)
}

// makeNode makes an empty directory or file.
func makeNode(at int, name string, dir bool) error {
	if dir {
		return syscall.Mkdirat(at, name, 0o755)
	}
	return syscall.Mknodat(at, name, syscall.S_IFREG|0o644, 0)
}

// step makes sure that name is there in the directory; for a symbolic link it
// returns where it leads.
func (r *rootfs) step(at, name string, dir bool) (target string, err error) {
	d, err := openat2(r.root, "/"+at, oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoSymlinks)
	if err != nil {
		return "", err
	}
	defer syscall.Close(d)
	if err = makeNode(d, name, dir); err == nil {
		return "", nil
	}
	n, errOpen := openat2(d, name, oPath|syscall.O_NOFOLLOW, resolveBeneath)
	if errOpen != nil {
		return "", err
	}
	defer syscall.Close(n)
	target, errLink := readlink(n)
	if errLink != nil { // not a link: it was there before
		return "", nil
	}
	return target, nil
}

// cut returns the first element of a path and the rest.
func cut(path string) (name, rest string) {
	for len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	for i := range len(path) {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return path, ""
}

func parent(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return ""
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// makeDevices makes the nodes and links below /dev.
func (r *rootfs) makeDevices(p *Plan) error {
	if len(p.Devices)+len(p.Links) == 0 {
		return nil
	}
	if r.dev < 0 {
		n, err := openat2(r.root, "/dev", oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoSymlinks)
		if err != nil {
			return explain("open /dev, which must be a directory", err)
		}
		r.dev = n
	}
	for i := range p.Devices {
		if err := r.makeDevice(&p.Devices[i]); err != nil {
			return explain("create device "+p.Devices[i].Path, err)
		}
	}
	for _, l := range p.Links {
		if err := r.makeLink(l); err != nil && err != syscall.EEXIST {
			return explain("create link "+l.Path, err)
		}
	}
	return nil
}

// devParent opens the directory of a path below /dev; missing ones are made.
// The caller closes it unless it is r.dev.
func (r *rootfs) devParent(path string) (int, error) {
	at := r.dev
	for rest := parent(path)[len("/dev"):]; ; {
		var name string
		if name, rest = cut(rest); name == "" {
			return at, nil
		}
		next, err := subdir(at, name)
		r.closeDir(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
}

func (r *rootfs) closeDir(dir int) {
	if dir != r.dev {
		syscall.Close(dir)
	}
}

func subdir(at int, name string) (int, error) {
	if err := syscall.Mkdirat(at, name, 0o755); err != nil && err != syscall.EEXIST {
		return -1, err
	}
	return openat2(at, name, oPath|syscall.O_DIRECTORY, resolveBeneath|resolveNoSymlinks)
}

func (r *rootfs) makeDevice(d *Device) error {
	dir, err := r.devParent(d.Path)
	if err != nil {
		return err
	}
	defer r.closeDir(dir)
	name := base(d.Path)
	err = syscall.Mknodat(dir, name, uint32(d.Mode), int(d.Rdev))
	if err == syscall.EEXIST {
		return r.checkDevice(dir, name, d)
	}
	if err == syscall.EPERM && d.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return r.bindDevice(dir, name, d)
	}
	if err != nil || d.UID|d.GID == 0 {
		return err
	}
	return syscall.Fchownat(dir, name, int(d.UID), int(d.GID), atSymlinkNofollow)
}

// bindDevice shows the host's node, where a user namespace forbids new ones. The
// owner and the mode are the host's.
func (r *rootfs) bindDevice(dir int, name string, d *Device) error {
	source := d.Source
	if source == "" {
		source = d.Path
	}
	n, err := openat2(atFDCWD, source, oPath, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != uint32(d.Mode)&syscall.S_IFMT || st.Rdev != d.Rdev {
		return syscall.EPERM
	}
	m, err := openTree(n, "", false)
	if err != nil {
		return err
	}
	defer syscall.Close(m)
	if err := makeNode(dir, name, false); err != nil {
		return err
	}
	place, err := openat2(dir, name, oPath, resolveBeneath|resolveNoSymlinks)
	if err != nil {
		return err
	}
	defer syscall.Close(place)
	return moveMount(m, place)
}

// checkDevice accepts a node that the image or a mount brought along when it
// is the one that is wanted.
func (r *rootfs) checkDevice(dir int, name string, d *Device) error {
	n, err := openat2(dir, name, oPath|syscall.O_NOFOLLOW, resolveBeneath)
	if err != nil {
		return err
	}
	defer syscall.Close(n)
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != uint32(d.Mode)&syscall.S_IFMT || st.Rdev != d.Rdev {
		return syscall.EEXIST
	}
	return nil
}

func (r *rootfs) makeLink(l Link) error {
	dir, err := r.devParent(l.Path)
	if err != nil {
		return err
	}
	defer r.closeDir(dir)
	return symlinkat(l.Target, dir, base(l.Path))
}
