package child

import "syscall"

// longestParam is what fsconfig takes as a string, without its zero byte.
const longestParam = 255

// mount returns a mount of the tree, detached unless the kernel is old.
func (o *Overlay) mount(empty emptyDir) (int, error) {
	switch {
	case len(o.Lower) == 0 && o.Upper == "":
		return -1, &failure{"mount a tree without layers", syscall.EINVAL}
	case len(o.Lower) == 0:
		m, err := openTree(atFDCWD, o.Upper, o.Recursive)
		return m, explain("bind "+o.Upper, err)
	case o.Classic:
		return o.classicMount(empty)
	}
	m, err := o.newMount(empty)
	if err == errNoLowerdirPlus {
		return o.classicMount(empty)
	}
	return m, err
}

// options keep a layer's directory free of what only this mount would
// understand, and ignore such marks in layers that came from elsewhere.
func (o *Overlay) options() []string {
	list := []string{"redirect_dir=nofollow", "metacopy=off", "index=off"}
	if o.UserXattr {
		list = append(list, "userxattr")
	}
	return list
}

var errNoLowerdirPlus error = &failure{"fsconfig lowerdir+", syscall.EINVAL}

func (o *Overlay) newMount(empty emptyDir) (int, error) {
	fs, err := fsopen("overlay")
	if err != nil {
		return -1, explain("fsopen overlay", err)
	}
	defer syscall.Close(fs)
	lower, err := o.lowerStack(empty)
	if err != nil {
		return -1, err
	}
	for i, dir := range lower {
		err := setPath(fs, "lowerdir+", dir)
		if err == nil {
			continue
		}
		said := complaint(fs)
		if err == syscall.EINVAL && (i == 0 && said == " (overlay: Unknown parameter 'lowerdir+')" || isLegacy(said)) {
			return -1, errNoLowerdirPlus
		}
		return -1, explain("overlay layer "+dir+said, err)
	}
	params := append([]string{"source=overlay"}, o.options()...)
	if o.Upper != "" {
		if err := setPath(fs, "upperdir", o.Upper); err != nil {
			return -1, explain("overlay upper directory "+o.Upper+complaint(fs), err)
		}
		if err := setPath(fs, "workdir", o.Work); err != nil {
			return -1, explain("overlay work directory "+o.Work+complaint(fs), err)
		}
		params = append(params, "volatile")
		if fsconfig(fs, fsconfigString, "uuid", "null") != nil { // before Linux 6.6
			complaint(fs)
		}
	}
	if err := setParams(fs, params); err != nil {
		return -1, explain("mount overlay", err)
	}
	m, err := newMount(fs, 0)
	if err == nil {
		return m, nil
	}
	said := complaint(fs)
	if err == syscall.EINVAL && said == "" { // before Linux 6.5 nothing looks at parameters earlier
		return -1, errNoLowerdirPlus
	}
	return -1, explain("mount overlay on "+lower[0]+said, err)
}

// isLegacy reports that a file system's parameters are still collected for
// mount(2), as overlay's are before Linux 6.5, and don't fit any more.
func isLegacy(said string) bool {
	const legacy = " (VFS: Legacy: "
	return len(said) > len(legacy) && said[:len(legacy)] == legacy
}

// emptyDir opens an empty directory that can be a layer.
type emptyDir = func() (int, error)

// lowerStack returns the lower directories. A read-only overlay needs two, so
// a single layer gets an empty one below it.
func (o *Overlay) lowerStack(empty emptyDir) ([]string, error) {
	if o.Upper != "" || len(o.Lower) > 1 {
		return o.Lower, nil
	}
	dir, err := empty()
	if err != nil {
		return nil, err
	}
	return []string{o.Lower[0], fdPath(dir)}, nil
}

// stagedTmpfs returns an empty file system that is attached, out of sight, on
// top of the old root; overlayfs does not take detached ones as layers.
func stagedTmpfs() (int, error) {
	fs, err := fsopen("tmpfs")
	if err != nil {
		return -1, err
	}
	defer syscall.Close(fs)
	if err := setParams(fs, []string{"source=empty", "mode=0755", "nr_inodes=2"}); err != nil {
		return -1, err
	}
	m, err := newMount(fs, attrReadonly)
	if err != nil {
		return -1, err
	}
	return m, stage(m)
}

// stage attaches a mount on top of the root directory, where it's found by its
// descriptor only.
func stage(mount int) error { return stageOn(mount, "/") }

// stageOn attaches a mount on top of a directory of the old root.
func stageOn(mount int, path string) error {
	root, err := openat2(atFDCWD, path, oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return explain("open "+path, err)
	}
	defer syscall.Close(root)
	return explain("stage a mount", moveMount(mount, root))
}

// setPath sets a parameter to a path of any length.
func setPath(fs int, key, path string) error {
	if len(path) <= longestParam {
		return fsconfig(fs, fsconfigString, key, path)
	}
	dir, err := openat2(atFDCWD, path, oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(dir)
	return fsconfig(fs, fsconfigString, key, fdPath(dir))
}

// setParams applies parameters of the form "key=value" or "flag".
func setParams(fs int, params []string) error {
	for _, p := range params {
		key, value, cmd := p, "", uintptr(fsconfigFlag)
		for i := range len(p) {
			if p[i] == '=' {
				key, value, cmd = p[:i], p[i+1:], fsconfigString
				break
			}
		}
		if err := fsconfig(fs, cmd, key, value); err != nil {
			return explain("option "+p+complaint(fs), err)
		}
	}
	return nil
}

// classicMount makes the mount by mount(2). Its one page of options holds a
// couple of hundred layers because each is named by a descriptor. The mount is
// made on the topmost layer's directory, and taken off again when a detached
// copy is there.
func (o *Overlay) classicMount(empty emptyDir) (int, error) {
	lower, err := o.lowerStack(empty)
	if err != nil {
		return -1, err
	}
	data, open := "", []int{}
	defer func() {
		for _, n := range open {
			syscall.Close(n)
		}
	}()
	add := func(sep, dir string) error {
		n, err := openat2(atFDCWD, dir, oPath|syscall.O_DIRECTORY, 0)
		if err != nil {
			return explain("overlay layer "+dir, err)
		}
		open = append(open, n)
		data += sep + fdPath(n)
		return nil
	}
	sep := "lowerdir="
	for _, dir := range lower {
		if err := add(sep, dir); err != nil {
			return -1, err
		}
		sep = ":"
	}
	if o.Upper != "" {
		if err := add(",upperdir=", o.Upper); err != nil {
			return -1, err
		}
		if err := add(",workdir=", o.Work); err != nil {
			return -1, err
		}
		data += ",volatile"
	}
	for _, option := range o.options() {
		data += "," + option
	}
	return mountOver(o.Lower[0], data)
}

func mountOver(dir, data string) (int, error) {
	op := "mount overlay on " + dir
	if err := syscall.Mount("overlay", dir, "overlay", 0, data); err != nil {
		return -1, explain(op, err)
	}
	m, err := openTree(atFDCWD, dir, false)
	if err != nil {
		return -1, explain(op, err)
	}
	return m, explain(op, syscall.Unmount(dir, syscall.MNT_DETACH))
}
