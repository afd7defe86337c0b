package source

import (
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// follow returns include patterns for paths and for what symlinks on their way
// lead to, after the given patterns. It does what fsutil.FollowLinks does, by
// which BuildKit's clients choose what to send.
func follow(root int, include, paths []string) ([]string, error) {
	if paths == nil {
		return include, nil
	}
	r := follower{root: root, seen: map[string]bool{}}
	for _, p := range paths {
		if err := r.add(p); err != nil {
			return nil, err
		}
	}
	found := make([]string, 0, len(r.seen))
	for p := range r.seen {
		found = append(found, p)
	}
	slices.Sort(found)
	if found = outermost(found); found == nil {
		return include, nil // all of it
	}
	return outermost(slices.Concat(include, found)), nil
}

// outermost leaves out paths below the one before them. It returns nil when the
// root is one of the paths.
func outermost(paths []string) []string {
	out := make([]string, 0, len(paths))
	last := ""
	for _, p := range paths {
		if p == "." {
			return nil
		}
		if !strings.HasPrefix(p, last+"/") {
			out, last = append(out, p), p
		}
	}
	return out
}

// follower collects patterns.
type follower struct {
	root int
	seen map[string]bool
}

// add adds a path and, element by element, the targets of symlinks on its way.
func (r *follower) add(p string) error {
	rest := strings.TrimPrefix(path.Clean("/"+p), "/")
	at := "."
	for {
		elem, below, _ := strings.Cut(rest, "/")
		at = path.Join(at, elem)
		targets, err := r.targets(at)
		if err != nil {
			return err
		}
		if below != "" && targets == nil {
			rest = below
			continue
		}
		if r.seen[at] {
			return nil
		}
		r.seen[at] = true
		for _, t := range targets {
			if err := r.add(path.Join(t, below)); err != nil {
				return err
			}
		}
		return nil
	}
}

// targets returns where the symlinks lead that a path or, when its last element
// has wildcards, the names that match it are.
func (r *follower) targets(p string) ([]string, error) {
	dir, base := path.Split(p)
	dir = path.Clean(dir)
	if !hasWildcards(base) {
		t, err := r.target(p)
		if t == "" {
			return nil, err
		}
		return []string{t}, err
	}
	names, err := r.names(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if ok, _ := filepath.Match(base, n); !ok {
			continue
		}
		t, err := r.target(path.Join(dir, n))
		if err != nil {
			return nil, err
		}
		if t != "" {
			out = append(out, t)
		}
	}
	return out, nil
}

// target returns what a symlink leads to, as an absolute path in the context;
// nothing when p isn't a symlink or isn't there.
func (r *follower) target(p string) (string, error) {
	fd, err := openBeneath(r.root, p, unix.O_PATH)
	if err != nil {
		return "", r.fail(p, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := stat(fd, "", &st); err != nil {
		return "", readable(p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	link, err := readlink(fd, "")
	if err != nil {
		return "", readable(p, err)
	}
	if !path.IsAbs(link) {
		link = path.Join("/", path.Dir(p), link)
	}
	return path.Clean(link), nil
}

// names returns what is in a directory, whatever the patterns say.
func (r *follower) names(dir string) ([]string, error) {
	fd, err := openBeneath(r.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, r.fail(dir, err)
	}
	defer unix.Close(fd)
	var names []string
	err = readDirents(fd, make([]byte, direntBytes), func(name []byte, _ uint16) {
		names = append(names, string(name))
	})
	if err != nil {
		return nil, readable(dir, err)
	}
	return names, nil
}

// fail ignores that a path isn't there: that is for those to say who use it.
func (r *follower) fail(p string, err error) error {
	if missing(err) == fs.ErrNotExist {
		return nil
	}
	return readable(p, err)
}

// hasWildcards says whether a path element is a pattern.
func hasWildcards(elem string) bool {
	for i := 0; i < len(elem); i++ {
		switch elem[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}
