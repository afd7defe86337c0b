package snapshot

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"bk.build/bk/layout/layer"
)

// matchWildcards returns the paths that a pattern matches, in the order of a
// walk; a pattern without wildcards is its own match. The elements before the
// first wildcard are a path in which symlinks are followed (the last of them
// only with follow); below it none are. What is in a matching directory isn't
// matched itself.
func matchWildcards(fsys FS, pattern string, follow bool) ([]string, error) {
	base, pattern := splitWildcards(pattern)
	if pattern == "" {
		return []string{base}, nil
	}
	flags := AllowMissing
	if !follow {
		flags |= NoFollow
	}
	root, err := Resolve(fsys, base, flags)
	if err != nil {
		return nil, err
	}
	ent, err := fsys.Lstat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notExist("lstat", root)
	}
	if err != nil || ent.Type != layer.Directory {
		return nil, err
	}
	w := globber{fsys: fsys, pattern: pattern, depth: strings.Count(pattern, "/")}
	if strings.ContainsAny(pattern, `[\`) {
		w.depth = maxDepth // a class may match a slash
	} else {
		w.elems = strings.Split(pattern, "/")
	}
	err = w.walk(root, "", 0)
	return w.found, err
}

const maxDepth = 1 << 16

// splitWildcards cuts a pattern before its first element with a wildcard.
func splitWildcards(p string) (base, pattern string) {
	elems := strings.Split(path.Clean(p), "/")
	n := 0
	for n < len(elems) && !hasWildcard(elems[n]) {
		n++
	}
	return path.Join("/", path.Join(elems[:n]...)), strings.Join(elems[n:], "/")
}

func hasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

type globber struct {
	fsys    FS
	pattern string
	elems   []string // of pattern, when each matches one element of a path
	depth   int      // of the deepest possible match
	found   []string
}

// walk looks for matches in dir, whose path below the start is rel.
func (w *globber) walk(dir, rel string, depth int) error {
	kids, err := children(w.fsys, dir)
	if err != nil {
		return err
	}
	for _, k := range kids {
		p, sub := join(dir, k.name), path.Join(rel, k.name)
		if ok, _ := path.Match(w.pattern, sub); ok {
			w.found = append(w.found, p)
			continue
		}
		if k.ent.Type != layer.Directory || depth >= w.depth {
			continue
		}
		if w.elems != nil {
			if ok, _ := path.Match(w.elems[depth], k.name); !ok {
				continue
			}
		}
		if err := w.walk(p, sub, depth+1); err != nil {
			return err
		}
	}
	return nil
}
