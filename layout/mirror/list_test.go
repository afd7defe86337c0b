package mirror

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const example = `destination: registry.example/mirror
images:
  - source: docker.io/library/alpine
    tags: ["3.*", "!*-rc*"]
    semver: ">=3.18"
    platforms: [linux/amd64, linux/arm64]
    referrers: true
  - source: quay.io/org/tool:v1
    destination: registry.example/tools/tool
`

var ignoreLines = cmpopts.IgnoreUnexported(Image{})

// Both formats say what is mirrored.
func TestParse(t *testing.T) {
	got, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := &List{Destination: "registry.example/mirror", Images: []Image{
		{Source: "docker.io/library/alpine", Tags: []string{"3.*", "!*-rc*"}, Semver: ">=3.18", Platforms: []string{"linux/amd64", "linux/arm64"}, Referrers: true},
		{Source: "quay.io/org/tool:v1", Destination: "registry.example/tools/tool"},
	}}
	if diff := cmp.Diff(want, got, ignoreLines); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}

	got, err = Parse([]byte(`
quay.io:
  tls-verify: true
  images:
    org/b: []
    org/a: ["1.0", "sha256:0000000000000000000000000000000000000000000000000000000000000000"]
  images-by-tag-regex:
    org/c: ^1\.13
  images-by-semver:
    org/d: 3.12 - 3.13
`))
	if err != nil {
		t.Fatal(err)
	}
	want = &List{Images: []Image{
		{Source: "quay.io/org/a", Tags: []string{"1.0"}, Digests: []string{"sha256:" + strings.Repeat("0", 64)}},
		{Source: "quay.io/org/b", Tags: []string{"*"}},
		{Source: "quay.io/org/c", Regex: `.*(?:^1\.13).*`},
		{Source: "quay.io/org/d", Semver: "3.12 - 3.13"},
	}}
	if diff := cmp.Diff(want, got, ignoreLines); diff != "" {
		t.Errorf("Parse of skopeo's (-want +got):\n%s", diff)
	}
}

// A mistake is refused with its line, and nothing is ignored.
func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "names no images",
		"images: []":                     "names no images",
		"a: [":                           "line 1",
		"images: 3":                      "line 1: cannot unmarshal !!int",
		"images:\n- x":                   "line 2: cannot unmarshal",
		"images:\n- {}":                  `line 2: image ""`,
		"images:\n- source: a\n  tag: x": "line 3: field tag is not known here",
		"images:\n- source: a":           "names no tags",
		"images:\n- source: b\n  tags: [x]\n- source: a\n":     `line 4: image "a"`,
		"images:\n- source: a:1\n  tags: [x]":                  "names 1 already",
		"images:\n- source: a\n  tags: ['[']":                  "tag pattern",
		"images:\n- source: a\n  tags: ['!']":                  "tag pattern",
		"images:\n- source: a\n  regex: '('":                   "regex",
		"images:\n- source: a\n  semver: '=>=1'":               "semver",
		"images:\n- source: a\n  digests: [sha256:x]":          "digest",
		"images:\n- source: a\n  tags: [x]\n  platforms: [!]":  "line",
		"images:\n- source: dir:a\n  tags: [x]":                "want a repository",
		"destination: dir:x\nimages:\n- source: a:1":           "want a registry or oci:DIR",
		"destination: r.example/x:1\nimages:\n- source: a:1":   "has a tag",
		"images:\n- source: a:1\n  source: b:1":                "already defined",
		"images: []\n---\nimages: []":                          "more than one document",
		"quay.io: {images: {a: [x]}, credentials: {u: x}}":     "log in with",
		"quay.io: {images: {a: [x]}, tls-verify: false}":       "--insecure-registry",
		"quay.io: {images: {a: [x]}, cert-dir: /x}":            "certs.d",
		"quay.io: {images: {a: [x]}, image: {}}":               "field image is not known",
		"destination: a\nscoped: maybe\nimages: [{source: a}]": "line 2: cannot unmarshal",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "mirror.") {
			t.Errorf("Parse(%q) = %v, which names a Go type", text, err)
		}
	}
}

// Tags are picked by patterns, expressions and versions together.
func TestSelector(t *testing.T) {
	signature := "sha256-" + strings.Repeat("0", 64) + ".sig"
	tags := append(strings.Fields("3.17 3.18 3.18.1 3.19-rc1 3.19 4.0 edge latest v3.20"), signature)
	for _, tt := range []struct {
		image Image
		want  string
	}{
		{Image{Tags: []string{"*"}}, "3.17 3.18 3.18.1 3.19-rc1 3.19 4.0 edge latest v3.20"},
		{Image{Tags: []string{"3.*", "!*-rc*"}}, "3.17 3.18 3.18.1 3.19"},
		{Image{Tags: []string{"!*.*"}}, "edge latest"},
		{Image{Tags: []string{"3.1[89]"}}, "3.18 3.19"},
		{Image{Regex: `3\.\d+`}, "3.17 3.18 3.19"},
		{Image{Semver: ">=3.18 <4"}, "3.18 3.18.1 3.19 v3.20"},
		{Image{Semver: ">=3.18", Tags: []string{"3.*", "!*.*.*"}}, "3.18 3.19"},
		{Image{Tags: []string{"edge"}}, ""}, // is not listed
		{Image{Tags: []string{"sha256-*"}}, signature},
	} {
		s, err := tt.image.selector()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tag := range tags {
			if s.match(tag) {
				got = append(got, tag)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%+v picks %q, want %q", tt.image, got, tt.want)
		}
	}
}

// Where an image goes depends on its name and the list alone.
func TestTarget(t *testing.T) {
	hex := "sha256:" + strings.Repeat("0", 64)
	for _, tt := range []struct {
		list               List
		image              Image
		ref, place, refErr string
	}{
		{List{Destination: "r.example/m"}, Image{Source: "alpine"}, "3", "docker://r.example/m/library/alpine:3", ""},
		{List{Destination: "r.example"}, Image{Source: "quay.io/a/b"}, hex, "docker://r.example/a/b", ""},
		{List{Destination: "r.example/m", Scoped: true}, Image{Source: "localhost:5000/a"}, "1", "docker://r.example/m/localhost-5000/a:1", ""},
		{List{Destination: "r.example/m"}, Image{Source: "quay.io/a/b", Destination: "docker://x.example/c"}, "1", "docker://x.example/c:1", ""},
		{List{Destination: "oci:out"}, Image{Source: "alpine"}, "3", "oci:out:docker.io/library/alpine:3", ""},
		{List{Destination: "oci:out"}, Image{Source: "alpine"}, hex, "oci:out", ""},
		{List{Destination: "r.example/m"}, Image{Source: "oci:dir"}, "docker.io/library/alpine:3", "docker://r.example/m/library/alpine:3", ""},
		{List{Destination: "r.example/m"}, Image{Source: "oci:dir"}, "v1", "", "no full name"},
		{List{Destination: "r.example/m"}, Image{Source: "oci:dir", Destination: "r.example/x"}, "v1", "docker://r.example/x:v1", ""},
		{List{}, Image{Source: "alpine"}, "v1", "", "no destination"},
	} {
		s, err := parseSource(tt.image.Source)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tt.list.targetOf(tt.image, s, tt.ref)
		if tt.refErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.refErr) {
				t.Errorf("%+v %s: %v, want %q", tt.image, tt.ref, err, tt.refErr)
			}
			continue
		}
		if err != nil || got.place != tt.place {
			t.Errorf("%+v %s goes to %q, %v; want %q", tt.image, tt.ref, got.place, err, tt.place)
		}
	}
}

// No text makes the parser panic, and a list that it takes can be planned.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("quay.io: {images: {a: [x]}, images-by-semver: {b: '>1'}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		l.Destination = "r.example/m"
		for _, i := range l.Images {
			s, err := parseSource(i.Source)
			if err != nil {
				t.Errorf("source %q: %v", i.Source, err)
			}
			_, _ = l.targetOf(i, s, "v1")
			if _, err := i.selector(); err != nil {
				t.Errorf("%+v: %v", i, err)
			}
		}
	})
}
