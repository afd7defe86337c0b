package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// Limits bounds what a tar of unknown origin may ask for. Zero fields stand for
// the defaults.
type Limits struct {
	Entries int   // tar headers; default 10 million
	Path    int   // bytes of a path or a link's target; default 4096, Linux's PATH_MAX
	Depth   int   // elements of a path; default 1024
	Size    int64 // bytes of the whole tar; default 1 TiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Entries, 10_000_000)
	def(&l.Path, 4096)
	def(&l.Depth, 1024)
	if l.Size <= 0 {
		l.Size = 1 << 40
	}
	return l
}

// ErrInvalid is in the error for a tar that is not a valid layer or passes a
// limit.
var ErrInvalid = errors.New("invalid layer")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// Read parses a tar, which may be hostile. It yields what the tar names, in the
// tar's order: a path may come twice (the last counts) and parents may be
// missing. The content of an entry is only valid until the next one is pulled,
// and can be opened once. r is read to its end when the stream is.
//
// Names are made relative ("/etc" and "./etc" are "etc"). Refused are names
// that climb above the root, markers of whiteouts that name nothing (".wh.",
// ".wh..", ".wh..."), and a root that is not a directory. Left out, as they mean
// nothing in a layer, are AUFS's own files (".wh..wh.*"), global PAX headers,
// character devices 0/0 (overlayfs would take them for whiteouts) and xattrs of
// overlayfs.
func Read(r io.Reader, lim Limits) Entries {
	return func(yield func(*Entry, error) bool) {
		t := newTarReader(r, lim)
		for {
			e, err := t.next()
			if err == io.EOF {
				if err := t.drain(); err != nil {
					yield(nil, err)
				}
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(e, nil) {
				t.expire()
				return
			}
		}
	}
}

// tarReader turns headers into entries. It holds a directory back until it has
// seen whether the opaque marker follows.
type tarReader struct {
	in      *boundedReader
	tr      *tar.Reader
	lim     Limits
	headers int
	held    *Entry         // next to be returned
	err     error          // to be returned after held
	content *streamContent // of the last entry
}

func newTarReader(r io.Reader, lim Limits) *tarReader {
	lim = lim.withDefaults()
	in := &boundedReader{r: r, what: "tar", left: lim.Size, limit: lim.Size}
	return &tarReader{in: in, tr: tar.NewReader(in), lim: lim}
}

// next returns the next entry or io.EOF.
func (t *tarReader) next() (*Entry, error) {
	e := t.held
	t.held = nil
	for e == nil {
		if t.err != nil {
			return nil, t.err
		}
		if e, t.err = t.read(); t.err == nil && e == nil {
			continue // left out
		}
	}
	if e.Type != Directory || t.err != nil {
		return e, nil
	}
	for t.held == nil && t.err == nil {
		t.held, t.err = t.read()
	}
	if h := t.held; h != nil && h.Type == Whiteout && h.Opaque && h.Path == e.Path {
		e.Opaque, t.held = true, nil
	}
	return e, nil
}

// read returns the entry of the next header, nil when it is left out.
func (t *tarReader) read() (*Entry, error) {
	t.expire()
	h, err := t.tr.Next()
	switch {
	case err == io.EOF:
		return nil, err
	case err != nil:
		return nil, t.readError(err)
	}
	if t.headers++; t.headers > t.lim.Entries {
		return nil, invalid("more than %d entries", t.lim.Entries)
	}
	e, err := t.entry(h)
	if err != nil {
		return nil, fmt.Errorf("layer entry %q: %w", clip(h.Name), err)
	}
	return e, nil
}

func (t *tarReader) readError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return invalid("tar header after %d entries: %w", t.headers, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the tar ends in the middle of an entry: %w", err)
	}
	return fmt.Errorf("read layer: %w", err)
}

func (t *tarReader) entry(h *tar.Header) (*Entry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	p, err := t.path(h.Name)
	if err != nil {
		return nil, err
	}
	if e, marker, err := whiteoutOf(p); marker || err != nil {
		return e, err
	}
	e := &Entry{Path: p, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime}
	if err := checkNumbers(h); err != nil {
		return nil, err
	}
	if err := t.fill(e, h); err != nil {
		return nil, err
	}
	if e.Type == Char && e.DevMajor == 0 && e.DevMinor == 0 {
		return nil, nil
	}
	if p == "." && e.Type != Directory {
		return nil, invalid("the root is not a directory")
	}
	e.Xattrs, err = xattrsOf(h)
	return e, err
}

// fill sets what depends on the entry's type.
func (t *tarReader) fill(e *Entry, h *tar.Header) (err error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Type, e.Size = Regular, h.Size
		if h.Size > t.lim.Size {
			return invalid("%d bytes of content: the limit is %d", h.Size, t.lim.Size)
		}
		if h.Size > 0 {
			t.content = &streamContent{t: t}
			e.Content = t.content
		}
	case tar.TypeLink:
		e.Type = Hardlink
		if e.Link, err = t.path(h.Linkname); err != nil {
			return fmt.Errorf("hard link to %q: %w", clip(h.Linkname), err)
		}
	case tar.TypeSymlink:
		e.Type, e.Link = Symlink, h.Linkname
		if h.Linkname == "" || len(h.Linkname) > t.lim.Path || strings.IndexByte(h.Linkname, 0) >= 0 {
			return invalid("symlink target %q is empty, longer than %d bytes or has a NUL", clip(h.Linkname), t.lim.Path)
		}
	case tar.TypeChar, tar.TypeBlock:
		e.Type, e.DevMajor, e.DevMinor = Type(h.Typeflag), uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeDir, tar.TypeFifo:
		e.Type = Type(h.Typeflag)
	default:
		return invalid("unknown type %q", h.Typeflag)
	}
	return nil
}

// path returns name as Entry.Path has it.
func (t *tarReader) path(name string) (string, error) {
	if name == "" {
		return "", invalid("empty name")
	}
	if len(name) > t.lim.Path {
		return "", invalid("a name of %d bytes: the limit is %d", len(name), t.lim.Path)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", invalid("name has a NUL")
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", invalid("the name climbs above the layer's root")
	}
	if strings.Count(p, "/") >= t.lim.Depth {
		return "", invalid("nested deeper than %d directories", t.lim.Depth)
	}
	return p, nil
}

// whiteoutOf interprets the name of a marker; marker is false for other names.
// A marker that means nothing gives no entry.
func whiteoutOf(p string) (e *Entry, marker bool, err error) {
	if !strings.HasPrefix(p, whiteout) && !strings.Contains(p, "/"+whiteout) {
		return nil, false, nil
	}
	dir, base := path.Split(p)
	dir = path.Clean(dir)
	if inMeta(dir) {
		return nil, true, nil
	}
	if strings.HasPrefix(dir, whiteout) || strings.Contains(dir, "/"+whiteout) {
		return nil, true, invalid("a whiteout marker can't be a directory")
	}
	if base == opaqueMarker {
		return &Entry{Path: dir, Type: Whiteout, Opaque: true}, true, nil
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil, true, nil
	}
	switch name := base[len(whiteout):]; name {
	case "", ".", "..":
		return nil, true, invalid("a whiteout marker that names nothing")
	default:
		return &Entry{Path: path.Join(dir, name), Type: Whiteout}, true, nil
	}
}

// inMeta reports whether an element of dir is one of AUFS's own.
func inMeta(dir string) bool {
	return strings.HasPrefix(dir, whiteoutMeta) || strings.Contains(dir, "/"+whiteoutMeta)
}

// checkNumbers refuses what doesn't fit in an Entry.
func checkNumbers(h *tar.Header) error {
	const maxID = math.MaxUint32 - 1 // (uid_t)-1 means no owner to chown(2)
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID {
		return invalid("owner %d:%d", h.Uid, h.Gid)
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > maxOctal7 || h.Devminor > maxOctal7 {
		return invalid("device number %d:%d", h.Devmajor, h.Devminor)
	}
	return nil
}

// xattrsOf returns the xattrs of the PAX header, without overlayfs's own.
func xattrsOf(h *tar.Header) (map[string]string, error) {
	var m map[string]string
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || overlayXattr(name) {
			continue
		}
		if name == "" || len(name) > 255 || len(value) > 64<<10 {
			return nil, invalid("extended attribute %q of %d bytes", clip(name), len(value))
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[name] = value
	}
	return m, nil
}

// overlayXattr reports whether overlayfs interprets the xattr.
func overlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// drain reads what follows the end of the archive: padding, which is a part of
// the tar's digest but of nothing else.
func (t *tarReader) drain() error {
	if _, err := io.Copy(io.Discard, t.in); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	return nil
}

// expire makes the last entry's content unreadable.
func (t *tarReader) expire() {
	if t.content != nil {
		t.content.t = nil
		t.content = nil
	}
}

// streamContent is the content of the tar's current entry.
type streamContent struct{ t *tarReader }

var errExpired = errors.New("the content of a layer's entry was read after the next entry")

func (c *streamContent) Open() (io.ReadCloser, error) { return c, nil }

func (c *streamContent) Digest() (sum [32]byte, ok bool) { return sum, false }

func (c *streamContent) Close() error { return nil }

func (c *streamContent) Read(p []byte) (int, error) {
	if c.t == nil {
		return 0, errExpired
	}
	n, err := c.t.tr.Read(p)
	if err != nil && err != io.EOF {
		err = c.t.readError(err)
	}
	return n, err
}

// boundedReader fails when more than limit bytes are read.
type boundedReader struct {
	r           io.Reader
	what        string
	left, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, invalid("the %s is larger than %d bytes", b.what, b.limit)
	}
	return n, err
}

// clip shortens a hostile name for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
