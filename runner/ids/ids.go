// Package ids remembers what a file would be if this process could write it.
//
// A process whose user namespace holds one id can give files to nobody else and
// make no device nodes. What it would have written is kept beside the file:
//
//   - regular files and directories carry it in the extended attribute [Attr], so
//     that renaming, linking and overlayfs's copying keep it;
//   - a device node is an empty regular file whose attribute says what it is;
//   - symbolic links and FIFOs can have no attributes of a user. A [Record],
//     which lies beside the directory of a layer, names them by their paths.
//
// Permissions, set-id bits and capabilities are the file's own: a user
// namespace's root may write these.
//
// The attribute can be written by everything that runs in a step. That gives it
// nothing that it hasn't: a step may give files to whom it likes.
package ids

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Attr is the extended attribute of remembered inodes.
const Attr = "user.bk.inode"

// ModeAttr is that of permissions, in octal, which a file should have and has not,
// because its owner, who stands for root, must be able to open it: package trace.
const ModeAttr = "user.bk.mode"

// maxText bounds the text of an inode in bytes.
const maxText = 64

// Inode is what a file would be. The zero value is a file of root.
type Inode struct {
	UID, GID uint32
	// Device is 'c' or 'b' for a device node; 0: the file is what it seems.
	Device       byte
	Major, Minor uint32
}

// String returns the only text of the inode that [Parse] takes: "1:UID:GID", and
// for devices ":c:MAJOR:MINOR" or ":b:MAJOR:MINOR" behind it.
func (i Inode) String() string {
	b := make([]byte, 0, maxText)
	b = append(b, '1')
	add := func(n uint32) { b = strconv.AppendUint(append(b, ':'), uint64(n), 10) }
	add(i.UID)
	add(i.GID)
	if i.Device != 0 {
		b = append(b, ':', i.Device)
		add(i.Major)
		add(i.Minor)
	}
	return string(b)
}

var errText = errors.New("malformed inode")

// Parse reads the text of an inode, which may come from anybody.
func Parse(s string) (Inode, error) {
	var i Inode
	f := strings.Split(s[:min(len(s), maxText)], ":")
	if len(s) > maxText || len(f) != 3 && len(f) != 6 || f[0] != "1" {
		return Inode{}, errText
	}
	numbers := []*uint32{&i.UID, &i.GID}
	texts := f[1:3]
	if len(f) == 6 {
		if f[3] != "c" && f[3] != "b" {
			return Inode{}, errText
		}
		i.Device = f[3][0]
		numbers, texts = append(numbers, &i.Major, &i.Minor), append(texts[:2:2], f[4:]...)
	}
	for k, text := range texts {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return Inode{}, errText
		}
		*numbers[k] = uint32(n)
	}
	// One text for each inode; no file belongs to the id -1, and the device 0:0
	// is a removed file in layers.
	if i.UID == math.MaxUint32 || i.GID == math.MaxUint32 || i.Device == 'c' && i.Major == 0 && i.Minor == 0 || i.String() != s {
		return Inode{}, errText
	}
	return i, nil
}

// Plain reports whether there is nothing to remember.
func (i Inode) Plain() bool { return i == Inode{} }

// Record holds the inodes of symbolic links and FIFOs by path, relative to the
// layer's directory.
type Record map[string]Inode

// MaxRecord bounds an encoded record in bytes.
const MaxRecord = 64 << 20

// Set remembers an inode, or forgets what is plain.
func (r Record) Set(path string, i Inode) {
	if i.Plain() {
		delete(r, path)
		return
	}
	r[path] = i
}

// Encode returns the record as bytes: a path and an inode, each ended by a zero
// byte, for every file.
func (r Record) Encode() []byte {
	var b []byte
	for path, i := range r {
		b = append(append(b, path...), 0)
		b = append(append(b, i.String()...), 0)
	}
	return b
}

// ParseRecord reads what Encode made.
func ParseRecord(b []byte) (Record, error) {
	if len(b) > MaxRecord {
		return nil, errors.New("record of inodes: too large")
	}
	r := Record{}
	for text := string(b); text != ""; {
		path, rest, ok1 := strings.Cut(text, "\x00")
		inode, next, ok2 := strings.Cut(rest, "\x00")
		i, err := Parse(inode)
		if !ok1 || !ok2 || path == "" || err != nil {
			return nil, fmt.Errorf("record of inodes: entry of %q: %w", path, errText)
		}
		r[path], text = i, next
	}
	return r, nil
}
