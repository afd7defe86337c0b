package layer

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	blockSize = 512
	// maxOctal7 and maxOctal11 are the largest numbers in ustar's fields of 8
	// and 12 bytes.
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1

	// maxRecords is the size of a PAX header that archive/tar still reads.
	maxRecords = 1 << 20

	xattrRecord  = "SCHILY.xattr."
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	opaqueMarker = ".wh..wh..opq"
)

// tarHeader is what one tar header holds, before it is encoded.
type tarHeader struct {
	name, link   string
	typ          byte
	mode         uint32
	uid, gid     int64
	size, mtime  int64
	major, minor uint32
	xattrs       map[string]string
}

// headersOf appends the encoded tar headers of e to b: one, and a second for
// the marker of an opaque directory.
func headersOf(b []byte, e *Entry, epoch *time.Time) ([]byte, error) {
	if err := checkEntry(e); err != nil {
		return nil, fmt.Errorf("pack %q: %w", e.Path, err)
	}
	if e.Type == Whiteout {
		name := path.Join(path.Dir(e.Path), whiteout+path.Base(e.Path))
		if e.Opaque {
			name = path.Join(e.Path, opaqueMarker)
		}
		return (&tarHeader{name: name, typ: byte(Regular)}).append(b)
	}
	h := tarHeader{
		name: e.Path, typ: byte(e.Type), mode: e.Mode & 0o7777,
		uid: int64(e.UID), gid: int64(e.GID), mtime: seconds(e.ModTime, epoch), xattrs: e.Xattrs,
	}
	switch e.Type {
	case Directory:
		h.name += "/"
	case Regular:
		h.size = e.Size
	case Hardlink:
		h.link, h.xattrs = e.Link, nil
	case Symlink:
		h.link = e.Link
	case Char, Block:
		h.major, h.minor = e.DevMajor, e.DevMinor
	}
	b, err := h.append(b)
	if err != nil {
		return nil, fmt.Errorf("pack %q: %w", e.Path, err)
	}
	if e.Type == Directory && e.Opaque {
		return opaqueHeader(b, e.Path)
	}
	return b, nil
}

// opaqueHeader appends the marker that makes the directory dir opaque.
func opaqueHeader(b []byte, dir string) ([]byte, error) {
	return (&tarHeader{name: path.Join(dir, opaqueMarker), typ: byte(Regular)}).append(b)
}

// seconds is t as a tar has it: not after the epoch, in whole seconds, rounded
// down; the zero time is 1970.
func seconds(t time.Time, epoch *time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	s := t.Unix()
	if epoch != nil {
		s = min(s, epoch.Unix())
	}
	return s
}

// checkEntry reports what a tar can't hold or what would mean something else
// when it is read back.
func checkEntry(e *Entry) error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	if strings.HasPrefix(e.Path, whiteout) || strings.Contains(e.Path, "/"+whiteout) {
		return fmt.Errorf("a name that starts with %q would be read as the removal of a file; rename it", whiteout)
	}
	if e.Path == "." && e.Type != Directory && !(e.Type == Whiteout && e.Opaque) {
		return fmt.Errorf("the root can only be a directory")
	}
	if e.UID < 0 || e.GID < 0 {
		return fmt.Errorf("negative owner %d:%d", e.UID, e.GID)
	}
	if e.Size < 0 || e.Size != 0 && (e.Type != Regular || e.Content == nil) {
		return fmt.Errorf("size %d without content", e.Size)
	}
	if e.DevMajor > maxOctal7 || e.DevMinor > maxOctal7 {
		return fmt.Errorf("device number %d:%d is too large for a tar", e.DevMajor, e.DevMinor)
	}
	switch e.Type {
	case Hardlink:
		if err := checkPath(e.Link); err != nil {
			return fmt.Errorf("hard link to %q: %w", e.Link, err)
		}
	case Symlink:
		if e.Link == "" || strings.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("symlink target %q is empty or has a NUL", e.Link)
		}
	case Regular, Char, Block, Directory, Fifo, Whiteout:
	default:
		return fmt.Errorf("unknown entry type %q", byte(e.Type))
	}
	return nil
}

// checkPath reports a path that isn't as Entry.Path says.
func checkPath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("empty path")
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("path has a NUL")
	case p[0] == '/' || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../"):
		return fmt.Errorf("path is not clean and relative")
	}
	return nil
}

// append encodes h after b, a PAX header first when ustar isn't enough.
func (h *tarHeader) append(b []byte) ([]byte, error) {
	records, err := h.records()
	if err != nil {
		return nil, err
	}
	if len(records) > 0 {
		dir, base := path.Split(strings.TrimSuffix(h.name, "/"))
		x := tarHeader{name: truncate(path.Join(dir, "PaxHeaders.0", base)), typ: 'x', size: int64(len(records))}
		b = x.appendBlock(b)
		b = append(b, records...)
		b = appendZeros(b, padding(int64(len(records))))
	}
	return h.appendBlock(b), nil
}

// records returns the PAX records (POSIX.1-2017, pax, "pax Header Block") of
// what doesn't fit in the ustar header, sorted by keyword.
func (h *tarHeader) records() ([]byte, error) {
	var over []string // keyword, value, in order
	if h.gid > maxOctal7 {
		over = append(over, "gid", strconv.FormatInt(h.gid, 10))
	}
	if len(h.link) > 100 || !ascii(h.link) {
		over = append(over, "linkpath", h.link)
	}
	if h.mtime < 0 || h.mtime > maxOctal11 {
		over = append(over, "mtime", strconv.FormatInt(h.mtime, 10))
	}
	if _, _, ok := splitName(h.name); !ok {
		over = append(over, "path", h.name)
	}
	if h.size > maxOctal11 {
		over = append(over, "size", strconv.FormatInt(h.size, 10))
	}
	if h.uid > maxOctal7 {
		over = append(over, "uid", strconv.FormatInt(h.uid, 10))
	}
	if len(over) == 0 && len(h.xattrs) == 0 {
		return nil, nil
	}
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(h.xattrs)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, fmt.Errorf("extended attribute %q can't be stored in a tar: its name has '=' or NUL", name)
		}
		b = appendRecord(b, xattrRecord+name, canonicalXattr(name, h.xattrs[name]))
	}
	for i := 0; i < len(over); i += 2 {
		b = appendRecord(b, over[i], over[i+1])
	}
	if len(b) > maxRecords {
		return nil, fmt.Errorf("extended attributes of %d bytes: at most %d are read back", len(b), maxRecords)
	}
	return b, nil
}

// canonicalXattr rewrites a file capability of revision 3 that belongs to the
// initial user namespace as revision 2, which is how the same capability looks
// when it is set outside of a user namespace (capabilities(7)).
func canonicalXattr(name, value string) string {
	const revision2, revision3 = "\x02", "\x03"
	if name != "security.capability" || len(value) != 24 || value[3:4] != revision3 {
		return value
	}
	if binary.LittleEndian.Uint32([]byte(value[20:])) != 0 {
		return value
	}
	return value[:3] + revision2 + value[4:20]
}

// appendRecord appends "LENGTH KEY=VALUE\n", where LENGTH counts itself.
func appendRecord(b []byte, key, value string) []byte {
	n := len(key) + len(value) + 3
	size := n + len(strconv.Itoa(n))
	if n+len(strconv.Itoa(size)) != size {
		size++
	}
	b = strconv.AppendInt(b, int64(size), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

// appendBlock appends the ustar header block. What doesn't fit is cut; a PAX
// record has it.
func (h *tarHeader) appendBlock(b []byte) []byte {
	b = appendZeros(b, blockSize)
	blk := b[len(b)-blockSize:]
	prefix, name, ok := splitName(h.name)
	if !ok {
		prefix, name = "", truncate(h.name)
	}
	copy(blk[0:100], name)
	octal(blk[100:108], int64(h.mode))
	octal(blk[108:116], fit(h.uid, maxOctal7))
	octal(blk[116:124], fit(h.gid, maxOctal7))
	octal(blk[124:136], fit(h.size, maxOctal11))
	octal(blk[136:148], fit(h.mtime, maxOctal11))
	blk[156] = h.typ
	copy(blk[157:257], truncate(h.link))
	copy(blk[257:265], "ustar\x0000")
	octal(blk[329:337], int64(h.major))
	octal(blk[337:345], int64(h.minor))
	copy(blk[345:500], prefix)

	sum := int64(8 * ' ')
	for _, c := range blk {
		sum += int64(c)
	}
	octal(blk[148:155], sum)
	blk[155] = ' '
	return b
}

// splitName splits an ASCII name into ustar's prefix and name fields.
func splitName(name string) (prefix, base string, ok bool) {
	if !ascii(name) {
		return "", "", false
	}
	if len(name) <= 100 {
		return "", name, true
	}
	if len(name) > 256 {
		return "", "", false
	}
	// The shortest prefix that leaves at most 100 bytes, without the slash
	// between them and without splitting off a directory's last slash.
	i := strings.IndexByte(name[len(name)-101:len(name)-1], '/')
	if i < 0 {
		return "", "", false
	}
	i += len(name) - 101
	if i == 0 || i > 155 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// truncate returns what of s fits in a field of 100 bytes, without bytes that
// aren't ASCII.
func truncate(s string) string {
	if !ascii(s) {
		s = strings.Map(func(r rune) rune {
			if r >= 0x80 {
				return -1
			}
			return r
		}, s)
	}
	return strings.TrimRight(s[:min(len(s), 100)], "/")
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// fit returns n, or 0 when it isn't within 0 and limit.
func fit(n, limit int64) int64 {
	if n < 0 || n > limit {
		return 0
	}
	return n
}

// octal writes n as octal digits that fill field but for a last NUL.
func octal(field []byte, n int64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// padding returns the bytes between n and the next multiple of a tar block.
func padding(n int64) int { return int(-n & (blockSize - 1)) }

func appendZeros(b []byte, n int) []byte {
	var zeros [blockSize]byte
	return append(b, zeros[:n]...)
}
