package remote

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// source is the content of a blob that is uploaded, read once or, when it can go
// back, as often as it takes.
type source struct {
	r    io.Reader
	seek io.Seeker // nil: it only goes on
	size int64

	mu   sync.Mutex // held by whoever reads: a part that was given up may still do
	pos  int64
	err  error // its own failure
	done bool  // its end was seen
}

func newSource(r io.Reader, size int64) *source {
	s := &source{r: r, size: size}
	if seek, ok := r.(io.Seeker); ok {
		if _, err := seek.Seek(0, io.SeekStart); err == nil { // a pipe is an *os.File, too
			s.seek = seek
		}
	}
	return s
}

// failure returns why the source could not be read.
func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// part returns the n bytes from off on as the body of a request. What an earlier
// part still reads, is waited for.
func (s *source) part(off, n int64) (*part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.moveTo(off); err != nil {
		return nil, err
	}
	return &part{source: s, off: off, end: off + n}, nil
}

func (s *source) moveTo(off int64) error {
	switch {
	case s.err != nil:
		return s.err
	case s.pos == off:
		return nil
	case s.seek != nil:
		if _, err := s.seek.Seek(off, io.SeekStart); err != nil {
			return fmt.Errorf("go back to byte %d of what is uploaded: %w", off, err)
		}
		s.pos, s.done = off, false
		return nil
	case s.pos > off:
		return fmt.Errorf("the registry has %d bytes, and what is uploaded cannot be read again from there: start the upload again", off)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(s.r, off-s.pos), make([]byte, 256<<10))
	s.pos += n
	if err == nil && s.pos < off {
		err = fmt.Errorf("it ends after %d of %d bytes: %w", s.pos, s.size, io.ErrUnexpectedEOF)
	}
	s.err = err
	return err
}

// read reads on. The last byte is given out together with the news that nothing
// follows it, so that a source that finds itself wrong at its end is not
// uploaded whole.
func (s *source) read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.pos += int64(n)
	if s.pos > s.size {
		err = fmt.Errorf("it has more than %d bytes", s.size)
	}
	if s.pos == s.size && err == nil {
		err = s.readEnd()
	}
	switch {
	case err == io.EOF && s.pos == s.size:
		s.done = true
		return n, nil
	case err == io.EOF:
		err = fmt.Errorf("it ends after %d of %d bytes: %w", s.pos, s.size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		s.err = err
		return 0, err
	}
	return n, nil
}

func (s *source) readEnd() error {
	var one [1]byte
	for range 100 {
		n, err := s.r.Read(one[:])
		switch {
		case n > 0:
			return fmt.Errorf("it has more than %d bytes", s.size)
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// finish reads the end of an empty source, of which no part ever reads.
func (s *source) finish() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.pos == s.size && !s.done {
		if err := s.readEnd(); err != io.EOF {
			s.err = err
		}
		s.done = true
	}
	return s.err
}

// part is one request's share of a source.
type part struct {
	source   *source
	off, end int64
	closed   bool
}

var errPartClosed = errors.New("read of a request's body after its end")

func (p *part) Read(b []byte) (int, error) {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	switch {
	case p.closed || p.source.pos != p.off && p.off < p.end:
		return 0, errPartClosed
	case p.off == p.end:
		return 0, io.EOF
	}
	if int64(len(b)) > p.end-p.off {
		b = b[:p.end-p.off]
	}
	n, err := p.source.read(b)
	p.off += int64(n)
	return n, err
}

// Close ends the part: it does not touch its source any more.
func (p *part) Close() error {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	p.closed = true
	return nil
}
