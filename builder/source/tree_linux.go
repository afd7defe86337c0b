package source

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// dir is a directory of the context that isn't pruned.
type dir struct {
	l      *Local
	path   string // "" for the root
	state  state  // of the filter
	hidden bool   // the patterns hide it unless something in it is visible

	mu     sync.Mutex
	listed bool             // files is complete
	files  []*file          // by name
	single map[string]*file // found one by one, before it was listed
	shown  int8             // whether any is visible: 0 unknown, 1 yes, -1 no
}

// file is an entry of a dir.
type file struct {
	path  string
	id    identity // set when state is known or hashed, as all that follows
	sum   [32]byte // set before state becomes hashed
	more  *details // nil for most
	in    *dir
	dir   *dir // of a directory
	state atomic.Uint32
	mode  uint16 // permission bits and those beside them
	typ   layer.Type
	links bool // it has more than one name, here or elsewhere
	skip  bool // hidden itself: a directory that may have something visible below
	gone  bool // it vanished between listing and looking
	// unsure: it changed so lately, by a clock so coarse, that its identity
	// says too little. Its digest is not kept, and checked when it is read.
	unsure bool
}

// details are what few files have.
type details struct {
	link         string
	major, minor uint32
	mtime        time.Time
	empty        bool // a socket
}

// entry returns what is known of the file. It takes less memory to keep the
// file.
func (f *file) entry() *layer.Entry {
	e := &layer.Entry{Path: f.path, Type: f.typ, Mode: uint32(f.mode), ModTime: time.Unix(0, f.id.mtime), Size: f.size()}
	if d := f.more; d != nil {
		e.Link, e.DevMajor, e.DevMinor, e.ModTime = d.link, d.major, d.minor, d.mtime
	}
	if e.Size > 0 {
		e.Content = f
	}
	return e
}

// size is that of the content.
func (f *file) size() int64 {
	if f.typ != layer.Regular || f.more != nil && f.more.empty {
		return 0
	}
	return f.id.size
}

// States of a file.
const (
	listed uint32 = iota // only its path and whether it is a directory
	known                // the entry is complete
	hashed               // and the digest of its content is known
)

func (d *dir) join(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name
}

// name is the last element of the file's path.
func (f *file) name() string {
	if f.in.path == "" {
		return f.path
	}
	return f.path[len(f.in.path)+1:]
}

// open opens the directory for reading.
func (d *dir) open() (int, error) {
	p := d.path
	if p == "" {
		p = "."
	}
	return openBeneath(d.l.fd, p, unix.O_RDONLY|unix.O_DIRECTORY)
}

// child returns the file of a name: from the list, or by looking for this one.
func (d *dir) child(name string) (*file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listed {
		i, ok := slices.BinarySearchFunc(d.files, name, func(f *file, name string) int {
			return strings.Compare(f.name(), name)
		})
		if !ok || d.files[i].gone {
			return nil, fs.ErrNotExist
		}
		return d.files[i], nil
	}
	if f := d.single[name]; f != nil {
		return f, nil
	}
	return d.probe(name)
}

// probe looks for one name without reading the directory.
func (d *dir) probe(name string) (*file, error) {
	path := d.join(name)
	fd, err := openBeneath(d.l.fd, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := stat(fd, "", &st); err != nil {
		return nil, err
	}
	f := &file{}
	if !d.accept(f, path, st.Mode) {
		return nil, fs.ErrNotExist
	}
	var link string
	if f.typ == layer.Symlink {
		if link, err = readlink(fd, ""); err != nil {
			return nil, err
		}
	}
	f.fill(&st, link)
	f.state.Store(known)
	if d.single == nil {
		d.single = map[string]*file{}
	}
	d.single[name] = f
	return f, nil
}

// accept makes f the file at path, of which the type is known; false when the
// patterns hide it and all below it.
func (d *dir) accept(f *file, path string, mode uint16) bool {
	typ, ok := entryType(mode)
	if !ok {
		return false
	}
	f.path, f.typ, f.in = path, typ, d
	isDir := typ == layer.Directory
	if d.l.filter.empty() {
		if isDir {
			f.dir = &dir{l: d.l, path: path}
		}
		return true
	}
	v := d.l.filter.look(path, isDir, d.state)
	if v.drop {
		return false
	}
	f.skip = v.skip
	if isDir {
		f.dir = &dir{l: d.l, path: path, state: v.state, hidden: v.skip}
	}
	return true
}

// fill completes the file with its attributes.
func (f *file) fill(st *unix.Statx_t, link string) {
	f.id, f.links = identityOf(st), st.Nlink > 1
	f.mode = st.Mode & 0o7777
	d := details{link: link, mtime: timeOf(st.Mtime)}
	d.empty = f.typ == layer.Regular && st.Mode&unix.S_IFMT != unix.S_IFREG
	if f.typ == layer.Char || f.typ == layer.Block {
		d.major, d.minor = st.Rdev_major, st.Rdev_minor
	}
	if d != (details{mtime: time.Unix(0, f.id.mtime)}) {
		f.more = &d
	}
}

func timeOf(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// sameType says that a file still is what it was listed as.
func (f *file) sameType(st *unix.Statx_t) bool {
	t, ok := entryType(st.Mode)
	return ok && t == f.typ
}

// look completes the entry if nobody has yet.
func (f *file) look() error {
	if f.state.Load() >= known {
		return nil
	}
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	if f.state.Load() >= known {
		return nil
	}
	fd, err := openBeneath(f.in.l.fd, f.path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := stat(fd, "", &st); err != nil {
		return err
	}
	if !f.sameType(&st) {
		return changed(f.path)
	}
	var link string
	if f.typ == layer.Symlink {
		if link, err = readlink(fd, ""); err != nil {
			return err
		}
	}
	f.fill(&st, link)
	f.state.Store(known)
	return nil
}

// readNames returns the names of what is visible in the directory.
func (d *dir) readNames() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.list(-1, nil); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(d.files))
	for _, f := range d.files {
		if f.gone {
			continue
		}
		if f.skip {
			ok, err := f.dir.anyVisible()
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
		}
		names = append(names, f.name())
	}
	return names, nil
}

// anyVisible says whether the patterns show anything below the directory. It
// stops at the first such thing.
func (d *dir) anyVisible() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shown != 0 {
		return d.shown > 0, nil
	}
	err := d.list(-1, nil)
	if d.hidden && (errors.Is(err, fs.ErrPermission) || missing(err) == fs.ErrNotExist) {
		d.shown = -1
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d.shown = -1
	for _, f := range d.files {
		ok := !f.gone
		if f.skip {
			if ok, err = f.dir.anyVisible(); err != nil {
				d.shown = 0
				return false, err
			}
		}
		if ok {
			d.shown = 1
			break
		}
	}
	return d.shown > 0, nil
}

// list reads the names in the directory through fd, or through a descriptor of
// its own when fd is negative. The caller holds d.mu.
func (d *dir) list(fd int, buf []byte) error {
	if d.listed {
		return nil
	}
	if fd < 0 {
		own, err := d.open()
		if err != nil {
			return err
		}
		defer unix.Close(own)
		fd = own
	}
	if buf == nil {
		buf = make([]byte, direntBytes)
	}
	paths, modes, err := d.readPaths(fd, buf)
	if err != nil {
		return err
	}
	d.take(paths, modes)
	d.listed, d.single = true, nil
	return nil
}

// readPaths returns the paths of all that is in the directory, with their types.
func (d *dir) readPaths(fd int, buf []byte) (paths []string, modes []uint16, err error) {
	var text []byte // all paths, one after the other: one allocation for all
	var ends []int
	prefix := d.join("")
	err = readDirents(fd, buf, func(name []byte, mode uint16) {
		text = append(append(text, prefix...), name...)
		ends = append(ends, len(text))
		modes = append(modes, mode)
	})
	if err != nil {
		return nil, nil, err
	}
	all, start := string(text), 0
	paths = make([]string, len(ends))
	for i, end := range ends {
		paths[i], start = all[start:end], end
	}
	for i, mode := range modes {
		if mode == 0 { // the file system doesn't tell types here
			var st unix.Statx_t
			err := stat(fd, paths[i][len(prefix):], &st)
			if err != nil && missing(err) != fs.ErrNotExist {
				return nil, nil, err
			}
			modes[i] = st.Mode
		}
	}
	return paths, modes, nil
}

// take makes the directory's files of a list of paths.
func (d *dir) take(paths []string, modes []uint16) {
	var slab []file // of entries that aren't handed out yet
	d.files = make([]*file, 0, len(paths))
	prefix := len(d.join(""))
	for i, path := range paths {
		if len(slab) == 0 {
			slab = make([]file, min(len(paths)-i, 128))
		}
		f := &slab[0]
		if old := d.single[path[prefix:]]; old != nil {
			f = old
			delete(d.single, path[prefix:])
		} else if d.accept(f, path, modes[i]) {
			slab = slab[1:]
		} else {
			continue
		}
		d.files = append(d.files, f)
	}
	for _, f := range d.single { // seen before, gone now: for those to say who read it
		d.files = append(d.files, f)
	}
	slices.SortFunc(d.files, func(a, b *file) int { return strings.Compare(a.path, b.path) })
}
