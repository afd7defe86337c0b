package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxReferrers bounds an answer with referrers, in bytes: clients read as much
// of a manifest. More come on further pages.
const maxReferrers = 4 << 20

// maxPage is how many names an answer has when the client does not say.
const maxPage = 10_000

// tags answers with the tags of a repository. One without tags is not known.
func (r *Registry) tags(w http.ResponseWriter, req *http.Request, rt route) error {
	v, err := r.current()
	if err != nil {
		return err
	}
	tags, ok := v.tags[rt.repo]
	if !ok {
		return problemf(http.StatusNotFound, codeNameUnknown, "nothing in the layout is in this repository")
	}
	page, err := paginate(w, req, "/v2/"+rt.repo+"/tags/list", sortedKeys(tags))
	if err != nil {
		return err
	}
	return sendValue(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{rt.repo, page})
}

// catalog answers with the repositories that have tags. It is not in the
// specification; distribution has it, and so do clients.
func (r *Registry) catalog(w http.ResponseWriter, req *http.Request) error {
	v, err := r.current()
	if err != nil {
		return err
	}
	page, err := paginate(w, req, "/v2/_catalog", v.listed)
	if err != nil {
		return err
	}
	return sendValue(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{page})
}

// paginate cuts the page out of a sorted list that the parameters n and last
// ask for, and links to the next.
func paginate(w http.ResponseWriter, req *http.Request, path string, list []string) ([]string, error) {
	query := req.URL.Query()
	n := maxPage
	if s := query.Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 {
			return nil, problemf(http.StatusBadRequest, codeUnsupported, "the parameter n is not a number of entries")
		}
		n = min(n, v)
	}
	if last := query.Get("last"); last != "" {
		list = list[sort.Search(len(list), func(i int) bool { return list[i] > last }):]
	}
	if len(list) > n {
		list = list[:n]
		if n > 0 {
			link(w, path, url.Values{"n": {strconv.Itoa(n)}, "last": {list[n-1]}})
		}
	}
	return append([]string{}, list...), nil
}

// link names the next page (RFC 5988).
func link(w http.ResponseWriter, path string, query url.Values) {
	w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", path, query.Encode()))
}

// referrers answers with the manifests whose subject is a digest, whether that
// is there or not.
func (r *Registry) referrers(w http.ResponseWriter, req *http.Request, rt route) error {
	query := req.URL.Query()
	v, err := r.current()
	if err != nil {
		return err
	}
	list := slices.Clone(r.links.to(rt.digest, v, r.dir))
	want := query.Get("artifactType")
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
		list = slices.DeleteFunc(list, func(l referrer) bool { return l.artifactType != want })
	}
	if last := query.Get("last"); last != "" {
		list = slices.DeleteFunc(list, func(l referrer) bool { return l.desc.Digest.String() <= last })
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	size := 0
	for i, l := range list {
		desc, err := l.describe(r.dir)
		if err != nil {
			continue // it has just been removed
		}
		b, err := json.Marshal(desc)
		if err != nil {
			return err
		}
		if size += len(b) + 1; size > maxReferrers && len(index.Manifests) > 0 {
			next := url.Values{"last": {list[i-1].desc.Digest.String()}}
			if want != "" {
				next.Set("artifactType", want)
			}
			link(w, "/v2/"+rt.repo+"/referrers/"+rt.digest.String(), next)
			break
		}
		index.Manifests = append(index.Manifests, desc)
	}
	return sendValue(w, ocispec.MediaTypeImageIndex, index)
}

// sendValue sends a value as JSON.
func sendValue(w http.ResponseWriter, mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sendJSON(w, http.StatusOK, mediaType, b)
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
