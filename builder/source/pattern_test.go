package source

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

// libraryMatch evaluates patterns with patternmatcher, walking down to a path
// as fsutil does.
func libraryMatch(t *testing.T, patterns []string, path string) (matched, ok bool) {
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return false, false
	}
	var info patternmatcher.MatchInfo
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if matched, info, err = m.MatchesUsingParentResults(path[:i], info); err != nil {
			return false, false
		}
	}
	return matched, true
}

// ourMatch does the same with the matcher; it also returns whether a directory
// on the way was pruned.
func ourMatch(m *matcher, path string, excludes bool) (matched, pruned bool) {
	var hits []bool
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		matched, hits = m.match(path[:i], hits, true)
		if i < len(path) && matched == excludes && noneAfter(m, path[:i], hits, excludes) {
			pruned = true
		}
	}
	return matched, pruned
}

// noneAfter is noneBelow without the rule that only repeats fsutil's.
func noneAfter(m *matcher, dir string, hits []bool, excludes bool) bool {
	c := *m
	c.prefixOnly = [2]bool{}
	return c.noneBelow(dir, hits, excludes)
}

func checkPatterns(t *testing.T, patterns []string, path string) {
	t.Helper()
	if path == "" || strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || strings.Contains(path, "//") {
		return
	}
	want, ok := libraryMatch(t, patterns, path)
	m, err := newMatcher(patterns)
	if err != nil {
		return // an invalid pattern that patternmatcher may not have come to
	}
	if !ok {
		t.Fatalf("%q is accepted, patternmatcher refuses it", patterns)
	}
	if m == nil {
		return
	}
	got, pruned := ourMatch(m, path, true)
	if got != want {
		t.Fatalf("%q, %q: %v, patternmatcher: %v", patterns, path, got, want)
	}
	if pruned && !want {
		t.Fatalf("%q: %q is visible in an excluded directory that is not read", patterns, path)
	}
	if _, pruned = ourMatch(m, path, false); pruned && want {
		t.Fatalf("%q: %q is included in a directory that is not read", patterns, path)
	}
}

var patternTests = []string{
	"a", "*", "**", "**/a", "a/**", "a**", "**a", "a*b", "a?b", "?", "*/a", "a/*/b", "a/**/b", "a**b", "**/*.go",
	"**/a/*", "*a*", "a/b", "[ab]", "[^a]", `a\*`, `\d`, "a^b", "^a*", "é?", "*é", "**/**", "**/a/**", "a/*", "a.b", "a+*", "a$*", "{a}*", "(a)?",
	"*a*b*c*d*e", "**/a/**/b/**/c", "a//b", "./a", "a/../b", " a ", "\uFEFFa*", "a|*", "a{2}*", `\PC`, `\x41`, `*\Qa`, "[ab]c", "**/[ab]c", "*/c", "***/c", "x*}{",
}

var pathTests = []string{
	"a", "b", "ab", "aab", "acb", "a/b", "a/b/c", "c/a", "c/a/b", "a/x/b", "a/x/y/b", "a.go", "x/a.go", "x/y/a.go", "é", "aé", "éa",
	"a\nb", "\n", "a\n/b", "\xff", "a\xffb", "a*", "5", "^a", "a^b", "a+b", "a$", "{a}b", "(a)b", "a.b", "axb", "a|b",
	"x/a/y/b/z/c", "xaxbxcxdxe", "\uFEFFab", "a\uFFFDb", "日本",
}

// Every pattern alone, and as an exception after "**", matches what it matches
// in patternmatcher.
func TestPatterns(t *testing.T) {
	for _, p := range patternTests {
		for _, path := range pathTests {
			checkPatterns(t, []string{p}, path)
			checkPatterns(t, []string{"**", "!" + p}, path)
			checkPatterns(t, []string{"a", "!" + p, "**/b"}, path)
		}
	}
}

// Patterns that patternmatcher refuses are refused.
func TestBadPatterns(t *testing.T) {
	for _, p := range []string{"[", "a[", "!", `a\`, "[]a]"} {
		if _, err := newMatcher([]string{p}); err == nil {
			t.Errorf("%q is accepted", p)
		}
	}
}

func FuzzPatterns(f *testing.F) {
	for i, p := range patternTests {
		f.Add(p+"\n!"+patternTests[(i+3)%len(patternTests)], pathTests[i%len(pathTests)])
	}
	f.Fuzz(func(t *testing.T, patterns, path string) {
		list := strings.Split(patterns, "\n")
		if len(list) > 8 || len(patterns) > 100 || len(path) > 60 || strings.Contains(patterns, "\x00") || !utf8.ValidString(patterns) {
			return
		}
		checkPatterns(t, list, path)
	})
}
