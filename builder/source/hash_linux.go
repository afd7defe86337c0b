package source

import (
	"context"
	"crypto/sha256"
	"time"

	"golang.org/x/sys/unix"
)

var emptySum = sha256.Sum256(nil)

// A file's timestamps come from a clock that ticks every tick at the slowest;
// a file system may store them coarser.
const (
	tick       = 10 * time.Millisecond
	coarseTick = 2 * time.Second // FAT, and other machines' file systems
)

// Sizes of reads: of files that are hashed in one piece, of larger ones, and
// from where on reading ahead pays.
const (
	wholeBytes = 256 << 10
	chunkBytes = 1 << 20
	aheadBytes = 4 << 20
)

// hasher reads and hashes files.
type hasher struct {
	v      version // the file at hand
	whole  []byte
	chunks [2][]byte
}

// hash opens the file of a version, and hashes it if it still is that version:
// false if it isn't, or no longer is after the last read.
func (w *worker) hash(v *version, id identity, dir int, name string) (bool, error) {
	v.unsure = w.l.settle(id)
	fd, err := openFile(dir, name, v.st.Uid == uint32(w.l.uid) || w.l.uid == 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var whole bool
	if id.size <= wholeBytes {
		whole, err = w.small(v, fd, int(id.size))
	} else {
		whole, err = w.large(w.s.ctx, v, fd, id.size)
	}
	if err != nil {
		return false, err
	}
	var now unix.Statx_t
	if err := stat(fd, "", &now); err != nil {
		return false, err
	}
	return whole && identityOf(&now) == id, nil
}

// settle waits until a change of the file would show in its ctime. It returns
// true when that would take too long, so that the identity says too little.
func (l *Local) settle(id identity) (unsure bool) {
	age := time.Duration(time.Now().UnixNano() - id.ctime)
	if age < tick {
		if age > -tick {
			time.Sleep(tick - age)
		} else {
			unsure = true // from the future: another clock
		}
	}
	coarse := l.remote || id.ctime%int64(time.Second) == 0
	return unsure || coarse && age < coarseTick
}

// openFile opens a file for reading, without a trace in its access time when
// that is allowed.
func openFile(dir int, name string, owner bool) (int, error) {
	if owner {
		fd, err := retry(func() (int, error) { return unix.Openat(dir, name, openFlags|unix.O_NOATIME, 0) })
		if err != unix.EPERM {
			return fd, err
		}
	}
	return retry(func() (int, error) { return unix.Openat(dir, name, openFlags, 0) })
}

// small hashes a file in one piece; false when it is shorter than it was.
func (h *hasher) small(v *version, fd, size int) (bool, error) {
	if h.whole == nil {
		h.whole = make([]byte, wholeBytes)
	}
	n, err := fill(reading(fd), h.whole[:size])
	if n < size || err != nil {
		return false, err
	}
	v.sum = sha256.Sum256(h.whole[:size])
	return true, nil
}

// reading is the function that reads an open file from where it is.
func reading(fd int) func([]byte, int) (int, error) {
	return func(p []byte, _ int) (int, error) { return unix.Read(fd, p) }
}

// fill reads until p is full or the file ends. read gets the rest of p and how
// much was read before.
func fill(read func(rest []byte, done int) (int, error), p []byte) (n int, err error) {
	for n < len(p) {
		m, err := retry(func() (int, error) { return read(p[n:], n) })
		if m <= 0 || err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// large hashes a file piece by piece; the next piece is read while one is
// hashed.
func (h *hasher) large(ctx context.Context, v *version, fd int, size int64) (bool, error) {
	if h.chunks[0] == nil {
		h.chunks = [2][]byte{make([]byte, chunkBytes), make([]byte, chunkBytes)}
	}
	type piece struct {
		data []byte
		err  error
	}
	read := func(i int) piece {
		n, err := fill(reading(fd), h.chunks[i][:min(size, chunkBytes)])
		size -= int64(n)
		return piece{h.chunks[i][:n], err}
	}
	sum := sha256.New()
	next := make(chan piece, 1)
	p := read(0)
	for i := 1; p.err == nil && len(p.data) > 0; i ^= 1 {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		if size >= aheadBytes {
			go func() { next <- read(i) }()
			sum.Write(p.data)
			p = <-next
		} else {
			sum.Write(p.data)
			p = read(i)
		}
	}
	sum.Sum(v.sum[:0])
	return size == 0, p.err
}
