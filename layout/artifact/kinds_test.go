package artifact

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const chartYAML = `apiVersion: v2
name: web
version: 1.2.3+build.7
description: A web server
home: https://example.com
sources: [https://example.com/src, https://example.com/mirror]
maintainers:
  - {name: A, email: a@example.com}
  - {name: B}
appVersion: 4
annotations: {category: servers, org.opencontainers.image.title: other}
dependencies:
  - {name: db, version: ">1", repository: "https://example.com/charts", import-values: [{child: a, parent: b}]}
`

// writeChart packs a chart as "helm package" does.
func writeChart(t *testing.T, dir, yaml string) string {
	t.Helper()
	src := tree{"web/Chart.yaml": yaml, "web/templates/a.yaml": "a: 1", "web/charts/db/Chart.yaml": "name: db\nversion: 9.9.9"}.write(t, t.TempDir())
	name := filepath.Join(dir, "web-1.2.3+build.7.tgz")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := packDirectory(t.Context(), out, filepath.Join(src, "web"), "web", nil); err != nil {
		t.Fatal(err)
	}
	return name
}

// A chart becomes what Helm makes of it, and comes back under the name that Helm
// gives it, with its provenance.
func TestHelm(t *testing.T) {
	dir := t.TempDir()
	name := writeChart(t, dir, chartYAML)
	if err := os.WriteFile(name+".prov", []byte("signed"), 0o644); err != nil {
		t.Fatal(err)
	}
	epoch := time.Unix(1700000000, 0)
	spec, chart, err := Helm(t.Context(), name, &epoch)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := chart.Tag(), "1.2.3_build.7"; got != want {
		t.Errorf("Tag = %q, want %q", got, want)
	}
	m := newMemory()
	p := push(t, m, spec)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode([]any{p.Manifest.ArtifactType, p.Manifest.Config.MediaType, p.Manifest.Layers[0].MediaType, p.Manifest.Layers[1].MediaType,
		p.Manifest.Annotations, json.RawMessage(m.blobs[p.Manifest.Config.Digest])}); err != nil {
		t.Fatal(err)
	}
	golden(t, "helm.json", bytes.TrimSpace(b.Bytes()))

	out := t.TempDir()
	if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(readTree(t, dir), readTree(t, out)); diff != "" {
		t.Errorf("pulled (-want +got):\n%s", diff)
	}
}

// A tar that is no chart is refused, and one whose name would be a path.
func TestHelmRefuses(t *testing.T) {
	for yaml, want := range map[string]string{
		"name: ../x\nversion: 1.0.0":  "has the name",
		"name: web\nversion: x":       "the version",
		"name: web":                   "the version",
		"name: [":                     "parse Chart.yaml",
		"name: web\nversion: 1.0.0/x": "the version",
		"":                            "no Chart.yaml",
	} {
		if _, _, err := Helm(t.Context(), writeChart(t, t.TempDir(), yaml), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Helm of %q = %v, want %q", yaml, err, want)
		}
	}
}

// A config that names a chart like a path doesn't decide where a file goes.
func TestHelmHostileConfig(t *testing.T) {
	m := newMemory()
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{m.blob(t, TypeHelmChart, []byte("x"))}}
	manifest.SchemaVersion = 2
	for _, config := range []string{`{"name":"../x","version":"1"}`, `{"name":"x","version":"1/../../y"}`, `{"name":"x"}`, `[]`} {
		manifest.Config = m.blob(t, TypeHelmConfig, []byte(config))
		if _, err := Pull(t.Context(), m, m.document(t, manifest), t.TempDir(), PullOptions{}); err == nil {
			t.Errorf("Pull of a chart with the config %s has no error", config)
		}
	}
}

// A Flux artifact has the directory's files at the top of its tar.
func TestFlux(t *testing.T) {
	want := tree{"apps/a.yaml": "a: 1", "kustomization.yaml": "resources: []"}
	spec := Flux(want.write(t, t.TempDir()), "https://example.com/r", "main@sha1:abc", nil)
	m := newMemory()
	p := push(t, m, spec)
	if diff := cmp.Diff(map[string]string{ocispec.AnnotationSource: "https://example.com/r", ocispec.AnnotationRevision: "main@sha1:abc"}, p.Manifest.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	var config ocispec.Image
	if err := json.Unmarshal(m.blobs[p.Manifest.Config.Digest], &config); err != nil || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0].Validate() != nil {
		t.Errorf("config %s: %v, want one diffID", m.blobs[p.Manifest.Config.Digest], err)
	}
	out := t.TempDir()
	if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readTree(t, out)); diff != "" {
		t.Errorf("pulled (-want +got):\n%s", diff)
	}
}

const module = "\x00asm\x01\x00\x00\x00"

// component is a component that imports an instance and exports a function.
const component = "\x00asm\x0d\x00\x01\x00" +
	"\x00\x03\x01ab" + // a custom section
	"\x0a\x13\x01\x00\x0ewasi:cli/e@0.2\x05\x00" +
	"\x0b\x09\x01\x00\x03run\x01\x00\x00"

// The config of a module names its layer; that of a component also what it
// imports and exports.
func TestWasm(t *testing.T) {
	for name, tt := range map[string]struct{ binary, want string }{
		"module":    {module, `{"created":"1970-01-01T00:00:00Z","architecture":"wasm","os":"wasip1","layerDigests":["LAYER"]}`},
		"component": {component, `{"created":"1970-01-01T00:00:00Z","architecture":"wasm","os":"wasip2","layerDigests":["LAYER"],"component":{"exports":["run"],"imports":["wasi:cli/e@0.2"]}}`},
	} {
		dir := tree{"app.wasm": tt.binary}.write(t, t.TempDir())
		spec, err := Wasm(filepath.Join(dir, "app.wasm"), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m := newMemory()
		p := push(t, m, spec)
		want := strings.Replace(tt.want, "LAYER", p.Manifest.Layers[0].Digest.String(), 1)
		if got := string(m.blobs[p.Manifest.Config.Digest]); got != want {
			t.Errorf("%s: config %s, want %s", name, got, want)
		}
		out := t.TempDir()
		if _, err := Pull(t.Context(), m, p.Desc, out, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(readTree(t, dir), readTree(t, out)); diff != "" {
			t.Errorf("%s: pulled (-want +got):\n%s", name, diff)
		}
	}
}

// No binary makes the parser fail in another way than by an error.
func FuzzWasm(f *testing.F) {
	for _, s := range []string{module, component, "", "\x00asm", component + "\x0a\xff\xff\xff\xff\x0f"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := readWasm(bytes.NewReader(b))
		if err != nil && d != nil {
			t.Errorf("both %+v and %v", d, err)
		}
	})
}

// No Chart.yaml makes a config that is not JSON, or a file name of its own.
func FuzzChart(f *testing.F) {
	f.Add([]byte(chartYAML))
	f.Add([]byte("name: a\nversion: 1\ndependencies: [{import-values: [{1: 2}]}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChart(b)
		if err != nil {
			return
		}
		if checkTitle(c.Name+"-"+c.Version+".tgz") != nil {
			t.Errorf("name %q, version %q", c.Name, c.Version)
		}
		_, _ = json.Marshal(c) // Helm reports what it cannot say in JSON
	})
}
