package source

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bk.build/bk/layout/layer"
)

// Scan walks all that is visible at and below path, in parallel, and determines
// the digests of all regular files there that the index doesn't have. After it,
// Lstat and ReadDir of these paths look nothing up outside of memory. It ends
// with the first error.
func (l *Local) Scan(ctx context.Context, path string) error {
	f, err := l.find(path)
	if err != nil {
		return l.fail("scan", path, err)
	}
	l.scanning.Lock()
	defer l.scanning.Unlock()
	l.indexing.Do(l.loadIndex)
	s := &scan{l: l, ctx: ctx}
	s.wake.L = &s.mu
	if f.dir != nil {
		s.tasks = []task{{d: f.dir, self: f}}
	} else {
		s.tasks = []task{{d: f.in, files: []*file{f}}}
	}
	var wg sync.WaitGroup
	for range l.opts.Jobs {
		wg.Go(s.work)
	}
	wg.Wait()
	return s.err
}

// scan is a walk in progress: a stack of tasks that its workers share.
type scan struct {
	l   *Local
	ctx context.Context

	mu    sync.Mutex
	wake  sync.Cond
	tasks []task
	busy  int // workers with a task, who may push more
	err   error
}

// task is a piece of work: a directory, or some of its files.
type task struct {
	d     *dir
	self  *file   // the directory's own entry, when it is to be walked
	files []*file // otherwise
	fd    *shared // the open directory; nil: to be opened
}

// shared is a directory descriptor that several tasks use.
type shared struct {
	fd   int
	uses atomic.Int32
}

func (s *shared) release() {
	if s.uses.Add(-1) == 0 {
		unix.Close(s.fd)
	}
}

// batchFiles is how many files a task has.
const batchFiles = 128

func (s *scan) work() {
	w := worker{s: s, l: s.l}
	for {
		t, ok := s.pop()
		if !ok {
			return
		}
		s.done(w.run(t))
	}
}

func (s *scan) pop() (task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.tasks) == 0 && s.busy > 0 {
		s.wake.Wait()
	}
	n := len(s.tasks)
	if n == 0 {
		return task{}, false
	}
	t := s.tasks[n-1]
	s.tasks = s.tasks[:n-1]
	s.busy++
	return t, true
}

func (s *scan) push(t []task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		drop(t)
		return
	}
	s.tasks = append(s.tasks, t...)
	s.wake.Broadcast()
}

// drop gives up tasks that will not be run.
func drop(tasks []task) {
	for _, t := range tasks {
		if t.fd != nil {
			t.fd.release()
		}
	}
}

func (s *scan) done(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = context.Cause(s.ctx)
	}
	if err != nil && s.err == nil {
		s.err = err
	}
	if s.err != nil {
		drop(s.tasks)
		s.tasks = nil
	}
	if s.busy--; s.busy == 0 {
		s.wake.Broadcast()
	}
}

// worker runs tasks, one at a time.
type worker struct {
	s *scan
	l *Local
	hasher
	names []byte // buffer for directory entries
	at    *dir   // that the last files were of
	old   cursor // what the index has of it
}

func (w *worker) run(t task) error {
	if t.self != nil {
		return w.walk(t)
	}
	if t.fd == nil {
		fd, err := t.d.open()
		if err != nil {
			return readable(t.d.path, err)
		}
		t.fd = &shared{fd: fd}
		t.fd.uses.Store(1)
	}
	defer t.fd.release()
	return w.batch(t)
}

// walk lists a directory and leaves its subdirectories and batches of its files
// as tasks.
func (w *worker) walk(t task) error {
	fd, err := t.d.open()
	if err != nil {
		return w.unread(t, err)
	}
	dir := &shared{fd: fd}
	dir.uses.Store(1)
	defer dir.release()
	if t.self.state.Load() < known {
		if err := w.lookDir(t.self, fd); err != nil {
			return readable(t.d.path, err)
		}
	}
	files, err := w.list(t.d, fd)
	if err != nil {
		return w.unread(t, err)
	}
	if tasks := split(t.d, files, dir); len(tasks) > 0 {
		w.s.push(tasks)
	}
	return nil
}

// unread is about a directory that cannot be read: that is no problem when the
// patterns don't show it and just could show something in it.
func (w *worker) unread(t task, err error) error {
	err = missing(err)
	if t.self.skip && (errors.Is(err, fs.ErrPermission) || err == fs.ErrNotExist) {
		return nil
	}
	if err == fs.ErrNotExist {
		return t.self.vanish()
	}
	return readable(t.self.path, err)
}

// lookDir completes a directory's entry by its open descriptor.
func (w *worker) lookDir(f *file, fd int) error {
	var st unix.Statx_t
	if err := stat(fd, "", &st); err != nil {
		return err
	}
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	if f.state.Load() < known {
		f.fill(&st, "")
		f.state.Store(known)
	}
	return nil
}

func (w *worker) list(d *dir, fd int) ([]*file, error) {
	if w.names == nil {
		w.names = make([]byte, direntBytes)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.list(fd, w.names)
	return d.files, err
}

// split makes tasks of what is in a directory: the batches of files last, so
// that they are done first and the descriptor is not open for long.
func split(d *dir, files []*file, fd *shared) []task {
	var tasks []task
	var work []*file
	for _, f := range files {
		switch {
		case f.dir != nil:
			tasks = append(tasks, task{d: f.dir, self: f})
		case !f.scanned():
			work = append(work, f)
		}
	}
	for len(work) > 0 {
		n := min(len(work), batchFiles)
		fd.uses.Add(1)
		tasks = append(tasks, task{d: d, files: work[:n], fd: fd})
		work = work[n:]
	}
	return tasks
}

// scanned says that a scan has nothing to add to what is known of a file.
func (f *file) scanned() bool {
	s := f.state.Load()
	return s == hashed || s == known && f.typ != layer.Regular
}

// batch looks at files of a directory, in the order of their names.
func (w *worker) batch(t task) error {
	if w.at != t.d {
		w.at, w.old = t.d, w.l.index.dir(t.d.path)
	}
	w.old.from(t.files[0].name())
	for _, f := range t.files {
		if err := context.Cause(w.s.ctx); err != nil {
			return err
		}
		if err := w.file(f, t.fd.fd, &w.old); err != nil {
			return err
		}
	}
	return nil
}

// file completes a file's entry and, of a regular file, determines its digest.
// dir is its open directory.
func (w *worker) file(f *file, dir int, old *cursor) error {
	if f.scanned() {
		return nil
	}
	v, err := w.version(f, dir, old)
	if missing(err) == fs.ErrNotExist {
		return f.vanish()
	}
	switch {
	case err == layer.ErrChanged:
		return changed(f.path)
	case err != nil:
		return readable(f.path, err)
	}
	return f.publish(v)
}

// version is what a file was at one moment.
type version struct {
	st     unix.Statx_t
	link   string
	sum    [32]byte
	unsure bool
}

// attempts is how often a file is read that is written to meanwhile.
const attempts = 4

// version reads a file until it holds still.
func (w *worker) version(f *file, dir int, old *cursor) (*version, error) {
	name := f.name()
	for range attempts {
		v := &w.v
		*v = version{}
		if err := stat(dir, name, &v.st); err != nil {
			return nil, err
		}
		if !f.sameType(&v.st) {
			return nil, layer.ErrChanged
		}
		ok, err := w.content(v, f, dir, name, old)
		if ok || err != nil {
			return v, err
		}
	}
	return nil, layer.ErrChanged
}

// content completes a version of which the attributes are known; false when the
// file changed meanwhile.
func (w *worker) content(v *version, f *file, dir int, name string, old *cursor) (ok bool, err error) {
	if f.typ == layer.Symlink {
		if v.link, err = readlink(dir, name); err != nil {
			return false, err
		}
	}
	if v.st.Mode&unix.S_IFMT != unix.S_IFREG {
		v.sum = emptySum
		return true, nil
	}
	id := identityOf(&v.st)
	if r, hit := old.find(name); hit && r.id == id {
		v.sum = r.sum
		w.used(r.day)
		return true, nil
	}
	w.l.changed.Store(true)
	if id.size == 0 {
		v.sum = emptySum
		return true, nil
	}
	return w.hash(v, id, dir, name)
}

// used notes that a record of the index was of use; it is written again when
// the last time was long ago.
func (w *worker) used(day uint16) {
	if int(w.l.today)-int(day) >= useDays {
		w.l.changed.Store(true)
	}
}

// publish makes a version what the file is in this build.
func (f *file) publish(v *version) error {
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	switch f.state.Load() {
	case hashed:
		return nil
	case known: // somebody has seen it before
		if f.id != identityOf(&v.st) {
			return changed(f.path)
		}
	default:
		f.fill(&v.st, v.link)
	}
	f.sum, f.unsure = v.sum, v.unsure
	if f.typ == layer.Regular {
		f.state.Store(hashed)
	} else {
		f.state.Store(known)
	}
	return nil
}

// vanish takes a file out of the tree that was removed after it was listed.
func (f *file) vanish() error {
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	if f.state.Load() >= known {
		return changed(f.path)
	}
	f.gone = true
	return nil
}
