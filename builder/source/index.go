package source

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"
)

// An index file remembers the digests of one directory tree's files. It is read
// and written one directory at a time. All numbers are little endian:
//
//	header   magic, version, number of dirs, CRC-32C of all that follows, zero
//	dirs     sorted by path, each: length of its path, number of files, length
//	         of all their names, path, files, names
//	files    sorted by name, each: end of its name in the names, day of the last
//	         use, identity, digest
//
// An index that is not exactly that is no index.
const (
	indexMagic   = "bkfiles\n"
	indexVersion = 3

	headerSize = 8 + 4 + 4 + 4 + 4
	dirSize    = 4 + 4 + 4
	fileSize   = 4 + 2 + 5*8 + 32

	// maxIndex bounds the bytes of an index that is read or written: more than
	// two million files.
	maxIndex = 256 << 20
	// keepDays is how long an entry stays that no build asks for.
	keepDays = 30
	// useDays is how old the record of an entry's last use gets before it is
	// written again.
	useDays = 7
)

// identity is what tells versions of a file apart: no change of a file's bytes
// or attributes leaves all of it as it was.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds since 1970
}

// record is what the index knows of a file.
type record struct {
	id  identity
	sum [32]byte
	day uint16 // of the last use, since 1970
}

// index is an index file: where its directories are.
type index struct {
	r    io.ReaderAt
	dirs []indexDir
}

type indexDir struct {
	path string
	off  int64
	size int // of the directory in the file
}

// indexBlock is a directory of an index.
type indexBlock struct {
	path  string
	files []byte
	names string
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// newIndex checks an index file of so many bytes and finds its directories.
func newIndex(r io.ReaderAt, size int64) (*index, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10)
	var head [headerSize]byte
	if _, err := io.ReadFull(in, head[:]); err != nil || string(head[:8]) != indexMagic {
		return nil, errors.New("not a digest index")
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(head[8+4*i:]) }
	if word(0) != indexVersion {
		return nil, fmt.Errorf("digest index of version %d", word(0))
	}
	x := &index{r: r}
	off, sum, table := int64(headerSize), uint32(0), castagnoli()
	var buf []byte
	for range word(1) {
		n, err := blockSize(in, size-off)
		if err != nil {
			return nil, err
		}
		buf = slices.Grow(buf[:0], n)[:n]
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, fmt.Errorf("read the digest index: %w", err)
		}
		sum = crc32.Update(sum, table, buf)
		b, err := parseBlock(buf)
		if err != nil {
			return nil, err
		}
		if len(x.dirs) > 0 && x.dirs[len(x.dirs)-1].path >= b.path {
			return nil, errors.New("digest index with a wrong directory")
		}
		x.dirs = append(x.dirs, indexDir{b.path, off, n})
		off += int64(n)
	}
	if off != size || sum != word(2) || word(3) != 0 {
		return nil, errors.New("digest index with a wrong checksum")
	}
	return x, nil
}

// blockSize is the size of the next directory, of which so many bytes at most
// are left.
func blockSize(in *bufio.Reader, left int64) (int, error) {
	head, err := in.Peek(dirSize)
	if err != nil {
		return 0, fmt.Errorf("read the digest index: %w", err)
	}
	path, files, names := blockParts(head)
	n := dirSize + path + files*fileSize + names
	if n > left {
		return 0, errors.New("digest index of a wrong length")
	}
	return int(n), nil
}

func blockParts(head []byte) (path, files, names int64) {
	word := func(i int) int64 { return int64(binary.LittleEndian.Uint32(head[4*i:])) }
	return word(0), word(1), word(2)
}

// parseBlock checks a directory, of the size that it says. The block refers to b.
func parseBlock(b []byte) (indexBlock, error) {
	path, files, _ := blockParts(b)
	b = b[dirSize:]
	x := indexBlock{path: string(b[:path]), files: b[path : path+files*fileSize], names: string(b[path+files*fileSize:])}
	start := 0
	for i := range x.count() {
		end := x.end(i)
		if end < start || end > len(x.names) || i > 0 && x.name(i-1) >= x.names[start:end] {
			return x, errors.New("digest index with a wrong file")
		}
		start = end
	}
	if start != len(x.names) {
		return x, errors.New("digest index with names of no file")
	}
	return x, nil
}

func (x *indexBlock) count() int    { return len(x.files) / fileSize }
func (x *indexBlock) end(i int) int { return int(binary.LittleEndian.Uint32(x.files[i*fileSize:])) }

// name returns the name of the i-th file.
func (x *indexBlock) name(i int) string {
	start := 0
	if i > 0 {
		start = x.end(i - 1)
	}
	return x.names[start:x.end(i)]
}

// record decodes the i-th file.
func (x *indexBlock) record(i int) record {
	b := x.files[i*fileSize:]
	num := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	return record{
		day: binary.LittleEndian.Uint16(b[4:]),
		id: identity{
			dev: num(6), ino: num(14), size: int64(num(22)),
			mtime: int64(num(30)), ctime: int64(num(38)),
		},
		sum: [32]byte(b[46:fileSize]),
	}
}

// cursor walks over the files of a directory.
type cursor struct {
	indexBlock
	pos int
}

// dir returns a cursor before the first file of a directory. A nil index has no
// files.
func (x *index) dir(path string) cursor {
	if x == nil {
		return cursor{}
	}
	i := sort.Search(len(x.dirs), func(i int) bool { return x.dirs[i].path >= path })
	if i == len(x.dirs) || x.dirs[i].path != path {
		return cursor{}
	}
	return cursor{indexBlock: x.block(i)}
}

// block reads the i-th directory. It has no files when they can't be read.
func (x *index) block(i int) indexBlock {
	d := x.dirs[i]
	none := indexBlock{path: d.path}
	buf := make([]byte, d.size)
	if _, err := x.r.ReadAt(buf, d.off); err != nil {
		return none
	}
	path, files, names := blockParts(buf)
	if dirSize+path+files*fileSize+names != int64(d.size) {
		return none
	}
	b, err := parseBlock(buf)
	if err != nil || b.path != d.path {
		return none
	}
	return b
}

// close gives the file up.
func (x *index) close() {
	if x == nil {
		return
	}
	if f, ok := x.r.(io.Closer); ok {
		f.Close()
	}
}

// from moves the cursor before the first file whose name is not less than name.
func (c *cursor) from(name string) {
	c.pos = sort.Search(c.count(), func(i int) bool { return c.name(i) >= name })
}

// find returns the record of a name. Names are asked for in ascending order.
func (c *cursor) find(name string) (record, bool) {
	for ; c.pos < c.count(); c.pos++ {
		n := c.name(c.pos)
		if n == name {
			return c.record(c.pos), true
		}
		if n > name {
			break
		}
	}
	return record{}, false
}

// dirRecords is what a build knows of the files of a directory, by name.
type dirRecords struct {
	path  string
	files []fileRecord
}

type fileRecord struct {
	name string
	record
}

// merge writes an index of fresh, which is sorted, and of what old (which may
// be nil) has besides and was used not long before today. It reads fresh twice.
func merge(out io.WriteSeeker, old *index, fresh iter.Seq[dirRecords], today uint16) error {
	w := indexWriter{out: bufio.NewWriterSize(out, 64<<10), table: castagnoli(), room: maxIndex - headerSize}
	for d := range fresh {
		w.room -= d.bytes()
	}
	if w.room < 0 {
		return errTooMany
	}
	_, _ = w.out.Write(make([]byte, headerSize)) // its errors come with Flush
	if old == nil {
		old = &index{}
	}
	i := 0
	for d := range fresh {
		for ; i < len(old.dirs) && old.dirs[i].path < d.path; i++ {
			w.add(dirRecords{path: old.dirs[i].path}, old.block(i), today)
		}
		var same indexBlock
		if i < len(old.dirs) && old.dirs[i].path == d.path {
			same = old.block(i)
			i++
		}
		w.add(d, same, today)
	}
	for ; i < len(old.dirs); i++ {
		w.add(dirRecords{path: old.dirs[i].path}, old.block(i), today)
	}
	return w.finish(out)
}

// errTooMany is about more files than are worth an index.
var errTooMany = errors.New("too many files for a digest index")

// bytes is what the directory takes in an index.
func (d *dirRecords) bytes() int {
	n := dirSize + len(d.path)
	for _, f := range d.files {
		n += fileSize + len(f.name)
	}
	return n
}

// indexWriter encodes an index.
type indexWriter struct {
	out   *bufio.Writer
	table *crc32.Table
	sum   uint32
	dirs  uint32
	room  int // bytes left for old records

	files, names []byte // of the directory at hand
}

// add appends a directory: the given records and those that old has besides.
func (w *indexWriter) add(d dirRecords, old indexBlock, today uint16) {
	w.files, w.names = w.files[:0], w.names[:0]
	if len(d.files) == 0 {
		w.room -= dirSize + len(d.path)
	}
	pos := 0
	older := func(limit string, last bool) {
		for ; pos < old.count() && (last || old.name(pos) < limit); pos++ {
			r := fileRecord{old.name(pos), old.record(pos)}
			if w.room -= fileSize + len(r.name); w.room >= 0 && int(today)-int(r.day) <= keepDays {
				w.file(r)
			}
		}
	}
	for _, f := range d.files {
		older(f.name, false)
		if pos < old.count() && old.name(pos) == f.name {
			pos++
		}
		w.file(f)
	}
	older("", true)
	if len(w.files) > 0 {
		w.block(d.path)
	}
}

func (w *indexWriter) file(f fileRecord) {
	w.names = append(w.names, f.name...)
	b := binary.LittleEndian.AppendUint32(w.files, uint32(len(w.names)))
	b = binary.LittleEndian.AppendUint16(b, f.day)
	for _, n := range [...]uint64{f.id.dev, f.id.ino, uint64(f.id.size), uint64(f.id.mtime), uint64(f.id.ctime)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	w.files = append(b, f.sum[:]...)
}

// block writes the directory at hand.
func (w *indexWriter) block(path string) {
	w.dirs++
	var head []byte
	for _, n := range [...]int{len(path), len(w.files) / fileSize, len(w.names)} {
		head = binary.LittleEndian.AppendUint32(head, uint32(n))
	}
	for _, b := range [...][]byte{append(head, path...), w.files, w.names} {
		w.sum = crc32.Update(w.sum, w.table, b)
		_, _ = w.out.Write(b)
	}
}

// finish writes the header.
func (w *indexWriter) finish(out io.WriteSeeker) error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	b := []byte(indexMagic)
	for _, n := range [...]uint32{indexVersion, w.dirs, w.sum, 0} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	_, err := out.Write(b)
	return err
}

// indexPath is the name of the index of a directory, given its real path.
func indexPath(dir, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(dir, hex.EncodeToString(sum[:16]))
}

// openIndex returns an index file; nil when there is no usable one. The caller
// closes it.
func openIndex(name string) *index {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() <= maxIndex {
		if x, err := newIndex(f, st.Size()); err == nil {
			return x
		}
	}
	f.Close()
	return nil
}

// writeIndex replaces an index file by what write writes.
func writeIndex(name string, write func(io.WriteSeeker) error) (err error) {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write the digest index: %w", err)
	}
	f, err := os.CreateTemp(dir, tempIndex)
	if err != nil {
		return fmt.Errorf("write the digest index: %w", err)
	}
	defer os.Remove(f.Name())
	sweep(dir)
	err = write(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil && !errors.Is(err, errTooMany) {
		return fmt.Errorf("write the digest index: %w", err)
	}
	return nil
}

// tempIndex are the names of index files that are being written.
const tempIndex = ".new-*"

// sweep removes what writers that were killed left.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, tempIndex))
	for _, name := range left {
		if st, err := os.Lstat(name); err == nil && time.Since(st.ModTime()) > time.Hour {
			os.Remove(name)
		}
	}
}
