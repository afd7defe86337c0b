package remote

import (
	"net/http"
	"strings"
)

// A challenge is what a registry wants to see before it answers (RFC 9110,
// 11.6.1). The zero value: nothing.
type challenge struct {
	scheme string // "basic", "bearer" or empty
	realm  string // of a bearer challenge: where tokens are given out
	params map[string]string
}

// parseChallenges picks the challenge to answer out of WWW-Authenticate: a token
// is shown rather than a password.
func parseChallenges(h http.Header) challenge {
	var found challenge
	for _, v := range h.Values("WWW-Authenticate") {
		for _, ch := range splitChallenges(v) {
			switch {
			case ch.scheme == "bearer" && ch.params["realm"] != "":
				ch.realm = ch.params["realm"]
				return ch
			case ch.scheme == "basic" && found.scheme == "":
				found = ch
			}
		}
	}
	return found
}

// splitChallenges parses a list of challenges: a scheme, then parameters, with
// commas between all of them.
func splitChallenges(s string) []challenge {
	var list []challenge
	for {
		s = strings.TrimLeft(s, " \t,=")
		word, rest := token68(s)
		if word == "" {
			return list
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") || len(list) == 0 {
			list = append(list, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			s = rest
			continue
		}
		value, rest := parseValue(strings.TrimLeft(after[1:], " \t"))
		params := list[len(list)-1].params
		if _, twice := params[strings.ToLower(word)]; !twice {
			params[strings.ToLower(word)] = value
		}
		s = rest
	}
}

// token68 cuts a word off s.
func token68(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:]
}

// parseValue cuts a parameter's value off s: a word or a quoted string.
func parseValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		return token68(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
