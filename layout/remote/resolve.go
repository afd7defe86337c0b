package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
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
	parsed, full, err := c.reference(ref)
	if err != nil {
		return Resolved{}, err
	}
	s, err := c.session(ctx, parsed.Context())
	var r Resolved
	if err == nil {
		r.Name = full
		r.Descriptor, r.Raw, err = c.manifest(ctx, s, parsed.Identifier(), "")
	}
	if err == nil && platform != nil {
		err = c.selectImage(ctx, s, &r, *platform)
	}
	if err != nil {
		return Resolved{}, fail("resolve", full, parsed.Context().RegistryStr(), s, err)
	}
	return r, nil
}

// Select completes a result of Resolve with the image for another platform. The
// reference is not resolved again, so all platforms are of one index.
func (c *Client) Select(ctx context.Context, r Resolved, platform ocispec.Platform) (Resolved, error) {
	parsed, full, err := c.reference(r.Name)
	if err != nil {
		return Resolved{}, err
	}
	s, err := c.session(ctx, parsed.Context())
	if err == nil {
		err = c.selectImage(ctx, s, &r, platform)
	}
	if err != nil {
		return Resolved{}, fail("resolve", full, parsed.Context().RegistryStr(), s, err)
	}
	return r, nil
}

// Head asks for the descriptor of ref without its content, which registries
// don't count as a pull. The digest is what the registry says: nothing
// verifies it before the content is read.
func (c *Client) Head(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	parsed, full, err := c.reference(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var desc ocispec.Descriptor
	s, err := c.session(ctx, parsed.Context())
	if err == nil {
		desc, err = s.head(ctx, parsed)
	}
	if err != nil {
		return ocispec.Descriptor{}, fail("look up", full, parsed.Context().RegistryStr(), s, err)
	}
	return desc, nil
}

func (s *session) head(ctx context.Context, ref name.Reference) (ocispec.Descriptor, error) {
	resp, err := s.do(ctx, http.MethodHead, "manifests/"+ref.Identifier(), http.Header{"Accept": {accept}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	desc := ocispec.Descriptor{
		MediaType: mediaType(resp.Header),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	if dg, ok := ref.(name.Digest); ok && desc.Digest == "" {
		desc.Digest = digest.Digest(dg.DigestStr())
	}
	return desc, layout.CheckDescriptor(desc)
}

// selectImage fills in the platform's part of r.
func (c *Client) selectImage(ctx context.Context, s *session, r *Resolved, platform ocispec.Platform) error {
	fetch := func(desc ocispec.Descriptor, max int64) ([]byte, error) {
		switch {
		case desc.Digest == r.Descriptor.Digest:
			return r.Raw, nil
		case layout.IsIndex(desc.MediaType) || layout.IsManifest(desc.MediaType):
			return c.document(ctx, s, desc)
		}
		return c.readBlob(ctx, s, desc, max)
	}
	var err error
	if r.Manifest, err = layout.Select(r.Descriptor, platform, fetch); err != nil {
		return err
	}
	if r.ManifestRaw, err = fetch(r.Manifest, layout.MaxManifest); err != nil {
		return err
	}
	m, err := layout.ParseManifest(r.Manifest.MediaType, r.ManifestRaw)
	if err != nil {
		return err
	}
	r.Config, err = fetch(m.Config, layout.MaxConfig)
	return err
}

// document fetches the manifest or index that desc names.
func (c *Client) document(ctx context.Context, s *session, desc ocispec.Descriptor) ([]byte, error) {
	got, b, err := c.manifest(ctx, s, desc.Digest.String(), desc.MediaType)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if got.Size != desc.Size {
		return nil, fmt.Errorf("manifest %s: it has %d bytes, want %d", desc.Digest, got.Size, desc.Size)
	}
	return b, nil
}

// manifest fetches and verifies a document by tag or digest. The media type
// that a descriptor promised, if any, must be that of the document.
func (c *Client) manifest(ctx context.Context, s *session, id, want string) (ocispec.Descriptor, []byte, error) {
	for try := 1; ; try++ {
		desc, b, err := s.manifest(ctx, c, id, want)
		if !errors.Is(err, errBroken) || try >= c.attempts() {
			return desc, b, err
		}
		if err := c.sleep(ctx, backoff(try)); err != nil {
			return desc, nil, err
		}
	}
}

// errBroken marks a body that ended before its time.
var errBroken = errors.New("the connection broke")

func (s *session) manifest(ctx context.Context, c *Client, id, want string) (desc ocispec.Descriptor, b []byte, err error) {
	ctx, watch := newWatch(ctx, c.stallTimeout())
	defer watch.stop()
	resp, err := s.do(ctx, http.MethodGet, "manifests/"+id, http.Header{"Accept": {accept}})
	if err != nil {
		return desc, nil, watch.cause(err)
	}
	defer resp.Body.Close()
	if resp.ContentLength > layout.MaxManifest {
		return desc, nil, fmt.Errorf("it has %d bytes, at most %d are read", resp.ContentLength, layout.MaxManifest)
	}
	b, err = io.ReadAll(io.LimitReader(watch.reader(resp.Body), layout.MaxManifest+1))
	if err != nil {
		return desc, nil, fmt.Errorf("%w: %w", errBroken, watch.cause(err))
	}
	if len(b) > layout.MaxManifest {
		return desc, nil, fmt.Errorf("it has more than %d bytes", layout.MaxManifest)
	}
	return describe(resp.Header, id, want, b)
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

// do sends a request about the session's repository and turns an answer that is
// an error into one. The caller closes the body.
func (s *session) do(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	u := url.URL{Scheme: s.scheme, Host: s.repo.RegistryStr(), Path: "/v2/" + s.repo.RepositoryStr() + "/" + path}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}
