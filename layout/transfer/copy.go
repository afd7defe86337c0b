package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
)

const (
	blobsAtATime     = 4 // by default
	documentsAtATime = 8 // manifests, and questions whether something is there
	maxNesting       = 8 // indexes within indexes
	maxDocuments     = 1e5
)

// Options configures a copy. The zero value copies the image alone, quietly.
type Options struct {
	// Jobs is how many blobs move at a time; 0: 4.
	Jobs int
	// Progress is told what happens, by several goroutines; nil: nobody is.
	Progress func(Event)
	// Referrers takes along what refers to the image: signatures, attestations,
	// SBOMs and other artifacts.
	Referrers bool
	// From is the image's reference in its place, when that has tags beside it
	// that belong to the image.
	From string
}

// An Event is something that happened to a blob.
type Event struct {
	Desc  ocispec.Descriptor
	State State
	// Bytes that have moved, of a Moving event.
	Bytes int64
	Err   error // of a Failed event
}

// State says what happened.
type State int

// The states of a blob. The last event of each is one of those from Copied on.
const (
	Moving  State = iota // a part was read; the first such event has no bytes
	Copied               // it was streamed to its end
	Exists               // the destination had it
	Mounted              // the destination took it from a repository beside it
	Linked               // the destination took the file
	Skipped              // a layer that is not distributed; its URL is in the manifest
	Failed
)

// Copy copies the image, index or artifact desc from src to dst, under the given
// names; see [Copier.Image].
func Copy(ctx context.Context, dst Writer, src Reader, desc ocispec.Descriptor, names []string, opts Options) error {
	c := NewCopier(dst, opts)
	if !opts.Referrers {
		return c.Image(ctx, src, desc, names...)
	}
	if err := c.Image(ctx, src, desc); err != nil {
		return err
	}
	if err := c.referrersOf(ctx, src, desc, opts.From, names); err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	return c.Image(ctx, src, desc, names...)
}

// A Copier brings content to one destination. Each blob moves once, whoever asks
// for it, and however often. It is safe for concurrent use.
type Copier struct {
	dst   Writer
	opts  Options
	blobs chan struct{} // bounds the blobs that move
	docs  chan struct{} // bounds the documents

	mu    sync.Mutex
	tasks map[digest.Digest]*task
}

// task is the future of one descriptor.
type task struct {
	desc ocispec.Descriptor
	done chan struct{}
	err  error
}

// NewCopier returns a Copier to dst.
func NewCopier(dst Writer, opts Options) *Copier {
	jobs := opts.Jobs
	if jobs <= 0 {
		jobs = blobsAtATime
	}
	return &Copier{
		dst: dst, opts: opts, tasks: map[digest.Digest]*task{},
		blobs: make(chan struct{}, jobs), docs: make(chan struct{}, documentsAtATime),
	}
}

// Image brings desc and everything that it consists of to the destination and
// makes the names lead to it: blobs first, documents after what they name, the
// names last. When the destination has the whole image, only names are written.
func (c *Copier) Image(ctx context.Context, src Reader, desc ocispec.Descriptor, names ...string) error {
	if len(names) == 0 {
		return c.document(ctx, src, desc, 0)
	}
	has, err := c.has(ctx, desc)
	if err != nil {
		return err
	}
	b, err := c.read(ctx, src, desc)
	if err != nil {
		return err
	}
	if !has {
		if err := c.children(ctx, src, desc, b, 0); err != nil {
			return err
		}
	}
	if err := c.dst.PutManifest(ctx, desc, b, names...); err != nil {
		return err
	}
	c.note(desc)
	return nil
}

// note makes a document count as copied.
func (c *Copier) note(desc ocispec.Descriptor) {
	if t, first := c.task(desc); first {
		close(t.done)
	}
}

// Blob brings one blob to the destination.
func (c *Copier) Blob(ctx context.Context, src Reader, desc ocispec.Descriptor) error {
	return c.once(ctx, desc, func() error {
		state, err := c.move(ctx, under(src, desc), desc)
		c.emit(Event{Desc: desc, State: state, Err: err})
		return err
	})
}

// once runs f for the first who asks for desc; the others wait for it.
func (c *Copier) once(ctx context.Context, desc ocispec.Descriptor, f func() error) error {
	t, first := c.task(desc)
	if first {
		t.err = f()
		close(t.done)
		return t.err
	}
	if err := layout.SameBlob(t.desc, desc); err != nil {
		return err
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Copier) task(desc ocispec.Descriptor) (t *task, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tasks[desc.Digest]; t != nil {
		return t, false
	}
	t = &task{desc: desc, done: make(chan struct{})}
	c.tasks[desc.Digest] = t
	return t, true
}

func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Copier) emit(e Event) {
	if c.opts.Progress != nil {
		c.opts.Progress(e)
	}
}

// document brings a manifest or an index, and what is below it, without a name.
func (c *Copier) document(ctx context.Context, src Reader, desc ocispec.Descriptor, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("index %s: more than %d indexes within each other", desc.Digest, maxNesting)
	}
	return c.once(ctx, desc, func() error {
		if has, err := c.has(ctx, desc); err != nil || has {
			return err
		}
		b, err := c.read(ctx, src, desc)
		if err != nil {
			return err
		}
		if err := c.children(ctx, src, desc, b, depth); err != nil {
			return err
		}
		if err := acquire(ctx, c.docs); err != nil {
			return err
		}
		defer func() { <-c.docs }()
		return c.dst.PutManifest(ctx, desc, b)
	})
}

func (c *Copier) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := acquire(ctx, c.docs); err != nil {
		return false, err
	}
	defer func() { <-c.docs }()
	return c.dst.Has(ctx, desc)
}

func (c *Copier) read(ctx context.Context, src Reader, desc ocispec.Descriptor) ([]byte, error) {
	if err := acquire(ctx, c.docs); err != nil {
		return nil, err
	}
	defer func() { <-c.docs }()
	return ReadDocument(ctx, src, desc, layout.MaxManifest)
}

// children brings what a document names, side by side.
func (c *Copier) children(ctx context.Context, src Reader, desc ocispec.Descriptor, b []byte, depth int) error {
	children, err := layout.Children(desc, func(ocispec.Descriptor, int64) ([]byte, error) { return b, nil })
	if err != nil {
		return err
	}
	c.mu.Lock()
	known := len(c.tasks)
	c.mu.Unlock()
	if known+len(children) > maxDocuments {
		return fmt.Errorf("%s: it has more than %d parts", desc.Digest, int(maxDocuments))
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, child := range children {
		g.Go(func() error {
			if layout.IsIndex(child.MediaType) || layout.IsManifest(child.MediaType) {
				return c.document(gctx, src, child, depth+1)
			}
			return c.Blob(gctx, src, child)
		})
	}
	return g.Wait()
}

// move brings a blob in the cheapest way there is.
func (c *Copier) move(ctx context.Context, src Reader, desc ocispec.Descriptor) (State, error) {
	if state, err := c.spare(ctx, src, desc); err != nil || state != Moving {
		return stateOf(state, err)
	}
	if err := acquire(ctx, c.blobs); err != nil {
		return Failed, err
	}
	defer func() { <-c.blobs }()
	if l, ok := c.dst.(Linker); ok {
		if done, err := l.Link(ctx, desc, src); err != nil || done {
			return stateOf(Linked, err)
		}
	}
	c.emit(Event{Desc: desc, State: Moving})
	in, err := open(ctx, src, desc)
	if errors.Is(err, fs.ErrNotExist) && layout.IsForeign(desc.MediaType) && len(desc.URLs) > 0 {
		return Skipped, nil
	}
	if err != nil {
		return Failed, err
	}
	defer in.Close()
	return stateOf(Copied, c.dst.PutBlob(ctx, desc, c.watch(desc, in)))
}

// spare finds out whether a blob need not move: Mounted, Exists, or Moving when it
// must. A mount is as cheap as to ask, and does not need the question.
func (c *Copier) spare(ctx context.Context, src Reader, desc ocispec.Descriptor) (State, error) {
	if err := acquire(ctx, c.docs); err != nil {
		return Failed, err
	}
	defer func() { <-c.docs }()
	if done, err := c.mount(ctx, src, desc); err != nil || done {
		return Mounted, err
	}
	if has, err := c.dst.Has(ctx, desc); err != nil || has {
		return Exists, err
	}
	return Moving, nil
}

func stateOf(s State, err error) (State, error) {
	if err != nil {
		s = Failed
	}
	return s, err
}

// mount takes a blob from a repository beside the destination.
func (c *Copier) mount(ctx context.Context, src Reader, desc ocispec.Descriptor) (bool, error) {
	m, ok := c.dst.(Mounter)
	l, located := src.(Located)
	if !ok || !located {
		return false, nil
	}
	for _, from := range l.Origins(desc) {
		if done, err := m.Mount(ctx, desc, from); err != nil || done {
			return done, err
		}
	}
	return false, nil
}

// open streams a blob, from the descriptor itself if the content is embedded
// there.
func open(ctx context.Context, src Reader, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if int64(len(desc.Data)) == desc.Size && desc.Digest.Algorithm().FromBytes(desc.Data) == desc.Digest {
		return newBytes(desc, slices.Clone(desc.Data))
	}
	return src.Open(ctx, desc)
}

// watch reports how much of a blob was read.
func (c *Copier) watch(desc ocispec.Descriptor, r io.Reader) io.Reader {
	if c.opts.Progress == nil {
		return r
	}
	w := &watched{c: c, desc: desc, r: r}
	if s, ok := r.(io.Seeker); ok {
		return &watchedSeeker{watched: w, s: s}
	}
	return w
}

type watched struct {
	c    *Copier
	desc ocispec.Descriptor
	r    io.Reader
	off  int64
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.off += int64(n)
	w.c.emit(Event{Desc: w.desc, State: Moving, Bytes: w.off})
	return n, err
}

type watchedSeeker struct {
	*watched
	s io.Seeker
}

func (w *watchedSeeker) Seek(off int64, whence int) (int64, error) {
	n, err := w.s.Seek(off, whence)
	if err == nil {
		w.off = n
	}
	return n, err
}
