package registry

import (
	"net/http"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

var (
	abc    = digest.FromString("abc").String()
	abc512 = digest.SHA512.FromString("abc").String()
	someID = strings.Repeat("0a", 16)
)

// Paths are parsed from their end, because a repository may be called like a
// part of the protocol; what does not satisfy the grammar goes no further.
func TestParseRoute(t *testing.T) {
	for path, want := range map[string]route{
		"/v2":                            {kind: kindPing},
		"/v2/":                           {kind: kindPing},
		"/v2/_catalog":                   {kind: kindCatalog},
		"/v2/a/tags/list":                {kind: kindTags, repo: "a"},
		"/v2/a/b-c/d_e/f__g/tags/list":   {kind: kindTags, repo: "a/b-c/d_e/f__g"},
		"/v2/tags/list/tags/list":        {kind: kindTags, repo: "tags/list"},
		"/v2/a/manifests/v1.0_x-Y":       {kind: kindManifest, repo: "a", tag: "v1.0_x-Y"},
		"/v2/a/manifests/" + abc:         {kind: kindManifest, repo: "a", digest: digest.Digest(abc)},
		"/v2/blobs/uploads/manifests/v1": {kind: kindManifest, repo: "blobs/uploads", tag: "v1"},
		"/v2/a/manifests/blobs/" + abc:   {kind: kindBlob, repo: "a/manifests", digest: digest.Digest(abc)},
		"/v2/a/blobs/" + abc512:          {kind: kindBlob, repo: "a", digest: digest.Digest(abc512)},
		"/v2/a/blobs/uploads":            {kind: kindUploads, repo: "a"},
		"/v2/a/blobs/uploads/":           {kind: kindUploads, repo: "a"},
		"/v2/a/blobs/uploads/" + someID:  {kind: kindUpload, repo: "a", upload: someID},
		"/v2/a/referrers/" + abc:         {kind: kindReferrers, repo: "a", digest: digest.Digest(abc)},
	} {
		if got, p := parseRoute(path); p != nil || got != want {
			t.Errorf("parseRoute(%q) = %+v, %v, want %+v", path, got, p, want)
		}
	}
	for path, want := range map[string]string{
		"":                     "404 UNSUPPORTED",
		"/":                    "404 UNSUPPORTED",
		"/v1/":                 "404 UNSUPPORTED",
		"/v2x/a/tags/list":     "404 UNSUPPORTED",
		"/v2/a":                "404 UNSUPPORTED",
		"/v2/a/tags":           "404 UNSUPPORTED",
		"/v2/a/tags/list/":     "404 UNSUPPORTED",
		"/v2/tags/list":        "400 NAME_INVALID",
		"/v2//tags/list":       "400 NAME_INVALID",
		"/v2/A/tags/list":      "400 NAME_INVALID",
		"/v2/a/../b/tags/list": "400 NAME_INVALID",
		"/v2/a//b/tags/list":   "400 NAME_INVALID",
		"/v2/a..b/tags/list":   "400 NAME_INVALID",
		"/v2/a/\x00/tags/list": "400 NAME_INVALID",
		"/v2/a\n/tags/list":    "400 NAME_INVALID",
		"/v2/-a/tags/list":     "400 NAME_INVALID",
		"/v2/" + strings.Repeat("a", 256) + "/tags/list": "400 NAME_INVALID",
		"/v2/a/manifests/.v1":                            "400 MANIFEST_INVALID",
		"/v2/a/manifests/":                               "400 MANIFEST_INVALID",
		"/v2/a/manifests/" + strings.Repeat("a", 129):    "400 MANIFEST_INVALID",
		"/v2/a/manifests/sha256:abc":                     "400 DIGEST_INVALID",
		"/v2/a/manifests/v1\nX: y":                       "400 DIGEST_INVALID",
		"/v2/a/blobs/" + strings.ToUpper(abc):            "400 DIGEST_INVALID",
		"/v2/a/blobs/sha256:../../../etc/passwd":         "404 UNSUPPORTED",
		"/v2/a/blobs/md5:" + strings.Repeat("0", 32):     "400 DIGEST_INVALID",
		"/v2/a/blobs/sha384:" + strings.Repeat("0", 96):  "400 DIGEST_INVALID",
		"/v2/a/blobs/":                                   "400 DIGEST_INVALID",
		"/v2/a/blobs/uploads/..":                         "404 BLOB_UPLOAD_UNKNOWN",
		"/v2/a/blobs/uploads/x":                          "404 BLOB_UPLOAD_UNKNOWN",
		"/v2/a/referrers/v1":                             "400 DIGEST_INVALID",
	} {
		got, p := parseRoute(path)
		if p == nil || !strings.HasPrefix(p.Error(), want) {
			t.Errorf("parseRoute(%q) = %+v, %v, want %s", path, got, p, want)
		}
	}
}

// A method that an endpoint does not have is refused, and the answer says which
// it has.
func TestMethods(t *testing.T) {
	rw, ro := client{t, newRegistry(t, Options{})}, client{t, newRegistry(t, Options{ReadOnly: true})}
	for _, tt := range []struct {
		c            client
		method, path string
		allow        string
	}{
		{rw, "POST", "/v2/", "GET, HEAD"},
		{rw, "PATCH", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"},
		{rw, "PUT", "/v2/a/blobs/" + abc, "GET, HEAD, DELETE"},
		{rw, "GET", "/v2/a/blobs/uploads/", "POST"},
		{rw, "DELETE", "/v2/a/referrers/" + abc, "GET, HEAD"},
		{ro, "POST", "/v2/a/blobs/uploads/", ""},
		{ro, "PUT", "/v2/a/manifests/v1", "GET, HEAD"},
		{ro, "DELETE", "/v2/a/manifests/v1", "GET, HEAD"},
		{ro, "DELETE", "/v2/a/blobs/" + abc, "GET, HEAD"},
		{ro, "PATCH", "/v2/a/blobs/uploads/" + someID, "GET"},
	} {
		rec := tt.c.want(http.StatusMethodNotAllowed, tt.method, tt.path, "")
		if got := rec.Header().Get("Allow"); got != tt.allow || code(rec) != codeUnsupported {
			t.Errorf("%s %s: Allow %q, want %q; %s", tt.method, tt.path, got, tt.allow, code(rec))
		}
	}
}

// Whatever a path is, what is taken from it satisfies the grammar and makes the
// same path again.
func FuzzRoute(f *testing.F) {
	for _, seed := range []string{
		"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/manifests/v1", "/v2/a/manifests/" + abc,
		"/v2/a/blobs/" + abc512, "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/" + someID, "/v2/a/referrers/" + abc,
		"/v2/a/../b/blobs/sha256:..", "/v2//", "/v2/blobs/uploads/x/blobs/uploads/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, p := parseRoute(path)
		if p != nil {
			if p.status < 400 || p.status > 499 || p.code == "" || p.message == "" {
				t.Errorf("problem %+v", p)
			}
			return
		}
		if r.kind == kindPing || r.kind == kindCatalog {
			return
		}
		if !nameGrammar().MatchString(r.repo) || len(r.repo) > maxName || strings.Contains(r.repo, "..") || strings.HasPrefix(r.repo, "/") {
			t.Errorf("repository %q", r.repo)
		}
		if r.tag != "" && strings.ContainsAny(r.tag, "/:\n ") || r.digest != "" && r.digest.Validate() != nil {
			t.Errorf("route %+v", r)
		}
		again := "/v2/" + r.repo + map[kind]string{
			kindTags: "/tags/list", kindReferrers: "/referrers/", kindManifest: "/manifests/",
			kindBlob: "/blobs/", kindUploads: "/blobs/uploads", kindUpload: "/blobs/uploads/",
		}[r.kind] + r.tag + r.digest.String() + r.upload
		if again != path && again+"/" != path {
			t.Errorf("%q is %q", path, again)
		}
	})
}

// A chunk's position has one spelling, and cannot be one that arithmetic on
// offsets overflows.
func TestParseChunk(t *testing.T) {
	for s, want := range map[string]chunk{
		"0-0": {0, 0}, "5-9": {5, 9}, "007-0010": {7, 10}, "4611686018427387903-4611686018427387903": {1<<62 - 1, 1<<62 - 1},
	} {
		if got, p := parseChunk(s); p != nil || got != want {
			t.Errorf("parseChunk(%q) = %v, %v", s, got, p)
		}
	}
	for _, s := range []string{
		"", "-", "0-", "-5", "5-4", "0--1", "+0-1", "0-+1", " 0-1", "0-1 ", "0-1/2", "bytes 0-1/2", "bytes=0-1",
		"0x0-1", "0-9223372036854775807", "99999999999999999999-99999999999999999999", "٠-١", "0-1-2",
	} {
		if got, p := parseChunk(s); p == nil {
			t.Errorf("parseChunk(%q) = %v", s, got)
		}
	}
}

func FuzzChunk(f *testing.F) {
	for _, seed := range []string{"0-0", "0-1023", "1024-2047", "5-4", "-1-2", "0-18446744073709551616"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, p := parseChunk(s)
		if p == nil && (c.first < 0 || c.last < c.first || c.last-c.first+1 <= 0) {
			t.Errorf("parseChunk(%q) = %v", s, c)
		}
	})
}
