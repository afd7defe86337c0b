//go:build amd64 || arm64

package trace

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// view is what of the host's files a step sees, and where.
type view struct {
	root     string // of the host, without symbolic links
	readOnly bool   // of the root
	binds    []bind // the deepest first
}

type bind struct {
	Bind
	rights uint64 // the step's, by Landlock
}

// devices are the host's devices that every step sees.
func devices() []string {
	return []string{"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx"}
}

// newView makes what the step's binds need.
func newView(o *Options) (*view, error) {
	root, err := onHost(o.Root)
	if err != nil {
		return nil, explain("find the root directory "+o.Root, err)
	}
	v := &view{root: root}
	dev := filepath.Join(o.Private, "dev")
	list := []bind{
		{Bind{Guest: "/proc", Host: "/proc"}, llRead | llReadDir | llWrite},
		{Bind{Guest: "/sys", Host: "/sys", ReadOnly: true}, llRead | llReadDir},
		{Bind{Guest: "/dev", Host: dev}, llAll},
	}
	if err := makeDev(dev); err != nil {
		return nil, explain("make /dev", err)
	}
	for _, name := range devices() {
		host, err := onHost("/dev/" + name)
		if err != nil {
			continue // the host doesn't have it
		}
		list = append(list, bind{Bind{Guest: "/dev/" + name, Host: host}, llRead | llReadDir | llWrite | llIoctl})
	}
	for _, b := range o.Binds {
		host, err := onHost(b.Host)
		if err != nil {
			return nil, explain("find "+b.Host, err)
		}
		rights := uint64(llAll)
		if b.ReadOnly {
			rights = llLook
		}
		guest := b.Guest
		list = slices.DeleteFunc(list, func(o bind) bool { return o.Guest == guest })
		list = append(list, bind{Bind{guest, host, b.ReadOnly}, rights})
	}
	// Mount points, from the highest on.
	slices.SortStableFunc(list, func(a, b bind) int { return strings.Count(a.Guest, "/") - strings.Count(b.Guest, "/") })
	for _, b := range list {
		slices.Reverse(v.binds)
		if err := v.mountPoint(b.Bind); err != nil {
			return nil, explain("make the mount point "+b.Guest, err)
		}
		slices.Reverse(v.binds)
		v.binds = append(v.binds, b)
	}
	slices.Reverse(v.binds)
	v.readOnly = o.ReadOnly
	return v, nil
}

// onHost resolves a path that the step has no part in: one that the caller or
// this package names.
func onHost(name string) (string, error) {
	return filepath.EvalSymlinks(name) //nolint:forbidigo // a path of the host
}

// makeDev fills a directory with what a listing of /dev is to show.
func makeDev(dev string) error {
	err := errors.Join(os.Mkdir(dev, 0o755), os.Mkdir(dev+"/shm", 0o700), os.Chmod(dev+"/shm", 0o777|os.ModeSticky), os.Mkdir(dev+"/mqueue", 0o755))
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(dev, name)))
	}
	for _, name := range devices() {
		if name == "pts" {
			err = errors.Join(err, os.Mkdir(filepath.Join(dev, name), 0o755))
			continue
		}
		f, errFile := os.OpenFile(filepath.Join(dev, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if errFile != nil {
			return errors.Join(err, errFile)
		}
		err = errors.Join(err, f.Close())
	}
	return err
}

// mountPoint makes a place for the bind when there is none. Symbolic links are
// followed inside of the root; the place itself must not be one.
func (v *view) mountPoint(b Bind) error {
	w := walk{view: v}
	r, errno := w.resolve("/", b.Guest, false)
	if errno == 0 && !r.missing() {
		return nil
	}
	var source syscall.Stat_t
	if errno := fstatat(b.Host, 0, &source); errno == syscall.ENOENT {
		return nil // a device that isn't there
	}
	dir := "/"
	for name := range strings.FieldsFuncSeq(filepath.Dir(b.Guest), func(c rune) bool { return c == '/' }) {
		r, errno := w.resolve(dir, name, true)
		if errno != 0 {
			return errno
		}
		if r.missing() {
			if err := syscall.Mkdir(r.host, 0o755); err != nil {
				return err
			}
		}
		dir = r.guest
	}
	r, errno = w.resolve(dir, filepath.Base(b.Guest), false)
	if errno != 0 {
		return errno
	}
	if source.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return syscall.Mkdir(r.host, 0o755)
	}
	return syscall.Mknod(r.host, syscall.S_IFREG|0o644, 0)
}

// rules are the places that Landlock allows.
func (v *view) rules() []rule {
	list := []rule{{v.root, llAll, llAll}}
	if v.readOnly {
		list[0].inner = llLook
	}
	for _, b := range v.binds {
		outer := b.rights
		if b.Host == "/proc" {
			outer |= llExecute
		}
		list = append(list, rule{b.Host, outer, b.rights})
	}
	return list
}

// under returns what is left of name below dir.
func under(name, dir string) (rest string, ok bool) {
	if dir == "/" {
		return name, true
	}
	rest, ok = strings.CutPrefix(name, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// at returns where on the host a clean path of the step is, when nothing in
// it is a symbolic link.
func (v *view) at(guest string) (host string, readOnly bool) {
	for i := range v.binds {
		b := &v.binds[i]
		if rest, ok := under(guest, b.Guest); ok {
			return b.Host + rest, b.ReadOnly
		}
	}
	if guest == "/" {
		return v.root, v.readOnly
	}
	return v.root + guest, v.readOnly
}

// guest returns where the step sees a file of the host; false: nowhere.
func (v *view) guest(host string) (string, bool) {
	best, length, found := "", -1, false
	try := func(guest, place string) {
		if rest, ok := under(host, place); ok && len(place) > length {
			best, length, found = guest+rest, len(place), true
			if guest == "/" {
				best = rest
			}
		}
	}
	try("/", v.root)
	for _, b := range v.binds {
		try(b.Guest, b.Host)
	}
	if found && best == "" {
		best = "/"
	}
	return best, found
}

// makeCwd makes the working directory and what is missing above it.
func (v *view) makeCwd(cwd string) error {
	w, dir := walk{view: v}, "/"
	for name := range strings.FieldsFuncSeq(cwd, func(c rune) bool { return c == '/' }) {
		p, errno := w.resolve(dir, name, true)
		if errno != 0 {
			return &failure{"make the working directory " + cwd, errno}
		}
		if p.missing() {
			if err := syscall.Mkdir(p.host, 0o755); err != nil {
				return explain("make the working directory "+cwd, err)
			}
		}
		dir = p.guest
	}
	return nil
}
