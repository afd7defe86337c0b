package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// accept lists the documents that are understood.
var accept = strings.Join([]string{
	ocispec.MediaTypeImageIndex, layout.MediaTypeDockerIndex,
	ocispec.MediaTypeImageManifest, layout.MediaTypeDockerManifest,
}, ", ")

// Resolved is what a reference leads to.
type Resolved struct {
	// Name is the canonical reference: "docker.io/library/app:latest".
	Name string
	// Descriptor is of the index or manifest that the registry has under the
	// reference, Raw its bytes.
	Descriptor ocispec.Descriptor
	Raw        []byte
	// The image for the platform that was asked for, when one was: Manifest is
	// the descriptor of its manifest (equal to Descriptor when that is no
	// index), ManifestRaw the bytes, Config those of the image configuration.
	Manifest    ocispec.Descriptor
	ManifestRaw []byte
	Config      []byte
}

// Resolve asks the registry what ref is now and, when platform is not nil,
// selects the image for it; see [layout.Select]. Digests are verified: that in
// ref, those of what the index names, and that of the registry's header.
func (c *Client) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (Resolved, error) {
	repo, id, err := c.Repository(ref)
	if err != nil {
		return Resolved{}, err
	}
	res := Resolved{Name: layout.NormalizeName(ref)}
	var e *endpoint
	res.Descriptor, res.Raw, e, err = repo.document(ctx, id, "")
	if err == nil && platform != nil {
		err = repo.selectImage(ctx, &res, *platform)
	}
	if err != nil {
		return Resolved{}, fail("resolve", res.Name, e, err)
	}
	return res, nil
}

// Select completes a result of Resolve with the image for another platform. The
// reference is not resolved again, so all platforms are of one index.
func (c *Client) Select(ctx context.Context, res Resolved, platform ocispec.Platform) (Resolved, error) {
	repo, _, err := c.Repository(res.Name)
	if err != nil {
		return Resolved{}, err
	}
	if err := repo.selectImage(ctx, &res, platform); err != nil {
		e, _ := repo.home()
		return Resolved{}, fail("resolve", res.Name, e, err)
	}
	return res, nil
}

// Head is [Repository.Head] of ref.
func (c *Client) Head(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	repo, id, err := c.Repository(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return repo.Head(ctx, id)
}

// selectImage fills in the platform's part of res.
func (r *Repository) selectImage(ctx context.Context, res *Resolved, platform ocispec.Platform) error {
	fetch := func(desc ocispec.Descriptor, max int64) ([]byte, error) {
		switch {
		case desc.Digest == res.Descriptor.Digest:
			return res.Raw, nil
		case isDocument(desc):
			b, _, err := r.fetch(ctx, desc)
			return b, err
		}
		return r.readBlob(ctx, desc, max)
	}
	var err error
	if res.Manifest, err = layout.Select(res.Descriptor, platform, fetch); err != nil {
		return err
	}
	if res.ManifestRaw, err = fetch(res.Manifest, layout.MaxManifest); err != nil {
		return err
	}
	m, err := layout.ParseManifest(res.Manifest.MediaType, res.ManifestRaw)
	if err != nil {
		return err
	}
	res.Config, err = fetch(m.Config, layout.MaxConfig)
	return err
}

// fetch returns the manifest or index that desc names, and where it came from.
func (r *Repository) fetch(ctx context.Context, desc ocispec.Descriptor) ([]byte, *endpoint, error) {
	if kept, ok := r.docs.get(desc.Digest); ok && kept.mediaType == desc.MediaType && int64(len(kept.b)) == desc.Size {
		return kept.b, nil, nil
	}
	got, b, e, err := r.document(ctx, desc.Digest.String(), desc.MediaType)
	if err != nil {
		return nil, e, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if got.Size != desc.Size {
		return nil, e, fmt.Errorf("manifest %s: it has %d bytes, want %d", desc.Digest, got.Size, desc.Size)
	}
	return b, e, nil
}

// document fetches and verifies a document by tag or digest, and keeps it. The
// media type that a descriptor promised, if any, must be that of the document.
func (r *Repository) document(ctx context.Context, id, want string) (desc ocispec.Descriptor, b []byte, e *endpoint, err error) {
	_, parseErr := digest.Parse(id)
	e, err = r.read(ctx, parseErr == nil, func(e *endpoint) error {
		desc, b, err = e.manifest(ctx, id, want)
		return err
	})
	if err == nil {
		r.docs.keep(desc, b)
	}
	return desc, b, e, err
}

// manifest fetches and verifies a document of an endpoint.
func (e *endpoint) manifest(ctx context.Context, id, want string) (ocispec.Descriptor, []byte, error) {
	if err := checkID(id); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	c := call{method: http.MethodGet, path: "manifests/" + id, header: http.Header{"Accept": {accept}}, ok: ok200}
	b, h, err := e.get(ctx, c, layout.MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return describe(h, id, want, b)
}

// get returns the body of an answer of at most max bytes, and its header. A body
// that breaks is asked for again.
func (e *endpoint) get(ctx context.Context, c call, max int64) ([]byte, http.Header, error) {
	client := e.host.client
	for try := 1; ; try++ {
		b, h, err := e.getOnce(ctx, c, max)
		if !errors.Is(err, errBroken) || try >= client.attempts() || ctx.Err() != nil {
			return b, h, err
		}
		client.again("read of "+c.path+" at "+shortHost(e.host.name), err, try, backoff(try))
		if err := client.sleep(ctx, backoff(try)); err != nil {
			return nil, nil, err
		}
	}
}

// errBroken marks a body that ended before its time.
var errBroken = errors.New("the connection broke")

func (e *endpoint) getOnce(ctx context.Context, c call, max int64) ([]byte, http.Header, error) {
	resp, err := e.do(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > max {
		return nil, nil, fmt.Errorf("it has %d bytes, at most %d are read", resp.ContentLength, max)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, max+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	if int64(len(b)) > max {
		return nil, nil, fmt.Errorf("it has more than %d bytes", max)
	}
	return b, resp.Header, nil
}

// describe verifies a document and makes its descriptor.
func describe(h http.Header, id, want string, b []byte) (desc ocispec.Descriptor, _ []byte, err error) {
	desc = ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
	for _, said := range []string{h.Get("Docker-Content-Digest"), id} {
		dg, err := digest.Parse(said)
		if err != nil {
			continue // a tag, or a header that says nothing
		}
		if got := dg.Algorithm().FromBytes(b); got != dg {
			return desc, nil, fmt.Errorf("the registry sent content of digest %s for %s", got, dg)
		}
		desc.Digest = dg
	}
	if desc.MediaType, err = documentType(mediaType(h), want, b); err != nil {
		return desc, nil, err
	}
	if layout.IsIndex(desc.MediaType) {
		_, err = layout.ParseIndex(desc.MediaType, b)
	} else {
		_, err = layout.ParseManifest(desc.MediaType, b)
	}
	return desc, b, err
}

// documentType is the media type of a document: its own field when it has one.
// The descriptor that led to it and the registry's header must agree with it; a
// header that is not about manifests ("application/json") is ignored.
func documentType(header, want string, b []byte) (string, error) {
	if err := layout.CheckSchema(header); err != nil {
		return "", err
	}
	detected, err := layout.DetectMediaType(b)
	if err != nil {
		return "", err
	}
	if !layout.IsIndex(header) && !layout.IsManifest(header) {
		header = ""
	}
	for _, said := range []string{want, header} {
		if said == "" || said == detected {
			continue
		}
		if layout.IsIndex(said) != layout.IsIndex(detected) || hasMediaType(b) {
			return "", fmt.Errorf("the registry announces %q and sends %q", said, detected)
		}
		detected = said
	}
	return detected, nil
}

// hasMediaType says whether a document, which was parsed before, names its own
// type.
func hasMediaType(b []byte) bool {
	var own struct {
		MediaType string `json:"mediaType"`
	}
	return json.Unmarshal(b, &own) == nil && own.MediaType != ""
}

// mediaType is the Content-Type without parameters.
func mediaType(h http.Header) string {
	mt, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mt
}
