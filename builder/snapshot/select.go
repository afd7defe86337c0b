package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"

	"bk.build/bk/layout/layer"
)

// NotFoundError reports that what a copy or a mount needs isn't in its source.
// It is fs.ErrNotExist.
type NotFoundError struct {
	Path string // from the root of the source
}

func (e *NotFoundError) Error() string { return strconv.Quote(e.Path) + ": not found" }

// Is makes it an fs.ErrNotExist.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// pick is one thing that a copy takes: what its source path names, or one of
// the paths that its pattern matches.
type pick struct {
	src  string // as asked or matched
	root *item
	// archive is the regular file that src leads to, when the copy would
	// unpack archives.
	archive *layer.Entry
}

// item is a path that a copy uses. Directories that are left out themselves
// are there only with something in them that isn't.
type item struct {
	child
	include bool // matched itself, and isn't only a parent of what is
	kids    []*item
	whole   *whole // all that is below it, instead of kids
}

// selectCopy decides what a copy takes from src; keys and copies both use it
// and so can't disagree.
func selectCopy(ctx context.Context, src FS, a *pb.FileActionCopy) ([]pick, error) {
	asked := cleanPath(a.Src)
	paths := []string{asked}
	if a.AllowWildcard {
		matches, err := matchWildcards(src, asked, a.FollowSymlink)
		if err != nil {
			return nil, err
		}
		if len(matches) == 0 && !a.AllowEmptyWildcard {
			return nil, fmt.Errorf("%s not found", asked)
		}
		paths = matches
	}
	picks := make([]pick, 0, len(paths))
	for _, p := range paths {
		pk, err := selectPath(ctx, src, p, a)
		if err != nil {
			return nil, err
		}
		picks = append(picks, pk)
	}
	return picks, checkRequired(a, picks)
}

// selectPath decides what a copy takes of one path.
func selectPath(ctx context.Context, src FS, p string, a *pb.FileActionCopy) (pick, error) {
	s, err := newSelector(ctx, src, a)
	if err != nil {
		return pick{}, err
	}
	real, root, err := statSource(src, p, a.FollowSymlink)
	if err != nil {
		return pick{}, err
	}
	pk := pick{src: p}
	if a.AttemptUnpackDockerCompatibility {
		if _, c, err := statSource(src, p, true); err == nil && c.ent.Type == layer.Regular {
			pk.archive = c.ent
		}
	}
	pk.root, err = s.pick(real, root)
	return pk, err
}

// statSource returns what p names in src.
func statSource(src FS, p string, follow bool) (string, child, error) {
	var flags ResolveFlags
	if !follow {
		flags = NoFollow
	}
	real, err := Resolve(src, path.Join("/", p), flags)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", child{}, &NotFoundError{display(p)}
	}
	if err != nil {
		return "", child{}, err
	}
	c, err := stat(src, real)
	return real, c, err
}

// checkRequired reports the first required path that was not selected.
func checkRequired(a *pb.FileActionCopy, picks []pick) error {
	if len(a.IncludePatterns) == 0 {
		return nil
	}
	for _, required := range a.RequiredPaths {
		found := false
		for _, pk := range picks {
			found = found || pk.root.reaches(display(pk.src), required)
		}
		if !found {
			return &NotFoundError{required}
		}
	}
	return nil
}

// reaches reports whether something below it, which is at p, is included and
// has a path that starts with required.
func (it *item) reaches(p, required string) bool {
	for _, k := range it.kids {
		at := path.Join(p, k.name)
		if k.include && strings.HasPrefix(at, required) {
			return true
		}
		if (strings.HasPrefix(required, at) || strings.HasPrefix(at, required)) && k.reaches(at, required) {
			return true
		}
	}
	return false
}

// selector applies the include and exclude patterns of one copy.
type selector struct {
	ctx              context.Context
	src              FS
	include, exclude *patternmatcher.PatternMatcher // nil: no patterns
}

// matches is how a directory matched, for what is in it.
type matches struct{ include, exclude patternmatcher.MatchInfo }

func newSelector(ctx context.Context, src FS, a *pb.FileActionCopy) (*selector, error) {
	s := &selector{ctx: ctx, src: src}
	var err error
	if len(a.IncludePatterns) > 0 {
		if s.include, err = patternmatcher.New(a.IncludePatterns); err != nil {
			return nil, fmt.Errorf("invalid includepatterns: %s: %w", a.IncludePatterns, err)
		}
	}
	if len(a.ExcludePatterns) > 0 {
		if s.exclude, err = patternmatcher.New(a.ExcludePatterns); err != nil {
			return nil, fmt.Errorf("invalid excludepatterns: %s: %w", a.ExcludePatterns, err)
		}
	}
	return s, nil
}

// visit returns what is selected of c, which is at p and has the path rel
// below the copy's source; nil when nothing is.
func (s *selector) visit(p, rel string, c child, parent matches) (*item, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	include, excluded, m, err := s.match(rel, parent)
	if err != nil {
		return nil, err
	}
	it := &item{child: c, include: include}
	switch {
	case c.ent.Type != layer.Directory && include:
		return it, nil
	case c.ent.Type != layer.Directory:
		return nil, nil
	case excluded && !s.exclude.Exclusions():
		return nil, nil
	}
	kids, err := children(s.src, p)
	if err != nil {
		return nil, err
	}
	for _, k := range kids {
		sub, err := s.visit(join(p, k.name), path.Join(rel, k.name), k, m)
		if err != nil {
			return nil, err
		}
		if sub != nil {
			it.kids = append(it.kids, sub)
		}
	}
	if !include && len(it.kids) == 0 {
		return nil, nil
	}
	return it, nil
}

// match applies the patterns to a path. The source itself is always included.
func (s *selector) match(rel string, parent matches) (include, excluded bool, m matches, err error) {
	include = true
	if rel == "" {
		return
	}
	if s.include != nil {
		include, m.include, err = s.include.MatchesUsingParentResults(rel, parent.include)
		if err != nil {
			return false, false, m, fmt.Errorf("failed to match includepatterns: %w", err)
		}
	}
	if s.exclude != nil {
		excluded, m.exclude, err = s.exclude.MatchesUsingParentResults(rel, parent.exclude)
		if err != nil {
			return false, false, m, fmt.Errorf("failed to match excludepatterns: %w", err)
		}
		include = include && !excluded
	}
	return include, excluded, m, nil
}
