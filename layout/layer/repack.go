package layer

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"
)

// Repack writes a tar to w in another packed form; the tar itself stays as it is,
// byte for byte, and so does its diffID. What it writes depends on the tar and on
// c alone: pieces of 2 MiB, each compressed on its own by one of jobs workers (0
// or less: the number of CPUs). It does not look whether the bytes are a tar.
func Repack(ctx context.Context, w io.Writer, tar io.Reader, c Compression, jobs int) (Packed, error) {
	if err := c.Validate(); err != nil {
		return Packed{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	p := newPacker(ctx, g, w, PackOptions{Compression: c, Jobs: jobs})
	return p.finish(p.cutStream(tar))
}

// cutStream hands out pieces of a stream.
func (p *packer) cutStream(r io.Reader) error {
	for {
		b, err := p.buffer()
		if err != nil {
			return err
		}
		if cap(b.raw) < rawSize {
			b.raw = make([]byte, 0, rawSize)
		}
		n, err := readMost(r, b.raw[:chunkMax])
		if n > 0 {
			c := &chunk{raw: b.raw[:n], spare: b.packed, filled: make(chan struct{}), done: make(chan struct{})}
			if err := p.emit(c); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readMost fills p, or returns what comes before the error that ends r. (In
// io.ReadFull's error, a source that broke off looks like one that ended.)
func readMost(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) && err == io.EOF {
		err = nil // it comes again
	}
	return n, err
}
