package remote

import (
	"slices"
	"strings"
)

// maxScopes is how many a token is asked for that a registry wants.
const maxScopes = 32

// actions in the order in which they are written.
var actions = []string{"pull", "push", "delete", "*"}

// scope is what a token allows with a repository ("repository:NAME:pull,push").
func scope(repository string, what ...string) string {
	return "repository:" + repository + ":" + strings.Join(what, ",")
}

// mergeScopes returns the scopes with each resource once, sorted.
func mergeScopes(scopes []string) []string {
	allowed := map[string][]string{}
	for _, s := range scopes {
		if resource, what, ok := cutScope(s); ok {
			allowed[resource] = append(allowed[resource], what...)
		}
	}
	var merged []string
	for resource, what := range allowed {
		slices.SortFunc(what, compareActions)
		merged = append(merged, resource+":"+strings.Join(slices.Compact(what), ","))
	}
	slices.Sort(merged)
	return merged
}

func compareActions(a, b string) int {
	if i, j := slices.Index(actions, a), slices.Index(actions, b); i >= 0 && j >= 0 {
		return i - j
	}
	return strings.Compare(a, b)
}

// cutScope splits a scope into resource and actions.
func cutScope(s string) (resource string, what []string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || i == len(s)-1 {
		return "", nil, false
	}
	return s[:i], strings.Split(s[i+1:], ","), true
}

// covers says whether a token for the first scopes does for the others.
func covers(have, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h string) bool { return scopeCovers(h, w) }) {
			return false
		}
	}
	return true
}

func scopeCovers(have, want string) bool {
	if have == want {
		return true
	}
	resource, what, ok := cutScope(want)
	other, allowed, ok2 := cutScope(have)
	if !ok || !ok2 || resource != other {
		return false
	}
	for _, a := range what {
		if !slices.Contains(allowed, a) {
			return false
		}
	}
	return true
}
