package registry

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// A pushed tag is an entry of index.json that other tools of layouts find; what
// is pushed by its digest alone is one without a name until an index has it.
func TestEntries(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, entryNames(t, reg.dir)); diff != "" {
			t.Error(diff)
		}
	}
	a, b := c.image("team/app", "", "a"), c.image("team/app", "", "b")
	check("-", "-")
	index := c.index("team/app", "v1", a, b)
	check("team/app:v1")
	if desc, err := reg.dir.Resolve("v1"); err != nil || desc.Digest != index.Digest || desc.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("Resolve(v1) = %+v, %v", desc, err)
	}
	for _, d := range []ocispec.Descriptor{a, b, index} {
		rec := c.want(http.StatusOK, "GET", "/v2/team/app/manifests/"+d.Digest.String(), "")
		if got := rec.Header().Get("Content-Type"); got != d.MediaType || digest.FromBytes(rec.Body.Bytes()) != d.Digest {
			t.Errorf("%s: %s", d.Digest, got)
		}
	}
	c.image("team/app", "v1", "c") // the tag moves, the index goes on by its digest
	check("team/app:v1")
	c.want(http.StatusOK, "HEAD", "/v2/team/app/manifests/"+index.Digest.String(), "")
	// The same digest under a second tag, and tags beside the digest.
	c.image("team/app", "v2", "c")
	check("team/app:v1", "team/app:v2")
	m, _ := json.Marshal(c.manifest("x", "c"))
	rec := c.want(http.StatusCreated, "PUT", "/v2/x/manifests/"+digest.SHA512.FromBytes(m).String()+"?tag=one&tag=two", string(m), "Content-Type", ocispec.MediaTypeImageManifest)
	if got := rec.Header().Get("OCI-Tag"); got != "one, two" {
		t.Errorf("OCI-Tag: %q", got)
	}
	check("team/app:v1", "team/app:v2", "x:one", "x:two")
	rec = c.want(http.StatusOK, "GET", "/v2/x/manifests/two", "")
	if got := rec.Header().Get("Docker-Content-Digest"); got != digest.SHA512.FromBytes(m).String() {
		t.Errorf("x:two is %s", got)
	}
}

// Referrers are found whether they were pushed by digest or by tag, before their
// subject or after it, in an index or not, and by other programs too; they do
// not get lost when their tag goes away.
func TestReferrers(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	subject := descriptorOf(ocispec.MediaTypeImageManifest, "not there yet")
	list := func(query string) []ocispec.Descriptor {
		t.Helper()
		rec := c.want(http.StatusOK, "GET", "/v2/any/referrers/"+subject.Digest.String()+query, "")
		index, err := layout.ParseIndex(rec.Header().Get("Content-Type"), rec.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return index.Manifests
	}
	check := func(query string, want ...ocispec.Descriptor) {
		t.Helper()
		sorted := sortedDigests(digests(want...))
		if diff := cmp.Diff(sorted, digests(list(query)...)); diff != "" {
			t.Errorf("referrers%s: %s", query, diff)
		}
	}
	check("")
	sig := c.artifact("r", "", "application/sig", subject, "one")
	check("", sig)
	sbom := c.artifact("r", "sbom", "application/sbom", subject, "two")
	inIndex := c.artifact("r", "", "application/sbom", subject, "three")
	c.index("r", "index", inIndex)
	check("", sig, sbom, inIndex)
	check("?artifactType=application/sbom", sbom, inIndex)
	check("?artifactType=application/none")
	if got := list("?artifactType=application/sig")[0]; got.ArtifactType != "application/sig" || got.Annotations["content"] != "one" ||
		got.Size != sig.Size || got.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("descriptor %+v", got)
	}
	c.want(http.StatusAccepted, "DELETE", "/v2/r/manifests/sbom", "")
	check("", sig, sbom, inIndex)
	other := c.artifact("r", "moving", "application/x", subject, "four")
	c.image("r", "moving", "something else")
	check("", sig, sbom, inIndex, other)
	c.want(http.StatusAccepted, "DELETE", "/v2/r/manifests/"+sig.Digest.String(), "")
	check("", sbom, inIndex, other)
	if err := reg.dir.SetRef("", sig); err != nil { // another program, whose blob is missing
		t.Fatal(err)
	}
	check("", sbom, inIndex, other)
}

// Answers with many referrers come in pages that clients can read into memory.
func TestReferrersPages(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	subject := descriptorOf(ocispec.MediaTypeImageManifest, "subject")
	m := c.manifest("r", "x")
	m.Subject = &subject
	want := map[string]bool{}
	for _, letter := range []string{"a", "b", "c", "d", "e"} {
		m.Annotations = map[string]string{"large": strings.Repeat(letter, 1<<20)}
		want[c.put("r", "", ocispec.MediaTypeImageManifest, m).Digest.String()] = true
	}
	path, pages := "/v2/r/referrers/"+subject.Digest.String(), 0
	for path != "" {
		pages++
		rec := c.want(http.StatusOK, "GET", path, "")
		if rec.Body.Len() > maxReferrers+1024 {
			t.Errorf("page of %d bytes", rec.Body.Len())
		}
		for _, d := range decode[ocispec.Index](t, rec).Manifests {
			if !want[d.Digest.String()] {
				t.Errorf("%s is listed twice", d.Digest)
			}
			delete(want, d.Digest.String())
		}
		path = nextPage(rec.Header().Get("Link"))
	}
	if pages != 2 || len(want) > 0 {
		t.Errorf("%d pages, %d not listed", pages, len(want))
	}
}

// A manifest whose parts are not there, or are something else, is refused; its
// subject may be missing.
func TestPutRefuses(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	good := c.manifest("r", "layer")
	image := c.image("r", "", "layer")
	missing := descriptorOf(ocispec.MediaTypeImageLayer, "missing")
	with := func(change func(*ocispec.Manifest)) string {
		m := good
		m.Layers = append([]ocispec.Descriptor{}, good.Layers...)
		change(&m)
		b, _ := json.Marshal(m)
		return string(b)
	}
	indexOf := func(d ocispec.Descriptor) string {
		b, _ := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []ocispec.Descriptor{d}})
		return string(b)
	}
	lying := image
	lying.MediaType = ocispec.MediaTypeImageIndex
	wrongSize := image
	wrongSize.Size++
	manifest, index := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	for name, tt := range map[string]struct {
		mediaType, body string
		status          int
		code            string
	}{
		"missing layer":              {manifest, with(func(m *ocispec.Manifest) { m.Layers[0] = missing }), 400, codeManifestBlobUnknown},
		"missing config":             {manifest, with(func(m *ocispec.Manifest) { m.Config = missing }), 400, codeManifestBlobUnknown},
		"wrong size":                 {manifest, with(func(m *ocispec.Manifest) { m.Layers[0].Size++ }), 400, codeManifestBlobUnknown},
		"missing child":              {index, indexOf(missing), 400, codeManifestBlobUnknown},
		"child's size":               {index, indexOf(wrongSize), 400, codeManifestBlobUnknown},
		"child's type":               {index, indexOf(lying), 400, codeManifestInvalid},
		"a manifest that says index": {index, with(func(*ocispec.Manifest) {}), 400, codeManifestInvalid},
		"digest":                     {manifest, with(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../x" }), 400, codeManifestInvalid},
		"subject":                    {manifest, with(func(m *ocispec.Manifest) { m.Subject = &ocispec.Descriptor{MediaType: "x/y", Digest: "x"} }), 400, codeManifestInvalid},
		"artifact type":              {manifest, with(func(m *ocispec.Manifest) { m.ArtifactType = strings.Repeat("x", 256) }), 400, codeManifestInvalid},
		"not JSON":                   {manifest, "x", 400, codeManifestInvalid},
		"nothing":                    {manifest, "", 400, codeManifestInvalid},
		"two readings":               {manifest, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, 400, codeManifestInvalid},
		"schema 1":                   {"application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`, 400, codeManifestInvalid},
		"media type":                 {"text", with(func(*ocispec.Manifest) {}), 400, codeManifestInvalid},
		"other, not JSON":            {"application/x", "x", 400, codeManifestInvalid},
		"other, its blobs":           {"application/x", `{"blobs":[{"mediaType":"a/b","size":1,"digest":"` + abc + `"}]}`, 400, codeManifestBlobUnknown},
		"other, its type":            {"application/x", `{"mediaType":"application/y"}`, 400, codeManifestInvalid},
		"too large":                  {manifest, strings.Repeat(" ", layout.MaxManifest+1), 413, codeSizeInvalid},
	} {
		rec := c.do("PUT", "/v2/r/manifests/v1", tt.body, "Content-Type", tt.mediaType)
		if rec.Code != tt.status || code(rec) != tt.code {
			t.Errorf("%s: %d %s, want %d %s: %s", name, rec.Code, code(rec), tt.status, tt.code, rec.Body)
		}
	}
	rec := c.do("PUT", "/v2/r/manifests/"+abc, with(func(*ocispec.Manifest) {}), "Content-Type", manifest)
	if rec.Code != 400 || code(rec) != codeDigestInvalid {
		t.Errorf("wrong digest: %d %s", rec.Code, rec.Body)
	}
	if got := entryNames(t, reg.dir); len(got) != 1 {
		t.Errorf("entries %v", got)
	}
}

// What clients push beside OCI images is taken: Docker's types, foreign layers,
// documents without a type of their own, and types that nobody knows.
func TestPutAccepts(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	m := c.manifest("r", "layer")
	m.MediaType = ""
	c.put("r", "bare", ocispec.MediaTypeImageManifest, m)
	m.MediaType = layout.MediaTypeDockerManifest
	m.Config.MediaType = layout.MediaTypeDockerConfig
	m.Layers = append(m.Layers, descriptorOf(layout.MediaTypeDockerForeignGzip, "elsewhere"))
	c.put("r", "docker", layout.MediaTypeDockerManifest, m)
	subject := descriptorOf(ocispec.MediaTypeImageManifest, "subject")
	c.put("r", "artifact", "application/vnd.oci.artifact.manifest.v1+json", map[string]any{
		"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "a/b", "blobs": m.Layers[:1], "subject": subject,
	})
	c.put("r", "other", "application/vnd.Example.thing+json", map[string]any{"hello": "world"})
	for tag, want := range map[string]string{
		"bare": ocispec.MediaTypeImageManifest, "docker": layout.MediaTypeDockerManifest,
		"artifact": "application/vnd.oci.artifact.manifest.v1+json", "other": "application/vnd.Example.thing+json",
	} {
		rec := c.want(http.StatusOK, "GET", "/v2/r/manifests/"+tag, "")
		if got := rec.Header().Get("Content-Type"); got != want {
			t.Errorf("%s is %q, want %q", tag, got, want)
		}
	}
	index := decode[ocispec.Index](t, c.want(http.StatusOK, "GET", "/v2/r/referrers/"+subject.Digest.String(), ""))
	if len(index.Manifests) != 1 || index.Manifests[0].ArtifactType != "a/b" {
		t.Errorf("referrers %+v", index.Manifests)
	}
	// Without a Content-Type, as curl can send it, the document says what it is.
	b, _ := json.Marshal(c.manifest("r", "layer"))
	c.want(http.StatusCreated, "PUT", "/v2/r/manifests/plain", string(b))
}

// Deleting takes effect at once and takes nothing from other repositories.
func TestDelete(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	image := c.image("a", "one", "x")
	c.image("a", "two", "x")
	c.image("b", "one", "x")
	path := "/v2/a/manifests/" + image.Digest.String()
	c.want(http.StatusAccepted, "DELETE", "/v2/a/manifests/one", "")
	c.want(http.StatusNotFound, "DELETE", "/v2/a/manifests/one", "")
	c.want(http.StatusOK, "HEAD", "/v2/a/manifests/two", "")
	c.want(http.StatusAccepted, "DELETE", path, "")
	c.want(http.StatusNotFound, "HEAD", "/v2/a/manifests/two", "")
	c.want(http.StatusOK, "HEAD", "/v2/b/manifests/one", "")
	c.want(http.StatusNotFound, "DELETE", path, "") // b's
	index := c.index("c", "index", image)
	c.want(http.StatusAccepted, "DELETE", "/v2/b/manifests/"+image.Digest.String(), "")
	c.want(http.StatusOK, "HEAD", path, "") // a part of c's index
	c.want(http.StatusAccepted, "DELETE", "/v2/c/manifests/"+index.Digest.String(), "")
	c.want(http.StatusAccepted, "DELETE", path, "")
	c.want(http.StatusNotFound, "GET", path, "")
	if _, err := reg.dir.Stat(image.Digest); err == nil {
		t.Error("the manifest's file is still there")
	}
	// A blob goes, a manifest with an entry is not a blob, a blob is no manifest.
	blob := c.blob("a", "content")
	c.want(http.StatusNotFound, "DELETE", "/v2/a/manifests/"+blob.Digest.String(), "")
	c.want(http.StatusNotFound, "GET", "/v2/a/manifests/"+blob.Digest.String(), "")
	c.want(http.StatusAccepted, "DELETE", "/v2/a/blobs/"+blob.Digest.String(), "")
	c.want(http.StatusNotFound, "DELETE", "/v2/a/blobs/"+blob.Digest.String(), "")
	if _, err := reg.dir.Stat(blob.Digest); err == nil {
		t.Error("the blob's file is still there")
	}
	again := c.image("a", "one", "y")
	if rec := c.want(http.StatusForbidden, "DELETE", "/v2/a/blobs/"+again.Digest.String(), ""); code(rec) != codeDenied {
		t.Error(code(rec))
	}
}

// A damaged manifest is an error, and not served as if it were right; pushing it
// again heals it.
func TestDamagedManifest(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	image := c.image("a", "v1", "x")
	path, err := reg.dir.BlobPath(image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), "2", "3", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	rec := c.want(http.StatusInternalServerError, "GET", "/v2/a/manifests/v1", "")
	if code(rec) != codeUnknown || !strings.Contains(rec.Body.String(), "corrupt") || rec.Header().Get("Docker-Content-Digest") != "" {
		t.Errorf("%v %s", rec.Header(), rec.Body)
	}
	c.image("a", "v1", "x")
	c.want(http.StatusOK, "GET", "/v2/a/manifests/v1", "")
}

// A referrer whose file was damaged is found again once it was pushed again.
func TestHealedReferrer(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	subject := descriptorOf(ocispec.MediaTypeImageManifest, "subject")
	sig := c.artifact("r", "", "application/sig", subject, "one")
	if err := reg.dir.Remove(sig.Digest); err != nil {
		t.Fatal(err)
	}
	settle(t, reg)
	list := func() []ocispec.Descriptor {
		t.Helper()
		return decode[ocispec.Index](t, c.want(http.StatusOK, "GET", "/v2/r/referrers/"+subject.Digest.String(), "")).Manifests
	}
	if got := list(); len(got) != 0 {
		t.Errorf("listed though it is missing: %v", got)
	}
	c.artifact("r", "", "application/sig", subject, "one")
	if got := list(); len(got) != 1 {
		t.Errorf("not listed: %v", got)
	}
}

// A layout that takes no more entries says so, and stays as it is.
func TestFull(t *testing.T) {
	reg := newRegistry(t, Options{})
	c := client{t, reg}
	image := c.image("a", "v1", "x")
	err := reg.dir.Update(func(index *ocispec.Index) error {
		for len(index.Manifests) < 10_000 {
			index.Manifests = append(index.Manifests, layout.NamedDescriptor("a:t"+string(rune('0'+len(index.Manifests)%10)), image))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := json.Marshal(c.manifest("a", "x"))
	rec := c.want(http.StatusInsufficientStorage, "PUT", "/v2/a/manifests/new", string(m), "Content-Type", ocispec.MediaTypeImageManifest)
	if code(rec) != codeDenied {
		t.Error(code(rec))
	}
	c.want(http.StatusOK, "GET", "/v2/a/manifests/v1", "")
}
