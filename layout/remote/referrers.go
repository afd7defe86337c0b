package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
)

// maxReferrers bounds the manifests that refer to one subject.
const maxReferrers = 10_000

// Referrers returns the manifests whose subject is the given one, by the
// registry's API or, where it has none, from the index under the fallback tag
// (distribution-spec, "Listing Referrers"). Their artifactType and annotations
// are those of the manifests: where a registry leaves them out, the manifests
// are read, and what does not exist or has another subject is left out.
func (r *Repository) Referrers(ctx context.Context, subject digest.Digest) (list []ocispec.Descriptor, err error) {
	op := "list referrers of " + printable(subject.String(), 200) + " in"
	if err := subject.Validate(); err != nil {
		return nil, fail(op, r.name, nil, err)
	}
	e, err := r.origin()
	if err == nil {
		list, err = e.referrers(ctx, subject)
	}
	if err == nil {
		list, err = r.complete(ctx, subject, list)
	}
	return list, fail(op, r.name, e, err)
}

// referrers returns what the registry says.
func (e *endpoint) referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	c := call{method: http.MethodGet, path: "referrers/" + subject.String(), header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}, ok: ok200}
	err := e.pages(ctx, c, func(b []byte) error {
		index, err := layout.ParseIndex("", b)
		if err != nil {
			return err
		}
		for _, desc := range index.Manifests {
			if !seen[desc.Digest] && isDocument(desc) {
				seen[desc.Digest] = true
				list = append(list, desc)
			}
		}
		if len(list) > maxReferrers {
			return fmt.Errorf("more than %d referrers", maxReferrers)
		}
		return nil
	})
	switch status(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		list, err = e.fallbackIndex(ctx, subject)
	}
	return list, err
}

// fallbackTag is where referrers are listed without the API.
func fallbackTag(subject digest.Digest) string {
	tag := subject.Algorithm().String() + "-" + subject.Encoded()
	return tag[:min(len(tag), 128)]
}

// fallbackIndex returns what the fallback tag leads to, if it is there.
func (e *endpoint) fallbackIndex(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	desc, b, err := e.manifest(ctx, fallbackTag(subject), "")
	if status(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !layout.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("the tag %s leads to no index", fallbackTag(subject))
	}
	index, err := layout.ParseIndex(desc.MediaType, b)
	if len(index.Manifests) > maxReferrers {
		return nil, fmt.Errorf("more than %d referrers", maxReferrers)
	}
	return index.Manifests, err
}

// complete fills in what the registry left out.
func (r *Repository) complete(ctx context.Context, subject digest.Digest, list []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.client.concurrency())
	drop := make([]bool, len(list))
	for i := range list {
		if trusted(list[i]) {
			continue
		}
		g.Go(func() (err error) {
			drop[i], err = r.completeOne(gctx, subject, &list[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	kept := list[:0]
	for i := range list {
		if !drop[i] {
			kept = append(kept, list[i])
		}
	}
	return kept, nil
}

// trusted says whether a registry's descriptor of a referrer is taken as it is.
// Some report the config's media type as artifactType, or no annotations.
func trusted(desc ocispec.Descriptor) bool {
	return desc.ArtifactType != "" && desc.Annotations != nil &&
		desc.ArtifactType != ocispec.MediaTypeImageConfig && desc.ArtifactType != ocispec.MediaTypeEmptyJSON
}

func (r *Repository) completeOne(ctx context.Context, subject digest.Digest, desc *ocispec.Descriptor) (drop bool, err error) {
	b, _, err := r.fetch(ctx, *desc)
	if status(err) == http.StatusNotFound {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	rel, err := parseRelation(b)
	if err != nil {
		return false, err
	}
	desc.ArtifactType, desc.Annotations = rel.ArtifactType, rel.Annotations
	return rel.Subject == nil || rel.Subject.Digest != subject, nil
}

// addReferrer makes a document one of its subject's referrers in the fallback
// index.
func (r *Repository) addReferrer(ctx context.Context, e *endpoint, subject digest.Digest, desc ocispec.Descriptor, b []byte) error {
	rel, err := parseRelation(b)
	if err != nil {
		return err
	}
	entry := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		ArtifactType: rel.ArtifactType, Annotations: rel.Annotations}
	err = r.rewriteReferrers(ctx, e, subject, func(list []ocispec.Descriptor) []ocispec.Descriptor {
		if indexOf(list, desc.Digest) >= 0 {
			return list
		}
		return append(list, entry)
	}, func(list []ocispec.Descriptor) bool { return indexOf(list, desc.Digest) >= 0 })
	if err != nil {
		return fmt.Errorf("list it in %s: %w", fallbackTag(subject), err)
	}
	return nil
}

// forgetReferrer takes a deleted document out of the fallback index, if there is
// one.
func (r *Repository) forgetReferrer(ctx context.Context, e *endpoint, subject, dg digest.Digest) error {
	err := r.rewriteReferrers(ctx, e, subject, func(list []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool { return d.Digest == dg })
	}, func(list []ocispec.Descriptor) bool { return indexOf(list, dg) < 0 })
	if err != nil {
		return fmt.Errorf("take it out of %s: %w", fallbackTag(subject), err)
	}
	return nil
}

func indexOf(list []ocispec.Descriptor, dg digest.Digest) int {
	return slices.IndexFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == dg })
}

// rewriteReferrers changes the fallback index of a subject. Registries have no
// compare-and-swap: the index is read again after it was written, and written
// again when another writer has replaced it meanwhile. Two that write between
// each other's reading and writing, and look before the other has written, can
// still lose an entry; nothing in the protocol prevents that.
func (r *Repository) rewriteReferrers(ctx context.Context, e *endpoint, subject digest.Digest,
	change func([]ocispec.Descriptor) []ocispec.Descriptor, done func([]ocispec.Descriptor) bool) error {
	r.subjects.Lock()
	defer r.subjects.Unlock()
	for try := 1; ; try++ {
		list, err := e.fallbackIndex(ctx, subject)
		if err != nil || done(list) {
			return err
		}
		if err := e.putReferrers(ctx, subject, change(list)); err != nil {
			return err
		}
		if list, err = e.fallbackIndex(ctx, subject); err != nil || done(list) {
			return err
		}
		if try >= 2*r.client.attempts() {
			return errLost
		}
		r.client.again("update of "+fallbackTag(subject)+" in "+r.name, errLost, try, backoff(try))
		if err := r.client.sleep(ctx, backoff(try)); err != nil {
			return err
		}
	}
}

func (e *endpoint) putReferrers(ctx context.Context, subject digest.Digest, list []ocispec.Descriptor) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{}, list...)}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	_, err = e.putDocument(ctx, desc, b, fallbackTag(subject))
	return err
}

const (
	maxPages = 1000
	// maxPage bounds one page of a list, in bytes; registries that have no pages
	// send all in one.
	maxPage = 32 << 20
)

// pages calls each with the pages of a list, which follow one another by the
// header Link (RFC 8288).
func (e *endpoint) pages(ctx context.Context, c call, each func([]byte) error) error {
	seen := map[string]bool{}
	for range maxPages {
		b, h, err := e.get(ctx, c, maxPage)
		if err != nil {
			return err
		}
		if err := each(b); err != nil {
			return err
		}
		next, err := e.nextPage(c, h)
		if err != nil || next == nil {
			return err
		}
		if seen[next.String()] {
			return fmt.Errorf("the registry's list comes back to the page %s", printable(next.RequestURI(), 200))
		}
		seen[next.String()] = true
		c.url = next
	}
	return fmt.Errorf("the registry's list has more than %d pages", maxPages)
}

// nextPage is where a list goes on; nil: it has ended. Only the registry itself
// can continue its list.
func (e *endpoint) nextPage(c call, h http.Header) (*url.URL, error) {
	link := nextLink(h)
	if link == "" {
		return nil, nil
	}
	u, err := follow(e.url(c), link)
	if err != nil {
		return nil, err
	}
	if !e.host.owns(u) {
		return nil, fmt.Errorf("%w: the registry's list goes on at another host, %s", errRefused, printable(u.Host, 200))
	}
	return u, nil
}

// nextLink returns the target of the link with the relation "next".
func nextLink(h http.Header) string {
	for _, v := range h.Values("Link") {
		for v != "" {
			_, rest, ok := strings.Cut(v, "<")
			if !ok {
				break
			}
			target, params, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			end := strings.IndexByte(params, '<')
			if end < 0 {
				end = len(params)
			}
			if isNext(params[:end]) {
				return target
			}
			v = params[end:]
		}
	}
	return ""
}

func isNext(params string) bool {
	for _, p := range strings.FieldsFunc(params, func(r rune) bool { return r == ';' || r == ',' }) {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(k), "rel") && strings.EqualFold(strings.Trim(strings.TrimSpace(v), `"`), "next") {
			return true
		}
	}
	return false
}
