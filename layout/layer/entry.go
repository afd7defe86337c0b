// Package layer converts between the forms of an image layer.
//
// A layer is an ordered stream of [Entry]: what one step added to, changed in
// or removed from a file tree. The stream has two stored forms: packed, a tar
// (compressed or not) as the image specification's layer.md describes it; and
// unpacked, a directory that overlayfs takes as a lowerdir. This package reads
// and writes both:
//
//	Walk   directory -> entries        Apply  entries -> directory
//	Read   tar       -> entries        Pack   entries -> tar
//
// [Unpack] is the way from a blob to a directory: decompress, Read and Apply in
// one pass, with every digest checked on the way. It is a leaf: it knows nothing
// of stores, registries or builds.
//
// # The packed form
//
// What Pack writes depends on the entries and on [Compression] alone, never on
// the number of workers, the machine or what a cache holds:
//
//   - POSIX ustar headers, with a PAX header before them only for what ustar
//     can't hold; no user or group names; no times but the modification time,
//     cut to whole seconds (as containerd and BuildKit do).
//   - A removed path is an empty file ".wh.NAME"; an opaque directory has an
//     empty file ".wh..wh..opq" right after its own header. Both have mode 0,
//     owner 0 and time 0.
//   - The root directory's own header is left out unless asked for.
//   - The tar is cut into chunks of 1 to 2 MiB (see chunk.go for the rule), and
//     each is compressed on its own, into one gzip member (RFC 1952, section
//     2.2) or one zstd frame (RFC 8878, section 3.1), so that chunks are
//     compressed in parallel and kept for the next time.
//
// # The unpacked form
//
// A removed path is a character device 0/0; an opaque directory carries the
// xattr trusted.overlay.opaque (or user.overlay.opaque where the former is
// refused) with the value "y": what overlayfs makes and takes.
package layer

import (
	"io"
	"iter"
	"time"
)

// Type says what an entry is. The values are those of archive/tar's type
// flags, and two more for what a layer removes.
type Type byte

const (
	Regular   Type = '0'
	Hardlink  Type = '1' // Link is the path of an earlier entry of the same layer
	Symlink   Type = '2' // Link is the target, as it is
	Char      Type = '3'
	Block     Type = '4'
	Directory Type = '5'
	Fifo      Type = '6'
	Whiteout  Type = 'w' // Path is removed from the layers below (".wh.NAME" in a tar)
)

// Entry is one file of a layer.
type Entry struct {
	// Path is slash-separated, relative and clean ("etc/passwd"); the root
	// directory itself is ".". No element is "..", and none is a whiteout
	// marker: these are Type Whiteout and the field Opaque.
	Path string
	Type Type
	// Mode holds the permission, setuid, setgid and sticky bits (07777), as
	// chmod(2) takes them.
	Mode     uint32
	UID, GID int
	ModTime  time.Time
	Size     int64  // bytes of a Regular file, else 0
	Link     string // target of a Symlink or Hardlink
	// DevMajor and DevMinor are of Char and Block.
	DevMajor, DevMinor uint32
	// Opaque directories hide all that lower layers have below them. Only
	// [Read] yields an opaque Whiteout: a tar's opaque marker that doesn't
	// follow its directory's header. It hides what lower layers have below
	// Path and says nothing about Path itself.
	Opaque bool
	// Xattrs are kept exactly, without those of overlayfs itself
	// (trusted.overlay.*, user.overlay.*).
	Xattrs map[string]string
	// Content gives the bytes of a Regular file; nil when Size is 0.
	Content Content
}

// Content is the bytes of a regular file. Content that is an [io.ReaderAt] too
// doesn't depend on the stream it came in: Pack reads such content later, in
// several goroutines, and any other before it pulls the next entry. ReadAt is
// asked for a byte after the last one too, to see that there is none. See [File]
// and [Bytes].
type Content interface {
	// Open returns the bytes. The caller closes the reader.
	Open() (io.ReadCloser, error)
	// Digest returns the SHA-256 of the bytes when it is known. It allows a
	// packed chunk to be reused; a reader must not trust it otherwise.
	Digest() (sum [32]byte, ok bool)
}

// Entries is a layer as a stream, parents before children, directories'
// children in bytewise order of their names, each path once, a hard link after
// its target. The stream ends after the first error.
type Entries = iter.Seq2[*Entry, error]
