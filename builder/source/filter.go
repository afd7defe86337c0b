package source

import (
	"fmt"
	"strings"

	"github.com/moby/patternmatcher"
)

// filter decides which paths are visible. It gives the results of fsutil's
// filtered walk, which is what BuildKit's clients send.
type filter struct {
	include, exclude *matcher // nil: no patterns
}

func newFilter(include, exclude []string) (filter, error) {
	inc, err := newMatcher(include)
	if err != nil {
		return filter{}, fmt.Errorf("include patterns %q: %w", include, err)
	}
	exc, err := newMatcher(exclude)
	if err != nil {
		return filter{}, fmt.Errorf("exclude patterns %q: %w", exclude, err)
	}
	return filter{include: inc, exclude: exc}, nil
}

func (f *filter) empty() bool { return f.include == nil && f.exclude == nil }

// state is what the filter knows about a directory, for its children: for each
// pattern, whether it matched the directory or one above.
type state struct {
	include, exclude []bool
}

// verdict is the filter's answer about one path.
type verdict struct {
	// drop: neither the path nor anything below it is visible.
	drop bool
	// skip: the path is not visible by itself; something below it may be.
	skip bool
	// state is set for directories that aren't dropped.
	state state
}

// look judges the path of a child of the directory with the given state.
func (f *filter) look(path string, isDir bool, parent state) verdict {
	var v verdict
	if m := f.include; m != nil {
		matched, hits := m.match(path, parent.include, isDir)
		if !matched {
			v.skip = true
			if !isDir || m.noneBelow(path, hits, false) {
				return verdict{drop: true}
			}
		}
		v.state.include = hits
	}
	if m := f.exclude; m != nil {
		matched, hits := m.match(path, parent.exclude, isDir)
		if matched {
			v.skip = true
			if !isDir || m.noneBelow(path, hits, true) {
				return verdict{drop: true}
			}
		}
		v.state.exclude = hits
	}
	return v
}

// matcher evaluates a list of patterns. It is safe for concurrent use.
type matcher struct {
	patterns []pattern
	// prefixOnly[n] says that the patterns (n = 0), or the exceptions (n = 1),
	// are plain paths with at most a "/*" or "/**" at their end.
	prefixOnly [2]bool
}

func newMatcher(patterns []string) (*matcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	parsed, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	m := &matcher{prefixOnly: [2]bool{true, true}}
	for _, p := range parsed.Patterns() {
		c, err := compile(p.String(), p.Exclusion())
		if err != nil {
			return nil, err
		}
		m.patterns = append(m.patterns, c)
		if strings.ContainsAny(c.prefix, `*[]?^\`) {
			m.prefixOnly[btoi(c.except)] = false
		}
	}
	return m, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// match says whether the patterns match a path, given which of them matched its
// parent directory (nil: the parent is the root). For directories it returns
// the same for the path's children. The rules are those of the method
// MatchesUsingParentResults of patternmatcher.
func (m *matcher) match(path string, parent []bool, isDir bool) (matched bool, hits []bool) {
	if isDir {
		hits = make([]bool, len(m.patterns))
	}
	for i := range m.patterns {
		p := &m.patterns[i]
		hit := parent != nil && parent[i]
		if !hit {
			if p.except != matched {
				continue
			}
			hit = p.match(path)
		}
		if hit {
			matched = !p.except
		}
		if isDir {
			hits[i] = hit
		}
	}
	return matched, hits
}

// noneBelow says that all paths below a directory get the same answer as the
// directory itself: matched (an excluded directory) or not matched (one that
// isn't included). hits are the patterns that matched the directory.
//
// The last pattern that decided about the directory decides about everything
// below it, unless a later pattern of the other kind matches there.
func (m *matcher) noneBelow(dir string, hits []bool, matched bool) bool {
	if m.prefixOnly[btoi(matched)] && !m.prefixBelow(dir, matched) {
		return true
	}
	for i := len(m.patterns) - 1; i >= 0; i-- {
		p := &m.patterns[i]
		if p.except != matched {
			if hits[i] {
				break
			}
			continue
		}
		if p.below(dir) {
			return false
		}
	}
	return true
}

// prefixBelow is the rule by which fsutil prunes when all patterns are plain
// paths: one of them must be the directory or lie below it. It is repeated here
// because it prunes slightly more than what cannot match.
func (m *matcher) prefixBelow(dir string, except bool) bool {
	for i := range m.patterns {
		p := &m.patterns[i]
		if p.except == except && strings.HasPrefix(p.prefix, dir) &&
			(len(p.prefix) == len(dir) || p.prefix[len(dir)] == '/') {
			return true
		}
	}
	return false
}
