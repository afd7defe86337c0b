package source

import (
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

// pattern is one line of a .dockerignore file, compiled. The language is that
// of patternmatcher, which translates it to regular expressions; the common
// forms are evaluated without, and the others by patternmatcher itself.
type pattern struct {
	text   string // cleaned, without "!"
	except bool   // it began with "!"
	prefix string // text without a "/*" or "/**" at its end
	kind   kind
	lit    string     // exact, prefix: what to compare with; suffix: what to end in
	tail   string     // glob, library: what a matching path ends in, at least
	glob   []token    // glob
	lib    *libMatch  // library
	elems  []elements // text split at slashes
}

type kind byte

const (
	exact kind = iota
	prefix
	suffix
	glob
	library
)

// elements is one path element of a pattern.
type elements struct {
	any  bool    // it may match slashes, or is not known well enough
	glob []token // otherwise what it matches
}

// compile prepares a pattern as patternmatcher has cleaned it.
func compile(text string, except bool) (pattern, error) {
	p := pattern{text: text, except: except}
	p.prefix = strings.TrimSuffix(strings.TrimSuffix(filepath.ToSlash(text), "/**"), "/*")
	if filepath.Separator == '/' && simple(text) {
		p.classify()
	} else {
		p.kind = library
	}
	p.tail = tailOf(text)
	if p.kind == library {
		lib, err := newLibMatch(text)
		if err != nil {
			return pattern{}, err
		}
		p.lib = lib
	}
	for e := range strings.SplitSeq(filepath.ToSlash(text), "/") {
		if strings.Contains(e, "**") || strings.ContainsAny(e, unescaped) || !simple(e) {
			p.elems = append(p.elems, elements{any: true})
			break
		}
		p.elems = append(p.elems, elements{glob: tokens(e)})
	}
	return p, nil
}

// simple says that a pattern has only characters that stand for themselves,
// stars and question marks.
func simple(text string) bool {
	return !strings.ContainsAny(text, `[]\`) && plain(text)
}

// plain says that a text is made of characters, none of which patternmatcher's
// scanner treats in its own way.
func plain(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsAny(text, "\x00\uFEFF\uFFFD")
}

// unescaped are the characters to which patternmatcher's translation leaves the
// meaning that they have in a regular expression.
const unescaped = "^{|}"

// classify finds the way to evaluate a simple pattern.
func (p *pattern) classify() {
	head, starsFirst := strings.CutPrefix(p.text, "**")
	body, starsLast := strings.CutSuffix(p.text, "**")
	switch {
	case !strings.ContainsAny(p.text, "*?"):
		p.kind, p.lit = exact, p.text
	case starsFirst && !strings.ContainsAny(head, "*?"):
		p.kind, p.lit = suffix, head
	case starsLast && !strings.ContainsAny(body, "*?"):
		p.kind, p.lit = prefix, body
	case strings.ContainsAny(p.text, unescaped):
		p.kind = library
	default:
		p.kind, p.glob = glob, tokens(p.text)
		if tooMany(p.glob) {
			p.kind = library
		}
	}
}

// tailOf returns the characters after the last special one, which a path must
// end in to match the pattern.
func tailOf(text string) string {
	if strings.ContainsAny(text, `|\`) || !plain(text) {
		return ""
	}
	i := strings.LastIndexAny(text, "*?[]"+unescaped)
	if i < 0 {
		return ""
	}
	tail := text[i+1:]
	if strings.HasSuffix(text[:i+1], "**") {
		tail = strings.TrimPrefix(tail, "/")
	}
	return tail
}

// tooMany says that a pattern has so many wildcards that trying all ways to
// match it could take long.
func tooMany(list []token) bool {
	dirs, stars := 0, 0
	for _, t := range list {
		dirs += btoi(t.op == opDirs)
		stars += btoi(t.op == opStar)
	}
	return dirs > 1 || stars > 3
}

func (p *pattern) match(path string) bool {
	switch p.kind {
	case exact:
		return path == p.lit
	case prefix:
		return strings.HasPrefix(path, p.lit)
	case suffix:
		return strings.HasSuffix(path, p.lit) || p.lit != "" && p.lit[0] == '/' && path == p.lit[1:]
	}
	if !strings.HasSuffix(path, p.tail) {
		return false
	}
	if p.kind == glob {
		if strings.IndexByte(path, '\n') < 0 {
			return matchTokens(p.glob, path)
		}
		// Two of patternmatcher's wildcards do not match a newline.
		return p.slowly().match(path)
	}
	return p.lib.match(path)
}

func (p *pattern) slowly() *libMatch {
	lib, err := newLibMatch(p.text)
	if err != nil {
		return &libMatch{}
	}
	return lib
}

// below says whether the pattern could match a path below dir.
func (p *pattern) below(dir string) bool {
	for i := 0; ; i++ {
		if i == len(p.elems) {
			return false
		}
		if p.elems[i].any {
			return true
		}
		elem, rest, more := strings.Cut(dir, "/")
		if !matchTokens(p.elems[i].glob, elem) {
			return false
		}
		if !more {
			return i+1 < len(p.elems)
		}
		dir = rest
	}
}

// token is a part of a glob.
type token struct {
	op  op
	lit string
}

type op byte

const (
	opLit  op = iota
	opAny     // ? : one character, not a slash
	opStar    // * : any number of them
	opDirs    // ** or **/ inside: nothing, or anything that ends with a slash
	opRest    // ** at the end: anything
)

func tokens(text string) []token {
	var list []token
	for text != "" {
		switch {
		case strings.HasPrefix(text, "**"):
			text = strings.TrimPrefix(text[2:], "/")
			if text == "" {
				return append(list, token{op: opRest})
			}
			list = append(list, token{op: opDirs})
		case text[0] == '*':
			list, text = append(list, token{op: opStar}), text[1:]
		case text[0] == '?':
			list, text = append(list, token{op: opAny}), text[1:]
		default:
			n := strings.IndexAny(text, "*?")
			if n < 0 {
				n = len(text)
			}
			list, text = append(list, token{op: opLit, lit: text[:n]}), text[n:]
		}
	}
	return list
}

func matchTokens(list []token, s string) bool {
	for i, t := range list {
		switch t.op {
		case opLit:
			if !strings.HasPrefix(s, t.lit) {
				return false
			}
			s = s[len(t.lit):]
		case opAny:
			n := runeLen(s)
			if n == 0 {
				return false
			}
			s = s[n:]
		case opStar:
			return matchStar(list[i+1:], s)
		case opDirs:
			return matchDirs(list[i+1:], s)
		case opRest:
			return true
		}
	}
	return s == ""
}

// runeLen is the length of the first character of s; 0 when s is empty or
// begins with a slash.
func runeLen(s string) int {
	if s == "" || s[0] == '/' {
		return 0
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}

func matchStar(rest []token, s string) bool {
	if len(rest) == 0 {
		return strings.IndexByte(s, '/') < 0
	}
	for {
		if matchTokens(rest, s) {
			return true
		}
		n := runeLen(s)
		if n == 0 {
			return false
		}
		s = s[n:]
	}
}

func matchDirs(rest []token, s string) bool {
	for {
		if matchTokens(rest, s) {
			return true
		}
		n := strings.IndexByte(s, '/')
		if n < 0 {
			return false
		}
		s = s[n+1:]
	}
}

// libMatch evaluates a single pattern with patternmatcher, whose own method for
// it is not exported.
type libMatch struct {
	mu sync.Mutex // patternmatcher compiles lazily
	// m is "everything, except the pattern", and none the state in which
	// neither has matched yet.
	m    *patternmatcher.PatternMatcher
	none patternmatcher.MatchInfo
}

func newLibMatch(text string) (*libMatch, error) {
	m, err := patternmatcher.New([]string{"**", "!" + text})
	if err != nil {
		return nil, err
	}
	// Exceptions aren't looked at as long as nothing matched, so this state
	// says that neither of two patterns matched.
	never, err := patternmatcher.New([]string{"!a", "!a"})
	if err != nil {
		return nil, err
	}
	_, none, err := never.MatchesUsingParentResults("b", patternmatcher.MatchInfo{})
	if err != nil {
		return nil, err
	}
	_, _, err = m.MatchesUsingParentResults("b", none) // compiles
	return &libMatch{m: m, none: none}, err
}

func (l *libMatch) match(path string) bool {
	if l.m == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	rest, _, err := l.m.MatchesUsingParentResults(path, l.none)
	return err == nil && !rest
}
