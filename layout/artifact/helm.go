package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"

	"bk.build/bk/layout/layer"
)

// Bounds on a chart: Helm's own.
const (
	maxChart     = 100 << 20 // bytes, unpacked
	maxChartYAML = 5 << 20
)

// Chart is what Helm knows about a chart: Chart.yaml, which is also the config of
// its artifact.
type Chart struct {
	Name         string            `yaml:"name" json:"name,omitempty"`
	Home         string            `yaml:"home" json:"home,omitempty"`
	Sources      []string          `yaml:"sources" json:"sources,omitempty"`
	Version      string            `yaml:"version" json:"version,omitempty"`
	Description  string            `yaml:"description" json:"description,omitempty"`
	Keywords     []string          `yaml:"keywords" json:"keywords,omitempty"`
	Maintainers  []ChartMaintainer `yaml:"maintainers" json:"maintainers,omitempty"`
	Icon         string            `yaml:"icon" json:"icon,omitempty"`
	APIVersion   string            `yaml:"apiVersion" json:"apiVersion,omitempty"`
	Condition    string            `yaml:"condition" json:"condition,omitempty"`
	Tags         string            `yaml:"tags" json:"tags,omitempty"`
	AppVersion   string            `yaml:"appVersion" json:"appVersion,omitempty"`
	Deprecated   bool              `yaml:"deprecated" json:"deprecated,omitempty"`
	Annotations  map[string]string `yaml:"annotations" json:"annotations,omitempty"`
	KubeVersion  string            `yaml:"kubeVersion" json:"kubeVersion,omitempty"`
	Dependencies []ChartDependency `yaml:"dependencies" json:"dependencies,omitempty"`
	Type         string            `yaml:"type" json:"type,omitempty"`
}

// ChartMaintainer is a person or an organisation.
type ChartMaintainer struct {
	Name  string `yaml:"name" json:"name,omitempty"`
	Email string `yaml:"email" json:"email,omitempty"`
	URL   string `yaml:"url" json:"url,omitempty"`
}

// ChartDependency is a chart that another one needs.
type ChartDependency struct {
	Name         string   `yaml:"name" json:"name"`
	Version      string   `yaml:"version" json:"version,omitempty"`
	Repository   string   `yaml:"repository" json:"repository"`
	Condition    string   `yaml:"condition" json:"condition,omitempty"`
	Tags         []string `yaml:"tags" json:"tags,omitempty"`
	Enabled      bool     `yaml:"enabled" json:"enabled,omitempty"`
	ImportValues []any    `yaml:"import-values" json:"import-values,omitempty"`
	Alias        string   `yaml:"alias" json:"alias,omitempty"`
}

// Tag is the tag that Helm gives the chart: a tag has no "+", a version may.
func (c Chart) Tag() string { return strings.ReplaceAll(c.Version, "+", "_") }

// Helm returns the artifact of the packed chart at path (NAME-VERSION.tgz), with
// the provenance file beside it (path.prov) if there is one, as "helm push"
// makes it.
func Helm(ctx context.Context, path string, epoch *time.Time) (Spec, Chart, error) {
	chart, err := readChart(ctx, path)
	if err != nil {
		return Spec{}, chart, fmt.Errorf("chart %s: %w", path, err)
	}
	config, err := json.Marshal(chart)
	if err != nil {
		return Spec{}, chart, fmt.Errorf("chart %s: %w", path, err)
	}
	spec := Spec{
		Config: config, ConfigType: TypeHelmConfig, Epoch: epoch,
		Files:       []File{{Path: path, MediaType: TypeHelmChart}},
		Annotations: chart.ociAnnotations(),
	}
	if _, err := os.Stat(path + ".prov"); err == nil {
		spec.Files = append(spec.Files, File{Path: path + ".prov", MediaType: TypeHelmProvenance})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Spec{}, chart, err
	}
	return spec, chart, nil
}

// readChart finds Chart.yaml, which is in the tar's only top directory.
func readChart(ctx context.Context, path string) (c Chart, err error) {
	in, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer in.Close()
	plain, err := layer.Decompress(&contextReader{ctx, in})
	if err != nil {
		return c, err
	}
	defer plain.Close()
	for e, err := range layer.Read(plain, layer.Limits{Size: maxChart}) {
		if err != nil {
			return c, err
		}
		dir, name, _ := strings.Cut(e.Path, "/")
		if name != "Chart.yaml" || dir == "" || e.Type != layer.Regular || e.Content == nil {
			continue
		}
		text, err := e.Content.Open()
		if err != nil {
			return c, err
		}
		b, err := io.ReadAll(io.LimitReader(text, maxChartYAML+1))
		if err != nil {
			return c, err
		}
		return parseChart(b)
	}
	return c, errors.New("it has no Chart.yaml in its top directory: make it with \"helm package\"")
}

// parseChart parses Chart.yaml.
func parseChart(b []byte) (c Chart, err error) {
	if len(b) > maxChartYAML {
		return c, fmt.Errorf("its Chart.yaml has more than %d bytes", maxChartYAML)
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("parse Chart.yaml: %w", err)
	}
	if !chartNames().MatchString(c.Name) || !chartVersions().MatchString(c.Version) {
		return c, fmt.Errorf("its Chart.yaml has the name %q and the version %q; want a name of letters, digits, \".\", \"_\" and \"-\", and a version as SemVer 2 has it", c.Name, c.Version)
	}
	return c, nil
}

var (
	chartNames    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,249}$`) })
	chartVersions = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^v?[0-9]+(\.[0-9]+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	})
)

// ociAnnotations are those that Helm sets: what the chart says about itself, then
// its own annotations, which may not name another chart.
func (c Chart) ociAnnotations() map[string]string {
	m := map[string]string{}
	set := func(key, value string) {
		if strings.TrimSpace(value) != "" {
			m[key] = value
		}
	}
	set(ocispec.AnnotationDescription, c.Description)
	set(ocispec.AnnotationURL, c.Home)
	if len(c.Sources) > 0 {
		set(ocispec.AnnotationSource, c.Sources[0])
	}
	var authors []string
	for _, p := range c.Maintainers {
		a := p.Name
		if p.Email != "" {
			a += " (" + p.Email + ")"
		}
		authors = append(authors, a)
	}
	set(ocispec.AnnotationAuthors, strings.Join(authors, ", "))
	for key, value := range c.Annotations {
		m[key] = value
	}
	set(ocispec.AnnotationTitle, c.Name)
	set(ocispec.AnnotationVersion, c.Version)
	return m
}
