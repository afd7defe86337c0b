package layer

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symlinks the kernel follows in one path, too.
const maxLinks = 40

// cursor opens directories below a root, keeping those open that lead to the
// last one: in a sorted stream most are found open. A symlink in a path is
// followed as if the root were "/"; no other tree is ever reached, as every
// element is opened on its own from the directory before it.
type cursor struct {
	root  int
	stack []openedDir // from below the root to the current directory
	// missing makes the directory name in fd, whose path is p; nil: an error.
	missing func(fd int, name, p string) error
}

type openedDir struct {
	path string // without symlinks
	fd   int
}

// close closes all that is open but the root.
func (c *cursor) close() { c.truncate(0) }

func (c *cursor) truncate(n int) {
	for _, d := range c.stack[n:] {
		unix.Close(d.fd)
	}
	c.stack = c.stack[:n]
}

// top returns the current directory.
func (c *cursor) top() (fd int, p string) {
	if n := len(c.stack); n > 0 {
		return c.stack[n-1].fd, c.stack[n-1].path
	}
	return c.root, "."
}

// forget closes the directory p and those in it, which are about to go.
func (c *cursor) forget(p string) {
	for i, d := range c.stack {
		if within(d.path, p) {
			c.truncate(i)
			return
		}
	}
}

// open returns the directory p and its path without symlinks. The descriptor is
// valid until the next call.
func (c *cursor) open(p string) (fd int, real string, err error) {
	if p == "." {
		c.truncate(0)
		return c.root, ".", nil
	}
	if n := len(c.stack); n > 0 && c.stack[n-1].path == p {
		return c.stack[n-1].fd, p, nil
	}
	rest := c.common(p)
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		target, err := c.enter(name)
		if err != nil {
			return -1, "", &fs.PathError{Op: "open directory", Path: p, Err: err}
		}
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return -1, "", &fs.PathError{Op: "open directory", Path: p, Err: unix.ELOOP}
		}
		if target[0] == '/' {
			c.truncate(0)
		}
		rest = target + "/" + rest
	}
	fd, real = c.top()
	return fd, real, nil
}

// common goes up to the deepest open directory on the way to p and returns what
// remains of p.
func (c *cursor) common(p string) (rest string) {
	n := len(c.stack)
	for n > 0 && !within(p, c.stack[n-1].path) {
		n--
	}
	c.truncate(n)
	if n == 0 {
		return p
	}
	return strings.TrimPrefix(p[len(c.stack[n-1].path):], "/")
}

// enter goes to name, or returns the target when it is a symlink.
func (c *cursor) enter(name string) (target string, err error) {
	switch name {
	case "", ".":
		return "", nil
	case "..":
		c.truncate(max(len(c.stack)-1, 0))
		return "", nil
	}
	at, dir := c.top()
	fd, err := openDir(at, name, unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) && c.missing != nil {
		if err := c.missing(at, name, join(dir, name)); err != nil {
			return "", err
		}
		fd, err = openDir(at, name, unix.O_NOFOLLOW)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if target, lerr := readlink(at, name); lerr == nil && target != "" {
			return target, nil
		}
	}
	if err != nil {
		return "", err
	}
	c.stack = append(c.stack, openedDir{join(dir, name), fd})
	return "", nil
}

// within reports whether p is dir or below it.
func within(p, dir string) bool {
	return dir == "." || strings.HasPrefix(p, dir) && (len(p) == len(dir) || p[len(dir)] == '/')
}
