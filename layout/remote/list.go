package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// maxNames bounds the tags of a repository and the repositories of a registry.
const maxNames = 500_000

// Tags returns the repository's tags, sorted (distribution-spec, "Listing
// Tags").
func (r *Repository) Tags(ctx context.Context) (tags []string, err error) {
	e, err := r.origin()
	if err == nil {
		c := call{method: http.MethodGet, path: "tags/list", query: "n=1000", ok: ok200}
		tags, err = e.names(ctx, c, validTag)
	}
	return tags, fail("list tags in", r.name, e, err)
}

// Catalog returns the repositories of a registry that begin with one of the
// prefixes (none: all), sorted. It is not a part of the specification: many
// registries have none, or show none of it.
func (c *Client) Catalog(ctx context.Context, registry string, prefix ...string) (names []string, err error) {
	e, err := c.registry(registry, registry)
	if err == nil {
		get := call{method: http.MethodGet, path: "_catalog", query: "n=1000", ok: ok200, scopes: []string{"registry:catalog:*"}}
		names, err = e.names(ctx, get, validName)
	}
	names = slices.DeleteFunc(names, func(s string) bool {
		return len(prefix) > 0 && !slices.ContainsFunc(prefix, func(p string) bool { return strings.HasPrefix(s, p) })
	})
	return names, fail("list repositories in", registry, e, err)
}

// registry is the way to what a registry has beside its repositories. The
// keychain is asked for key.
func (c *Client) registry(registry, key string) (*endpoint, error) {
	reg, err := name.NewRegistry(registry)
	if err != nil {
		return nil, fmt.Errorf("registry %q is not valid: want HOST[:PORT]: %w", registry, err)
	}
	rule := key
	if !strings.Contains(rule, "/") {
		rule += "/any" // rules are about repositories
	}
	where, err := c.Hosts.Destination(rule)
	if err != nil {
		return nil, err
	}
	return c.way(reg, where.Insecure, "", registryKey{reg, key})
}

// registryKey is what a keychain is asked for.
type registryKey struct {
	name.Registry
	key string
}

func (k registryKey) String() string { return k.key }

var _ authn.Resource = registryKey{}

// names reads a list of names in pages. What cannot be a name is left out.
func (e *endpoint) names(ctx context.Context, c call, valid func(string) bool) ([]string, error) {
	var list []string
	err := e.pages(ctx, c, func(b []byte) error {
		var page struct {
			Tags         []string `json:"tags"`
			Repositories []string `json:"repositories"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return fmt.Errorf("parse the list: %w", err)
		}
		for _, s := range append(page.Tags, page.Repositories...) {
			if valid(s) {
				list = append(list, s)
			}
		}
		if len(list) > maxNames {
			return fmt.Errorf("the list has more than %d names", maxNames)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// validName says whether s can be a repository's name (distribution-spec,
// "Pulling manifests").
func validName(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" || part != strings.Trim(part, "._-") || part == "" {
			return false
		}
	}
	return len(s) <= 255
}
