package faults

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lie changes an answer.
func (p *Proxy) lie(resp *http.Response, f *Fault, rng *rand.Rand) {
	h := resp.Header
	switch f.Kind {
	case Flip:
		resp.Body = &flipped{resp.Body, offset(f, rng, resp.ContentLength)}
	case Length:
		relength(resp, f.At)
	case Digest:
		h.Set("Docker-Content-Digest", orElse(f.Value, digest.FromString("a lie").String()))
	case Type:
		h.Set("Content-Type", orElse(f.Value, otherType(h.Get("Content-Type"))))
	case Location:
		if u, err := url.Parse(h.Get("Location")); err == nil && h.Get("Location") != "" {
			u.Scheme, u.Host = "http", p.Foreign
			h.Set("Location", u.String())
		}
	case Link:
		u := *resp.Request.URL
		u.Scheme, u.Host = "http", p.Foreign
		h.Set("Link", "<"+orElse(f.Value, u.String())+`>; rel="next"`)
	case Loop:
		h.Set("Link", "<"+resp.Request.URL.RequestURI()+`>; rel="next"`)
	}
}

// otherType takes a manifest for an index, and the other way round.
func otherType(mediaType string) string {
	if strings.Contains(mediaType, "manifest") && !strings.Contains(mediaType, "list") {
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

// relength makes an answer longer or shorter, and says so.
func relength(resp *http.Response, by int64) {
	if resp.ContentLength < 0 {
		return
	}
	if by == 0 {
		by = 1
	}
	n := max(0, resp.ContentLength+by)
	resp.Header.Set("Content-Length", strconv.FormatInt(n, 10))
	more := bytes.Repeat([]byte{' '}, int(max(0, by)))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(io.MultiReader(resp.Body, bytes.NewReader(more)), n), resp.Body}
	resp.ContentLength = n
}

// flipped is a body with a bit of one byte changed.
type flipped struct {
	io.ReadCloser
	at int64 // bytes before it; below 0: it is over
}

func (f *flipped) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if f.at >= 0 && f.at < int64(n) {
		b[f.at] ^= 0x10
	}
	f.at -= int64(n)
	return n, err
}
