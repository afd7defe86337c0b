package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"
)

// An index file remembers the digests of one directory tree's files. It is
// one block of bytes that is used as it was read; nothing is decoded before it
// is looked up. All numbers are little endian:
//
//	header   magic, version, number of dirs, of files, bytes of names, CRC-32C
//	         of all that follows
//	dirs     sorted by path: name (offset, length), first file, number of files
//	files    by dir, sorted by name: name (offset, length), day of the last use,
//	         identity, digest
//	names    the text that the names are in
//
// An index that is not exactly that is no index.
const (
	indexMagic   = "bkfiles\n"
	indexVersion = 2

	headerSize = 32
	dirSize    = 16
	fileSize   = 4 + 4 + 2 + 5*8 + 32

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

// index is an index file in memory.
type index struct {
	dirs, files []byte
	names       string
}

func checksum(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// parseIndex checks an index file's bytes.
func parseIndex(raw []byte) (*index, error) {
	if len(raw) < headerSize || string(raw[:8]) != indexMagic {
		return nil, errors.New("not a digest index")
	}
	word := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32(raw[8+4*i:])) }
	if word(0) != indexVersion {
		return nil, fmt.Errorf("digest index of version %d", word(0))
	}
	nd, nf, nn := word(1)*dirSize, word(2)*fileSize, word(3)
	body := raw[headerSize:]
	if nd+nf+nn != uint64(len(body)) {
		return nil, errors.New("digest index of a wrong length")
	}
	if string(checksum(body)) != string(raw[24:28]) || word(5) != 0 {
		return nil, errors.New("digest index with a wrong checksum")
	}
	x := &index{dirs: body[:nd], files: body[nd : nd+nf], names: string(body[nd+nf:])}
	if err := x.check(); err != nil {
		return nil, err
	}
	return x, nil
}

// check looks at all that lookups rely on.
func (x *index) check() error {
	end := uint32(0)
	for i := range x.dirCount() {
		d := x.dirs[i*dirSize:]
		first, count := binary.LittleEndian.Uint32(d[8:]), binary.LittleEndian.Uint32(d[12:])
		if !x.inNames(d) || i > 0 && x.dirName(i-1) >= x.dirName(i) {
			return errors.New("digest index with a wrong directory")
		}
		if first != end || uint64(first)+uint64(count) > uint64(x.fileCount()) {
			return errors.New("digest index with a wrong range of files")
		}
		end = first + count
		for j := int(first); j < int(end); j++ {
			if !x.inNames(x.files[j*fileSize:]) || j > int(first) && x.fileName(j-1) >= x.fileName(j) {
				return errors.New("digest index with a wrong file")
			}
		}
	}
	if int(end) != x.fileCount() {
		return errors.New("digest index with files of no directory")
	}
	return nil
}

func (x *index) inNames(rec []byte) bool {
	off, n := binary.LittleEndian.Uint32(rec), binary.LittleEndian.Uint32(rec[4:])
	return uint64(off)+uint64(n) <= uint64(len(x.names))
}

func (x *index) name(rec []byte) string {
	off, n := binary.LittleEndian.Uint32(rec), binary.LittleEndian.Uint32(rec[4:])
	return x.names[off : off+n]
}

func (x *index) dirCount() int         { return len(x.dirs) / dirSize }
func (x *index) fileCount() int        { return len(x.files) / fileSize }
func (x *index) dirName(i int) string  { return x.name(x.dirs[i*dirSize:]) }
func (x *index) fileName(i int) string { return x.name(x.files[i*fileSize:]) }

// record decodes the i-th file.
func (x *index) record(i int) record {
	b := x.files[i*fileSize:]
	num := func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	return record{
		day: binary.LittleEndian.Uint16(b[8:]),
		id: identity{
			dev: num(10), ino: num(18), size: int64(num(26)),
			mtime: int64(num(34)), ctime: int64(num(42)),
		},
		sum: [32]byte(b[50:fileSize]),
	}
}

// cursor walks over the files of a directory.
type cursor struct {
	x        *index
	pos, end int
}

// dir returns a cursor before the first file of a directory whose name is not
// less than name. A nil index has no files.
func (x *index) dir(path, name string) cursor {
	if x == nil {
		return cursor{}
	}
	i := sort.Search(x.dirCount(), func(i int) bool { return x.dirName(i) >= path })
	if i == x.dirCount() || x.dirName(i) != path {
		return cursor{}
	}
	first, end := x.filesOf(i)
	first += sort.Search(end-first, func(j int) bool { return x.fileName(first+j) >= name })
	return cursor{x: x, pos: first, end: end}
}

// filesOf returns the range of a directory's files.
func (x *index) filesOf(i int) (first, end int) {
	d := x.dirs[i*dirSize:]
	first = int(binary.LittleEndian.Uint32(d[8:]))
	return first, first + int(binary.LittleEndian.Uint32(d[12:]))
}

// find returns the record of a name. Names are asked for in ascending order.
func (c *cursor) find(name string) (record, bool) {
	for c.pos < c.end {
		n := c.x.fileName(c.pos)
		if n == name {
			return c.x.record(c.pos), true
		}
		if n > name {
			break
		}
		c.pos++
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

// merge encodes an index of fresh, which is sorted, and of what old (which may
// be nil) has besides and was used not long before today.
func merge(old *index, fresh []dirRecords, today uint16) []byte {
	w := indexWriter{room: maxIndex - headerSize}
	for _, d := range fresh {
		w.room -= d.bytes()
	}
	if old == nil {
		old = &index{}
	}
	i := 0
	for _, d := range fresh {
		for i < old.dirCount() && old.dirName(i) < d.path {
			w.add(dirRecords{path: old.dirName(i)}, old, i, today)
			i++
		}
		if i < old.dirCount() && old.dirName(i) == d.path {
			w.add(d, old, i, today)
			i++
		} else {
			w.add(d, old, -1, today)
		}
	}
	for ; i < old.dirCount(); i++ {
		w.add(dirRecords{path: old.dirName(i)}, old, i, today)
	}
	return w.finish()
}

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
	dirs, files, names []byte
	room               int // bytes left for old records
}

// add appends a directory: the given records and those that the i-th directory
// of old has besides (none if i is negative).
func (w *indexWriter) add(d dirRecords, old *index, i int, today uint16) {
	first, pos, end := len(w.files), 0, 0
	if i >= 0 {
		pos, end = old.filesOf(i)
		w.room -= dirSize + len(d.path)
	}
	older := func(limit string, last bool) {
		for ; pos < end && (last || old.fileName(pos) < limit); pos++ {
			r := fileRecord{old.fileName(pos), old.record(pos)}
			if w.room -= fileSize + len(r.name); w.room >= 0 && int(today)-int(r.day) <= keepDays {
				w.file(r)
			}
		}
	}
	for _, f := range d.files {
		older(f.name, false)
		if pos < end && old.fileName(pos) == f.name {
			pos++
		}
		w.file(f)
	}
	older("", true)
	if len(w.files) == first {
		return
	}
	w.dirs = w.text(w.dirs, d.path)
	w.dirs = binary.LittleEndian.AppendUint32(w.dirs, uint32(first/fileSize))
	w.dirs = binary.LittleEndian.AppendUint32(w.dirs, uint32((len(w.files)-first)/fileSize))
}

// text appends a reference to a name.
func (w *indexWriter) text(b []byte, name string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(w.names)))
	w.names = append(w.names, name...)
	return binary.LittleEndian.AppendUint32(b, uint32(len(name)))
}

func (w *indexWriter) file(f fileRecord) {
	b := w.text(w.files, f.name)
	b = binary.LittleEndian.AppendUint16(b, f.day)
	for _, n := range []uint64{f.id.dev, f.id.ino, uint64(f.id.size), uint64(f.id.mtime), uint64(f.id.ctime)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	w.files = append(b, f.sum[:]...)
}

func (w *indexWriter) finish() []byte {
	body := slices.Concat(w.dirs, w.files, w.names)
	b := append(make([]byte, 0, headerSize+len(body)), indexMagic...)
	for _, n := range []int{indexVersion, len(w.dirs) / dirSize, len(w.files) / fileSize, len(w.names)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	b = append(b, checksum(body)...)
	return append(binary.LittleEndian.AppendUint32(b, 0), body...)
}

// indexPath is the name of the index of a directory, given its real path.
func indexPath(dir, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(dir, hex.EncodeToString(sum[:16]))
}

// readIndex returns an index file; nil when there is no usable one.
func readIndex(name string) *index {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxIndex {
		return nil
	}
	raw := make([]byte, st.Size())
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil
	}
	x, err := parseIndex(raw)
	if err != nil {
		return nil
	}
	return x
}

// writeIndex replaces an index file.
func writeIndex(name string, raw []byte) (err error) {
	if len(raw) > maxIndex {
		return nil // more files than are worth it
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write the digest index: %w", err)
	}
	f, err := os.CreateTemp(dir, newIndex)
	if err != nil {
		return fmt.Errorf("write the digest index: %w", err)
	}
	defer os.Remove(f.Name())
	sweep(dir)
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write the digest index: %w", err)
	}
	return nil
}

// newIndex are the names of index files that are being written.
const newIndex = ".new-*"

// sweep removes what writers that were killed left.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, newIndex))
	for _, name := range left {
		if st, err := os.Lstat(name); err == nil && time.Since(st.ModTime()) > time.Hour {
			os.Remove(name)
		}
	}
}
