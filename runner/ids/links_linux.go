package ids

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLinks bounds what a step can make Links hold.
const maxLinks = 1 << 20

// Links remembers symbolic links and FIFOs of a tree that changes, by what stays
// when they are renamed. It is safe for concurrent use; the zero value is empty.
type Links struct {
	mu     sync.Mutex
	inodes map[link]Inode
}

// link is a file, told from one that had its number before by its time of birth.
type link struct {
	ino  uint64
	born unix.StatxTimestamp
}

func linkOf(fd int, path string) (link, bool) {
	var x unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Statx(fd, path, flags, unix.STATX_INO|unix.STATX_BTIME, &x); err != nil {
		return link{}, false
	}
	return link{x.Ino, x.Btime}, true
}

// Set remembers the inode of an open file.
func (l *Links) Set(fd int, i Inode) {
	k, ok := linkOf(fd, "")
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inodes == nil {
		l.inodes = map[link]Inode{}
	}
	if i.Plain() {
		delete(l.inodes, k)
	} else if len(l.inodes) < maxLinks {
		l.inodes[k] = i
	}
}

// Get returns it; a plain one when it isn't known.
func (l *Links) Get(fd int) Inode {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inodes) == 0 {
		return Inode{}
	}
	k, ok := linkOf(fd, "")
	if !ok {
		return Inode{}
	}
	return l.inodes[k]
}

// Load adds the files of a record that lies beside dir. What isn't there any more
// is left out.
func (l *Links) Load(dir string, r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path, i := range r {
		k, ok := linkOf(unix.AT_FDCWD, filepath.Join(dir, path))
		if !ok {
			continue
		}
		if l.inodes == nil {
			l.inodes = map[link]Inode{}
		}
		l.inodes[k] = i
	}
}

// Record finds them in a directory and below it.
func (l *Links) Record(dir string) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Record{}
	if len(l.inodes) == 0 {
		return r, nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&(os.ModeSymlink|os.ModeNamedPipe) == 0 {
			return err
		}
		k, ok := linkOf(unix.AT_FDCWD, path)
		i, known := l.inodes[k]
		if !ok || !known {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		r.Set(rel, i)
		return err
	})
	return r, err
}
