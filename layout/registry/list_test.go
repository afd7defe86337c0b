package registry

import (
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
)

func sortedDigests(list []digest.Digest) []digest.Digest { return slices.Sorted(slices.Values(list)) }

var linkHeader = regexp.MustCompile(`^<(/v2/[^>]*)>; rel="next"$`)

// nextPage returns where a Link header leads; nowhere when there is none.
func nextPage(link string) string {
	if m := linkHeader.FindStringSubmatch(link); m != nil {
		return m[1]
	}
	return ""
}

// Tags and repositories are sorted and come in pages of the client's size.
func TestPagination(t *testing.T) {
	c := client{t, newRegistry(t, Options{})}
	want := []string{"1.0", "A", "B", "a", "b", "v1", "v10", "v2"}
	for _, tag := range []string{"v2", "b", "v1", "A", "1.0", "a", "v10", "B"} {
		c.image("r", tag, "x")
		c.image("repo-"+map[bool]string{true: "x", false: "y"}[tag < "b"], "latest", "x")
	}
	for _, n := range []string{"1", "3", "8", "9", "100000"} {
		var got []string
		for path := "/v2/r/tags/list?n=" + n; path != ""; {
			rec := c.want(http.StatusOK, "GET", path, "")
			got = append(got, decode[struct{ Tags []string }](t, rec).Tags...)
			path = nextPage(rec.Header().Get("Link"))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("n=%s: %s", n, diff)
		}
	}
	for query, want := range map[string][]string{
		"":                want,
		"?last=b":         {"v1", "v10", "v2"},
		"?last=az":        {"b", "v1", "v10", "v2"},
		"?last=zzz":       {},
		"?n=0":            {},
		"?n=2&last=v1":    {"v10", "v2"},
		"?last=%0d%0aX:y": want,
	} {
		rec := c.want(http.StatusOK, "GET", "/v2/r/tags/list"+query, "")
		if diff := cmp.Diff(want, decode[struct{ Tags []string }](t, rec).Tags); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
		if link := rec.Header().Get("Link"); link != "" {
			t.Errorf("%s: Link %s", query, link)
		}
	}
	for _, n := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		if rec := c.want(http.StatusBadRequest, "GET", "/v2/r/tags/list?n="+n, ""); code(rec) != codeUnsupported {
			t.Error(rec.Body)
		}
	}
	if rec := c.want(http.StatusNotFound, "GET", "/v2/none/tags/list", ""); code(rec) != codeNameUnknown {
		t.Error(rec.Body)
	}
	rec := c.want(http.StatusOK, "GET", "/v2/_catalog?n=2", "")
	got := decode[struct{ Repositories []string }](t, rec).Repositories
	if diff := cmp.Diff([]string{"r", "repo-x"}, got); diff != "" || nextPage(rec.Header().Get("Link")) != "/v2/_catalog?last=repo-x&n=2" {
		t.Errorf("catalog: %s %s", diff, rec.Header().Get("Link"))
	}
}
