package layout

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	someConfig = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + someDigest + `","size":0}`
)

// Documents that two readers could take for different things are refused, and
// so are those that break the specification where it protects us
// (CVE-2021-41190).
func TestParseRefuses(t *testing.T) {
	index, manifest := ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest
	for name, tt := range map[string]struct{ mediaType, doc, want string }{
		"valid manifest":             {manifest, `{"schemaVersion":2,"mediaType":"` + manifest + `","config":` + someConfig + `,"layers":[]}`, ""},
		"valid manifest, no type":    {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[]}`, ""},
		"valid index":                {index, `{"schemaVersion":2,"manifests":[]}`, ""},
		"unknown fields":             {index, `{"schemaVersion":2,"manifests":[],"future":{"a":[1,2]}}`, ""},
		"annotations of any case":    {index, `{"schemaVersion":2,"manifests":[],"annotations":{"a":"1","A":"2","Digest":"x"}}`, ""},
		"manifest as index":          {index, `{"schemaVersion":2,"mediaType":"` + manifest + `","manifests":[]}`, "ambiguous"},
		"index as manifest":          {manifest, `{"schemaVersion":2,"mediaType":"` + index + `","config":` + someConfig + `,"layers":[]}`, "ambiguous"},
		"both, served as manifest":   {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"manifests":[]}`, "ambiguous"},
		"both, served as index":      {index, `{"schemaVersion":2,"layers":[],"manifests":[]}`, "ambiguous"},
		"docker type in OCI":         {manifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":` + someConfig + `,"layers":[]}`, "ambiguous"},
		"null manifests in manifest": {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"manifests":null}`, "ambiguous"},
		"duplicate name":             {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"layers":[]}`, "there twice"},
		"duplicate in other case":    {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"LAYERS":[]}`, "there twice"},
		"known name in other case":   {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"Layers":[]}`, "differs from a known one by case"},
		"escaped duplicate":          {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":[],"l\u0061yers":[]}`, "there twice"},
		"duplicate in descriptor":    {index, `{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"` + someDigest + `","digest":"` + someDigest + `","size":1}]}`, "there twice"},
		"duplicate annotation":       {index, `{"schemaVersion":2,"manifests":[],"annotations":{"a":"1","a":"2"}}`, "there twice"},
		"data after the end":         {index, `{"schemaVersion":2,"manifests":[]}{}`, "after the end"},
		"invalid UTF-8":              {index, "{\"schemaVersion\":2,\"manifests\":[],\"a\":\"\xff\"}", "UTF-8"},
		"deep":                       {index, `{"schemaVersion":2,"manifests":[],"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "nested deeper"},
		"truncated":                  {index, `{"schemaVersion":2,"manifests":[`, "unexpected EOF"},
		"null":                       {index, `null`, "schemaVersion is 0"},
		"array":                      {index, `[]`, "cannot unmarshal"},
		"schema 1":                   {"", `{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}`, "schema 1"},
		"schema 1 type":              {mediaTypeSchema1Signed, `{"schemaVersion":1}`, "schema 1"},
		"schema 3":                   {index, `{"schemaVersion":3,"manifests":[]}`, "schemaVersion is 3"},
		"digest with a path":         {index, `{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"sha256:../../x","size":1}]}`, "invalid checksum digest"},
		"negative size":              {index, `{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"` + someDigest + `","size":-1}]}`, "size -1"},
		"no media type":              {index, `{"schemaVersion":2,"manifests":[{"digest":"` + someDigest + `","size":1}]}`, "no media type"},
		"no config digest":           {manifest, `{"schemaVersion":2,"config":{"mediaType":"a"},"layers":[]}`, "digest"},
		"no layers":                  {manifest, `{"schemaVersion":2,"config":` + someConfig + `}`, "no layers"},
		"no config":                  {manifest, `{"schemaVersion":2,"layers":[]}`, "no config"},
		"layers are a string":        {manifest, `{"schemaVersion":2,"config":` + someConfig + `,"layers":"x"}`, "cannot unmarshal"},
		"other type":                 {"text/plain", `{"schemaVersion":2}`, "is not that of"},
	} {
		t.Run(name, func(t *testing.T) {
			err := parseEither(tt.mediaType, []byte(tt.doc))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%s: %v", tt.doc, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%s: %v, want %q", tt.doc, err, tt.want)
			}
		})
	}
}

func parseEither(mediaType string, b []byte) (err error) {
	if IsIndex(mediaType) {
		_, err = ParseIndex(mediaType, b)
	} else {
		_, err = ParseManifest(mediaType, b)
	}
	return err
}

// An index with more entries than anybody needs is refused.
func TestParseTooMany(t *testing.T) {
	entry := fmt.Sprintf(`{"mediaType":"a","digest":%q,"size":1}`, someDigest)
	doc := `{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", maxEntries) + entry + `]}`
	if _, err := ParseIndex("", []byte(doc)); err == nil || !strings.Contains(err.Error(), "more than 10000 entries") {
		t.Errorf("ParseIndex: %v", err)
	}
}

// Nothing that a parser accepts is both a manifest and an index, nor has a
// digest that cannot be a file name; and no input makes it panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"` + someDigest + `","size":1,"platform":{"os":"linux","architecture":"arm"}}]}`))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + someConfig + `,"layers":[` + someConfig + `]}`))
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[],"Layers":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, errM := ParseManifest("", b)
		index, errI := ParseIndex("", b)
		if errM == nil && errI == nil {
			t.Fatalf("%q is both", b)
		}
		mt, err := DetectMediaType(b)
		if errM == nil && (err != nil || !IsManifest(mt)) || errI == nil && (err != nil || !IsIndex(mt)) {
			t.Errorf("DetectMediaType(%q) = %q, %v", b, mt, err)
		}
		for _, desc := range append(append(index.Manifests, m.Layers...), m.Config) {
			if (errM == nil || errI == nil) && desc.Digest != "" && desc.Digest.Validate() != nil {
				t.Errorf("%q has digest %q", b, desc.Digest)
			}
		}
		if errM == nil {
			fuzzRoundTrip(t, m, mt)
		}
	})
}

// fuzzRoundTrip writes an accepted manifest and reads it again.
func fuzzRoundTrip(t *testing.T, m ocispec.Manifest, mt string) {
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseManifest(mt, b); err != nil && !strings.Contains(err.Error(), "no layers") {
		t.Errorf("written again, %s: %v", b, err)
	}
}
