package snapshot

import (
	"errors"
	"io/fs"
	"sync"
)

// remembered is a layer that is asked for each name once. Layers don't change,
// and each step of a build looks up the same few names in all the layers below
// it.
type remembered struct {
	source
	mu    sync.Mutex
	names map[string]answer // by path
}

// answer is what a layer says about a name; none: nothing.
type answer struct {
	found
	none bool
}

// maxRemembered bounds the names kept of one layer.
const maxRemembered = 4096

// Remember returns a layer that keeps what it was asked, for the layers that
// many views have in common.
func Remember(l Layer) Layer {
	return Layer{&remembered{source: l.src, names: map[string]answer{}}}
}

// look returns what a source has under a name of a directory; an error that is
// fs.ErrNotExist when it says nothing.
func look(src source, dir, name string) (found, error) {
	r, ok := src.(*remembered)
	if !ok {
		return ask(src, dir, name)
	}
	p := join(dir, name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.names[p]; ok {
		if a.none {
			return found{}, fs.ErrNotExist
		}
		return a.found, nil
	}
	f, err := ask(r.source, dir, name)
	none := errors.Is(err, fs.ErrNotExist)
	if (err == nil || none) && len(r.names) < maxRemembered {
		r.names[p] = answer{f, none}
	}
	return f, err
}

// ask opens a directory for one name.
func ask(src source, dir, name string) (found, error) {
	d, err := src.open(dir)
	if err != nil {
		return found{}, err
	}
	defer d.close()
	return d.stat(name)
}
