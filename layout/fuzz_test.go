package layout

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A name that is spelled out stays as it is when it is spelled out again, and an
// entry of that name is found by either.
func FuzzNormalizeName(f *testing.F) {
	for _, s := range []string{"app", "docker.io/app", "index.docker.io/app:v1", "host:5000/a/b@sha256:abc", "localhost/x", "//", "a@b@c", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		full := NormalizeName(name)
		if again := NormalizeName(full); again != full {
			t.Errorf("%q is %q, and that is %q", name, full, again)
		}
		desc := descriptorOf("x")
		entries := []ocispec.Descriptor{NamedDescriptor(full, desc)}
		for _, ref := range []string{name, full} {
			if ref == "" {
				continue
			}
			if got, err := Find(entries, ref); err != nil || got.Digest != desc.Digest {
				t.Errorf("Find(%q) among %q: %v", ref, full, err)
			}
		}
	})
}

// No index.json makes Resolve or Closure panic or accept a digest that could be
// a path.
func FuzzIndex(f *testing.F) {
	f.Add(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"`+someDigest+`","size":1,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`, "v1")
	f.Add(`{"schemaVersion":2,"manifests":[]}`, "")
	f.Fuzz(func(t *testing.T, content, ref string) {
		index, err := ParseIndex("", []byte(content))
		if err != nil {
			return
		}
		desc, err := Find(index.Manifests, ref)
		if err != nil {
			return
		}
		if desc.Digest.Validate() != nil {
			t.Errorf("digest %q", desc.Digest)
		}
		if dg, ok := RefDigest(ref); ok && dg.Validate() != nil {
			t.Errorf("RefDigest(%q) = %q", ref, dg)
		}
	})
}
