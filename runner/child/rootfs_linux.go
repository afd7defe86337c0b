package child

import "syscall"

// rootfs is the container's file tree while it's being put together. The
// mount is attached on top of the old root directory; everything reaches it
// through its descriptor.
type rootfs struct {
	root  int // the root directory's mount
	trees []int
	files []int // of the mounts of kind MountFile that are still to be made
	null  int   // the host's /dev/null, verified
	dev   int   // the mount on /dev, or -1
	late  []lateAttr
	blank int // a mount of an empty directory, or -1
}

// lateAttr is a read-only mark that waits until the devices are made.
type lateAttr struct {
	mount int
	dest  string
}

// newRootfs mounts the trees and the root.
func newRootfs(p *Plan) (*rootfs, error) {
	r := &rootfs{root: -1, dev: -1, blank: -1}
	propagation := uintptr(syscall.MS_PRIVATE)
	if p.Propagation != 0 {
		propagation = uintptr(p.Propagation)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|propagation, ""); err != nil {
		return nil, explain("set the propagation of the mounts", err)
	}
	var err error
	if r.null, err = openNull(); err != nil {
		return nil, err
	}
	if p.Root.Recursive { // before it has what is staged on top of it
		if r.root, err = p.Root.mount(r.emptyDir); err != nil {
			return nil, err
		}
	}
	for i := range p.Trees {
		m, err := p.Trees[i].mount(r.emptyDir)
		if err != nil {
			return nil, err
		}
		r.trees = append(r.trees, m)
	}
	for i := range p.Mounts {
		if err := r.stageTree(&p.Mounts[i]); err != nil {
			return nil, err
		}
		if err := r.stageFile(&p.Mounts[i]); err != nil {
			return nil, err
		}
	}
	if len(p.Masked) > 0 {
		if _, err := r.emptyDir(); err != nil {
			return nil, err
		}
	}
	if r.root < 0 {
		if r.root, err = p.Root.mount(r.emptyDir); err != nil {
			return nil, err
		}
	}
	if p.Detached != nil {
		return r, stageOn(r.root, p.Detached.RootPath)
	}
	return r, stage(r.root)
}

// stageTree attaches the tree that a mount takes a part of: parts of detached
// trees can't be cloned before Linux 6.15.
func (r *rootfs) stageTree(m *Mount) error {
	if m.Kind != MountTree || m.Source == "" {
		return nil
	}
	return stage(r.trees[m.Tree])
}

// stageFile makes a file in memory, on a file system that nobody else sees.
func (r *rootfs) stageFile(m *Mount) error {
	if m.Kind != MountFile {
		return nil
	}
	dir, err := newFS(&Mount{Type: "tmpfs", Params: []string{"source=file", "mode=0700"}})
	if err != nil {
		return explain("mount memory for "+m.Dest, err)
	}
	defer syscall.Close(dir)
	if err := stage(dir); err != nil {
		return err
	}
	f, err := syscall.Openat(dir, "file", syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return explain("create "+m.Dest+" in memory", err)
	}
	r.files = append(r.files, f)
	for rest := m.Content; rest != ""; {
		n, err := syscall.Write(f, []byte(rest))
		if err != nil {
			return explain("write "+m.Dest+" in memory", err)
		}
		rest = rest[n:]
	}
	if err := syscall.Fchown(f, int(m.UID), int(m.GID)); err != nil {
		return explain("chown "+m.Dest, err)
	}
	return explain("chmod "+m.Dest, syscall.Fchmod(f, uint32(m.Mode)))
}

// file returns a mount of the next file in memory.
func (r *rootfs) file() (int, error) {
	f := r.files[0]
	r.files = r.files[1:]
	defer syscall.Close(f)
	return openTree(f, "", false)
}

// openNull opens the host's /dev/null and makes sure that it is what it is
// called: it'll cover files that the step must not read (CVE-2025-31133).
func openNull() (int, error) {
	n, err := openat2(atFDCWD, "/dev/null", oPath, 0)
	if err != nil {
		return -1, explain("open /dev/null", err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return -1, explain("stat /dev/null", err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 1<<8|3 {
		return -1, &failure{"the host's /dev/null is not the null device", syscall.ENODEV}
	}
	return n, nil
}

// mount makes one of the plan's mounts.
func (r *rootfs) mount(m *Mount) error {
	if m.Kind == MountSame {
		return explain("change the mount on "+m.Dest, r.remount(m))
	}
	source, err := r.source(m)
	if err == nil {
		err = r.attach(m, source)
	}
	return explain("mount "+m.label()+" on "+m.Dest, err)
}

func (m *Mount) label() string {
	switch m.Kind {
	case MountFS:
		return m.Type
	case MountTree:
		return "layers"
	case MountFile:
		return "a file"
	}
	return m.Source
}

// source returns the detached mount that will be attached.
func (r *rootfs) source(m *Mount) (int, error) {
	switch m.Kind {
	case MountFS:
		return newFS(m)
	case MountBind:
		return openTree(atFDCWD, m.Source, m.Recursive)
	case MountTree:
		return r.subtree(m)
	case MountFile:
		return r.file()
	case MountOpen:
		return int(m.FD), nil
	}
	return -1, syscall.EINVAL
}

func newFS(m *Mount) (int, error) {
	fs, err := fsopen(m.Type)
	if err != nil {
		return -1, err
	}
	defer syscall.Close(fs)
	if err := setParams(fs, m.Params); err != nil {
		return -1, err
	}
	n, err := newMount(fs, m.Set&^m.lateSet())
	if err != nil {
		return -1, explain("create it"+complaint(fs), err)
	}
	return n, nil
}

// lateSet is what attach leaves for finish.
func (m *Mount) lateSet() uint64 {
	if m.Late {
		return m.Set & attrReadonly
	}
	return 0
}

// subtree returns a mount of a path inside of a tree; no symbolic link leads
// out of it.
func (r *rootfs) subtree(m *Mount) (int, error) {
	tree := r.trees[m.Tree]
	if m.Source == "" {
		return tree, nil
	}
	n, err := openat2(tree, m.Source, oPath, resolveInRoot|resolveNoMagiclinks)
	if err != nil {
		return -1, explain("find "+m.Source+" in the layers", err)
	}
	defer syscall.Close(n)
	return openTree(n, "", false)
}

// attach puts the mount at its place and sets its attributes.
func (r *rootfs) attach(m *Mount, mount int) error {
	if m.Kind != MountFS { // a new mount has its flags
		if err := mountSetattr(mount, false, m.Set&^m.lateSet(), m.Clear, 0); err != nil {
			return explain("set its flags", err)
		}
	}
	if err := mountSetattr(mount, true, m.RecSet, m.RecClear, 0); err != nil {
		return explain("set its flags", err)
	}
	place, err := r.place(m, mount)
	if err != nil {
		return err
	}
	defer syscall.Close(place)
	if m.CopyUp {
		if err := copyUp(place, mount); err != nil {
			return explain("copy what is there", err)
		}
	}
	if err := moveMount(mount, place); err != nil {
		return err
	}
	if err := mountSetattr(mount, m.Propagation&syscall.MS_REC != 0, 0, 0, m.Propagation&^syscall.MS_REC); err != nil {
		return explain("set its propagation", err)
	}
	switch {
	case m.Dest == "/dev":
		r.dev = mount
	case !m.Late:
		syscall.Close(mount)
	}
	if m.lateSet() != 0 {
		r.late = append(r.late, lateAttr{mount, m.Dest})
	}
	return nil
}

// place opens the mount point and creates it when it is missing.
func (r *rootfs) place(m *Mount, mount int) (int, error) {
	resolve := uint64(resolveInRoot | resolveNoMagiclinks)
	if m.Plain {
		resolve |= resolveNoSymlinks
	}
	n, err := openat2(r.root, m.Dest, oPath, resolve)
	if err == nil {
		return n, nil
	}
	if err == syscall.ELOOP && m.Plain {
		return -1, explain("its mount point must not be a symbolic link", err)
	}
	if err != syscall.ENOENT {
		return -1, explain("open its mount point", err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(mount, &st); err != nil {
		return -1, explain("stat its source", err)
	}
	n, err = r.create(m.Dest, st.Mode&syscall.S_IFMT == syscall.S_IFDIR)
	return n, explain("create its mount point", err)
}

// mountAll makes all mounts and devices and hides what is to be hidden.
func (r *rootfs) mountAll(p *Plan) error {
	for i := range p.Mounts {
		if err := r.mount(&p.Mounts[i]); err != nil {
			return err
		}
	}
	if err := r.makeDevices(p); err != nil {
		return err
	}
	for _, late := range r.late {
		if err := mountSetattr(late.mount, false, attrReadonly, 0, 0); err != nil {
			return explain("make "+late.dest+" read-only", err)
		}
	}
	for _, path := range p.Frozen {
		if err := r.freeze(path); err != nil {
			return explain("make "+path+" read-only", err)
		}
	}
	for _, path := range p.Masked {
		if err := r.mask(path); err != nil {
			return explain("hide "+path, err)
		}
	}
	attr := uint64(0)
	if p.RootReadonly {
		attr |= attrReadonly
	}
	if p.RootNodev {
		attr |= attrNodev
	}
	if attr == 0 {
		return nil
	}
	return explain("set the flags of the root", mountSetattr(r.root, false, attr, 0, 0))
}

// existing opens a path of the container; it returns -1 when it isn't there.
func (r *rootfs) existing(path string) (int, error) {
	n, err := openat2(r.root, path, oPath, resolveInRoot|resolveNoMagiclinks)
	if err == syscall.ENOENT || err == syscall.ENOTDIR {
		return -1, nil
	}
	return n, err
}

// freeze makes the path read-only by a mount of it on itself.
func (r *rootfs) freeze(path string) error {
	n, err := r.existing(path)
	if n < 0 {
		return err
	}
	defer syscall.Close(n)
	m, err := openTree(n, "", true)
	if err != nil {
		return err
	}
	defer syscall.Close(m)
	if err := mountSetattr(m, true, attrReadonly, 0, 0); err != nil {
		return err
	}
	return moveMount(m, n)
}

// mask covers a file with the host's null device and a directory with an
// empty one.
func (r *rootfs) mask(path string) error {
	n, err := r.existing(path)
	if n < 0 {
		return err
	}
	defer syscall.Close(n)
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return err
	}
	cover := r.null
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		if cover, err = r.emptyDir(); err != nil {
			return err
		}
	}
	m, err := openTree(cover, "", false)
	if err != nil {
		return err
	}
	defer syscall.Close(m)
	return moveMount(m, n)
}

// emptyDir opens an empty directory. It must be made before the root is staged,
// or it would be mounted on top of it.
func (r *rootfs) emptyDir() (int, error) {
	if r.blank < 0 {
		m, err := stagedTmpfs()
		if err != nil {
			return -1, explain("mount an empty directory", err)
		}
		r.blank = m
	}
	return r.blank, nil
}

// enter makes the tree the process's root and lets go of the old one.
func (r *rootfs) enter() error {
	old, err := openat2(atFDCWD, "/", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return explain("open the old root", err)
	}
	if err := syscall.Fchdir(r.root); err != nil {
		return explain("enter the new root", err)
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return explain("pivot_root", err)
	}
	if err := syscall.Fchdir(old); err != nil {
		return explain("enter the old root", err)
	}
	if err := detachAll(); err != nil {
		return err
	}
	syscall.Close(old)
	return explain("enter the new root", syscall.Chdir("/"))
}

// detachAll unmounts what is mounted on the working directory, the topmost
// first, and then the mount that the directory is the root of: staged mounts
// are on top of the old root, and as long as one of the two is attached, the
// step could reach the host by "/..".
func detachAll() error {
	for n := 0; ; n++ {
		err := syscall.Unmount(".", syscall.MNT_DETACH)
		if err == syscall.EINVAL && n > 0 { // the directory isn't attached anywhere
			return nil
		}
		if err != nil {
			return explain("detach the old root", err)
		}
	}
}
