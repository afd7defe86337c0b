package layer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// maxMember bounds what is inflated in memory at once; Pack's chunks are
// smaller. Longer members are read as any other gzip file.
const maxMember = 8 << 20

// membersReader inflates the members of a gzip file that Pack wrote, several at
// once, and from the first that Pack didn't write on, one after the other. A
// member whose length field doesn't end it where its data ends is an error, so
// what is read is what any other program reads.
type membersReader struct {
	jobs  chan *member
	order chan *member
	free  chan *member
	stop  chan struct{}
	wg    sync.WaitGroup

	cur  *member
	rest []byte    // of cur
	tail io.Reader // after the last member
	err  error
}

// member is one gzip member, or the rest of the file.
type member struct {
	packed, raw []byte
	size        int
	inflated    bool      // a worker makes raw or err, and then sends on done
	tail        io.Reader // else: the rest of the file, when err is nil
	err         error
	done        chan struct{}
}

// packedHere reports whether b starts as Pack's members do.
func packedHere(b []byte) bool {
	return len(b) >= gzipPrologue && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8 && b[3] == 4 &&
		b[10] == 8 && b[11] == 0 && string(b[12:16]) == "BK\x04\x00"
}

func newMembersReader(br *bufio.Reader) *membersReader {
	n := min(runtime.GOMAXPROCS(0), 16)
	r := &membersReader{
		jobs: make(chan *member, n+1), order: make(chan *member, n+2), free: make(chan *member, n+1),
		stop: make(chan struct{}),
	}
	for range n + 1 {
		r.free <- &member{done: make(chan struct{}, 1)}
	}
	r.wg.Go(func() { r.feed(br) })
	return r
}

// feed cuts the file into members.
func (r *membersReader) feed(br *bufio.Reader) {
	defer close(r.order)
	defer close(r.jobs)
	for workers := 0; ; {
		var m *member
		select {
		case <-r.stop:
			return
		case m = <-r.free:
		}
		m.read(br)
		if workers < cap(r.free)-1 && m.inflated {
			workers++
			r.wg.Go(r.inflateAll)
		}
		r.order <- m // has room for all members
		if !m.inflated {
			return
		}
		r.jobs <- m
	}
}

// read takes the next member from br. It is the last unless it is to be
// inflated: the rest of the file, or an error, which may be io.EOF.
func (m *member) read(br *bufio.Reader) {
	m.inflated, m.tail = false, nil
	head, err := br.Peek(gzipPrologue)
	if len(head) == 0 {
		m.err = err
		return
	}
	var n uint32
	if packedHere(head) {
		n = binary.LittleEndian.Uint32(head[gzipLengthAt:])
	}
	if n < gzipPrologue+gzipTrailerSize || n > maxMember {
		m.raw = nil
		m.tail, m.err = newGzipReader(br)
		return
	}
	if cap(m.packed) < int(n) {
		m.packed = make([]byte, n+n/4)
	}
	m.packed = m.packed[:n]
	if _, m.err = io.ReadFull(br, m.packed); m.err != nil {
		return // not io.EOF, as there is a header
	}
	size := binary.LittleEndian.Uint32(m.packed[n-4:])
	if size > maxMember {
		m.err = errMember
		return
	}
	m.size = int(size)
	m.inflated = true
}

var errMember = errors.New("a member is not as long as it says")

// inflateAll is one worker.
func (r *membersReader) inflateAll() {
	var in bytes.Reader
	fr := flate.NewReader(&in)
	for m := range r.jobs {
		m.err = m.inflate(&in, fr)
		m.done <- struct{}{}
	}
}

// inflate makes raw of packed.
func (m *member) inflate(in *bytes.Reader, fr io.ReadCloser) error {
	body := m.packed[gzipPrologue:]
	in.Reset(body)
	if err := fr.(flate.Resetter).Reset(in, nil); err != nil {
		return err
	}
	if cap(m.raw) < m.size+1 {
		m.raw = make([]byte, m.size+m.size/4+1)
	}
	// One byte more than there is, to see the end.
	n, err := io.ReadFull(fr, m.raw[:m.size+1])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	m.raw = m.raw[:n]
	if n != m.size || in.Len() != gzipTrailerSize {
		return errMember
	}
	if crc32.ChecksumIEEE(m.raw) != binary.LittleEndian.Uint32(body[len(body)-gzipTrailerSize:]) {
		return gzip.ErrChecksum
	}
	return nil
}

// Read is that of io.Reader.
func (r *membersReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.tail != nil {
			n, err := r.tail.Read(p)
			r.err = err
			return n, err
		}
		r.next()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next waits for the next member.
func (r *membersReader) next() {
	if r.cur != nil {
		r.free <- r.cur // has room for all members
	}
	m := <-r.order
	r.cur = m
	if m.inflated {
		<-m.done
	}
	if r.err = m.err; m.err == nil {
		r.rest, r.tail = m.raw, m.tail
	}
}

// close ends the goroutines. It waits for a read of the source that is on its
// way.
func (r *membersReader) close() {
	close(r.stop)
	r.wg.Wait()
}

// gzipReader reads a gzip file member by member. The library's own way takes a
// header that is cut off for the end of the file.
type gzipReader struct {
	br *bufio.Reader
	z  *gzip.Reader
}

func newGzipReader(br *bufio.Reader) (*gzipReader, error) {
	r := &gzipReader{br, new(gzip.Reader)}
	return r, r.member()
}

// member starts the next member.
func (r *gzipReader) member() error {
	err := r.z.Reset(r.br)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	r.z.Multistream(false)
	return err
}

func (r *gzipReader) Read(p []byte) (int, error) {
	for {
		n, err := r.z.Read(p)
		if err != io.EOF || n > 0 {
			if err == io.EOF {
				err = nil
			}
			return n, err
		}
		if _, err := r.br.Peek(1); err != nil {
			return 0, err
		}
		if err := r.member(); err != nil {
			return 0, err
		}
	}
}
