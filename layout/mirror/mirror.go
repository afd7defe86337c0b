package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// imagesAtATime is how many images are copied at once by default.
const imagesAtATime = 3

// Options configures a run. The zero value copies, and stops at the first error.
type Options struct {
	// Places opens sources and destinations.
	Places *place.Opener
	// DryRun finds out what would be copied and writes nothing.
	DryRun bool
	// KeepGoing copies what can be copied after an error.
	KeepGoing bool
	// Jobs is how many images are looked at or copied at once; 0: 3.
	Jobs int
	// Done is told about every item that is finished; nil: nobody is. Calls don't
	// overlap.
	Done func(Item)
}

// State is what became of an item.
type State string

// The states of items.
const (
	Pending  State = "pending"    // not reached, after an error
	Copy     State = "copy"       // would be copied
	Copied   State = "copied"     // was copied
	UpToDate State = "up-to-date" // the destination has it
	Failed   State = "failed"
)

// Item is one image of a list.
type Item struct {
	Source      string        `json:"source"`
	Destination string        `json:"destination"`
	Digest      digest.Digest `json:"digest,omitempty"` // of what is copied
	State       State         `json:"state"`
	Error       string        `json:"error,omitempty"`

	image  Image
	target target
	err    error
}

// Report is what Run did, in the list's order.
type Report struct {
	Items []Item `json:"images"`
	Bytes int64  `json:"bytes"` // of blobs that were streamed
}

// Count returns how many items have a state.
func (r *Report) Count(s State) int {
	n := 0
	for _, i := range r.Items {
		if i.State == s {
			n++
		}
	}
	return n
}

// Err joins the errors of all items.
func (r *Report) Err() error {
	var errs []error
	for _, i := range r.Items {
		if i.err != nil {
			errs = append(errs, i.err)
		}
	}
	return errors.Join(errs...)
}

// Run mirrors a list. The report is complete as far as the run came; the error is
// that of the report.
func Run(ctx context.Context, l *List, opts Options) (*Report, error) {
	if opts.Jobs <= 0 {
		opts.Jobs = imagesAtATime
	}
	r := &run{opts: opts, list: l, writers: map[string]*writer{}}
	defer r.close()
	rep := &Report{Items: []Item{}}
	if err := r.plan(ctx, rep); err != nil && !opts.KeepGoing {
		return rep, rep.Err()
	}
	r.each(ctx, len(rep.Items), func(ctx context.Context, n int) error {
		item := &rep.Items[n]
		if item.State == Failed {
			return nil
		}
		if err := r.item(ctx, item); err != nil {
			item.fail(err)
		}
		r.done(*item)
		return item.err
	})
	rep.Bytes = r.bytes.Load()
	if err := rep.Err(); err != nil {
		return rep, err
	}
	return rep, ctx.Err()
}

// fail makes an error the item's, with what it is about.
func (i *Item) fail(err error) {
	i.State, i.Error = Failed, err.Error()
	i.err = fmt.Errorf("mirror %s: %w", i.Source, err)
}

type run struct {
	opts Options
	list *List

	bytes atomic.Int64

	mu      sync.Mutex
	writers map[string]*writer
}

func (r *run) done(i Item) {
	if r.opts.Done != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opts.Done(i)
	}
}

// each runs f for 0 to n-1, some at a time. Unless the run keeps going, an error
// ends the others.
func (r *run) each(ctx context.Context, n int, f func(context.Context, int) error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opts.Jobs)
	for i := range n {
		g.Go(func() error {
			if gctx.Err() != nil {
				return nil
			}
			if err := f(gctx, i); !r.opts.KeepGoing {
				return err
			}
			return nil
		})
	}
	_ = g.Wait() // errors are the items' own
}

// plan lists the tags of all images of the list.
func (r *run) plan(ctx context.Context, rep *Report) error {
	planned := make([][]Item, len(r.list.Images))
	r.each(ctx, len(r.list.Images), func(ctx context.Context, n int) error {
		image := r.list.Images[n]
		items, err := r.planImage(ctx, image)
		if err != nil {
			failed := Item{Source: image.Source, Destination: cmp.Or(image.Destination, r.list.Destination), image: image}
			failed.fail(err)
			items = []Item{failed}
			r.done(failed)
		}
		planned[n] = items
		return err
	})
	rep.Items = append(rep.Items, slices.Concat(planned...)...)
	return errors.Join(rep.Err(), collisions(rep))
}

func (r *run) planImage(ctx context.Context, image Image) ([]Item, error) {
	s, err := parseSource(image.Source)
	if err != nil {
		return nil, err
	}
	refs, err := image.refs(ctx, r.opts.Places, s)
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, ref := range refs {
		t, err := r.list.targetOf(image, s, ref)
		if err != nil {
			return nil, err
		}
		items = append(items, Item{Source: s.named(ref), Destination: t.place, State: Pending, image: image, target: t})
	}
	return items, nil
}

// collisions fails items that would overwrite another's name.
func collisions(rep *Report) error {
	from := map[string]string{}
	for n := range rep.Items {
		i := &rep.Items[n]
		if i.State == Failed || i.target.name == "" {
			continue
		}
		first, ok := from[i.target.place]
		from[i.target.place] = cmp.Or(first, i.Source)
		if ok && first != i.Source {
			i.fail(fmt.Errorf("%s goes to %s too: give one of them another destination, or set scoped", first, i.Destination))
		}
	}
	return rep.Err()
}

// writer is a destination's repository, which all its images share, so that a
// blob moves once.
type writer struct {
	target *place.Target
	copier *transfer.Copier
}

func (r *run) close() {
	for _, w := range r.writers {
		w.target.Close()
	}
}

// writer opens a repository once. A target of its own says what an image's name
// there is.
func (r *run) writer(ctx context.Context, t target) (*writer, []string, error) {
	opened, err := r.opts.Places.Target(ctx, t.place)
	if err != nil {
		return nil, nil, err
	}
	if opened.Writer == nil {
		opened.Close()
		return nil, nil, fmt.Errorf("%s is written as a whole and cannot be mirrored to", t.place)
	}
	var names []string
	if t.name != "" {
		names = []string{opened.Ref}
	} else if strings.HasPrefix(t.repo, "oci:") {
		names = []string{""}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.writers[t.repo]; w != nil {
		opened.Close()
		return w, names, nil
	}
	w := &writer{target: opened}
	w.copier = transfer.NewCopier(opened.Writer, r.counted(nil))
	r.writers[t.repo] = w
	return w, names, nil
}

// counted are options of a copy that counts what is streamed.
func (r *run) counted(n *atomic.Int64) transfer.Options {
	return transfer.Options{Progress: func(e transfer.Event) {
		if e.State == transfer.Copied {
			r.bytes.Add(e.Desc.Size)
			if n != nil {
				n.Add(e.Desc.Size)
			}
		}
	}}
}

// item copies one image, or finds that it need not be.
func (r *run) item(ctx context.Context, i *Item) error {
	src, err := r.opts.Places.Source(ctx, i.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	desc, err := resolve(ctx, src.Reader, src.Ref)
	if err != nil {
		return err
	}
	want, err := i.image.platforms()
	if err != nil {
		return err
	}
	reader, desc, err := transfer.Narrow(ctx, src.Reader, desc, want)
	if err != nil {
		return err
	}
	desc.Annotations = nil // the name that it has in its place
	i.Digest = desc.Digest
	if r.opts.DryRun {
		return r.dry(ctx, i, desc)
	}
	w, names, err := r.writer(ctx, i.target)
	if err != nil {
		return err
	}
	current, err := upToDate(ctx, w.target.Writer, names, desc)
	if err != nil {
		return err
	}
	i.State = UpToDate
	if !current {
		i.State = Copied
	}
	switch {
	case i.image.Referrers: // there may be new ones
		var moved atomic.Int64
		opts := r.counted(&moved)
		opts.Referrers, opts.From = true, src.Ref
		err = transfer.Copy(ctx, w.target.Writer, reader, desc, names, opts)
		if moved.Load() > 0 {
			i.State = Copied
		}
	case !current:
		err = w.copier.Image(ctx, reader, desc, names...)
	}
	return err
}

// dry says what would happen to an item.
func (r *run) dry(ctx context.Context, i *Item, desc ocispec.Descriptor) error {
	i.State = Copy
	dst, err := r.opts.Places.Source(ctx, i.target.place)
	if errors.Is(err, fs.ErrNotExist) { // no layout is there yet
		return nil
	}
	if err != nil {
		return err
	}
	defer dst.Close()
	names := []string{dst.Ref}
	if i.target.name == "" {
		names = nil
	}
	current, err := resolvesTo(ctx, dst.Reader, names, desc)
	if current {
		i.State = UpToDate
	}
	return err
}

// upToDate says whether the names, or the digest, lead to desc and it is whole.
func upToDate(ctx context.Context, w transfer.Writer, names []string, desc ocispec.Descriptor) (bool, error) {
	r, ok := w.(transfer.Reader)
	if !ok {
		return false, nil
	}
	if len(names) == 1 && names[0] == "" {
		names = nil
	}
	current, err := resolvesTo(ctx, r, names, desc)
	if err != nil || !current {
		return false, err
	}
	return w.Has(ctx, desc)
}

func resolvesTo(ctx context.Context, r transfer.Reader, names []string, desc ocispec.Descriptor) (bool, error) {
	if len(names) == 0 {
		names = []string{desc.Digest.String()}
	}
	for _, name := range names {
		got, err := resolve(ctx, r, name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil || got.Digest != desc.Digest {
			return false, err
		}
	}
	return true, nil
}

// header is a Reader that looks up a reference without reading what it leads to:
// a registry.
type header interface {
	Head(ctx context.Context, ref string) (ocispec.Descriptor, error)
}

func resolve(ctx context.Context, r transfer.Reader, ref string) (ocispec.Descriptor, error) {
	if h, ok := r.(header); ok {
		desc, err := h.Head(ctx, ref)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return desc, err
		}
	}
	return r.Resolve(ctx, ref)
}
