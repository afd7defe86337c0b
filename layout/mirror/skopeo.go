package mirror

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"go.yaml.in/yaml/v3"
)

// skopeoRegistry is what "skopeo sync --src yaml" has for a registry.
type skopeoRegistry struct {
	Images         map[string][]string `yaml:"images"`
	ImagesByRegex  map[string]string   `yaml:"images-by-tag-regex"`
	ImagesBySemver map[string]string   `yaml:"images-by-semver"`
	Credentials    yaml.Node           `yaml:"credentials"`
	TLSVerify      *bool               `yaml:"tls-verify"`
	CertDir        string              `yaml:"cert-dir"`
}

// isSkopeo tells skopeo's format, whose keys are registries, from ours.
func isSkopeo(root *yaml.Node) bool {
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return false
	}
	fields := root.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		switch fields[i].Value {
		case "destination", "scoped", "images":
			return false
		}
		if fields[i+1].Kind != yaml.MappingNode {
			return false
		}
	}
	return len(fields) > 0
}

// parseSkopeo translates skopeo's format. What it says about credentials and
// certificates is refused: these are not a list's business.
func (l *List) parseSkopeo(b []byte) error {
	var registries map[string]skopeoRegistry
	if err := decode(b, &registries); err != nil {
		return err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return plain(err)
	}
	fields := root.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		host := fields[i].Value
		images, err := registries[host].images(host)
		if err != nil {
			return fmt.Errorf("line %d: registry %q: %w", fields[i].Line, host, err)
		}
		for j := range images {
			images[j].line = fields[i].Line
		}
		l.Images = append(l.Images, images...)
	}
	return nil
}

func (r skopeoRegistry) images(host string) ([]Image, error) {
	switch {
	case !r.Credentials.IsZero():
		return nil, fmt.Errorf("credentials in a list are not supported: log in with \"bk login %s\"", host)
	case r.TLSVerify != nil && !*r.TLSVerify:
		return nil, fmt.Errorf("tls-verify is not supported: give --insecure-registry %s", host)
	case r.CertDir != "":
		return nil, fmt.Errorf("cert-dir is not supported: put the certificates into /etc/docker/certs.d/%s", host)
	}
	var list []Image
	for name, refs := range r.Images {
		image := Image{Source: host + "/" + name}
		for _, ref := range refs {
			if _, err := digest.Parse(ref); err == nil {
				image.Digests = append(image.Digests, ref)
			} else {
				image.Tags = append(image.Tags, escape(ref))
			}
		}
		if len(refs) == 0 {
			image.Tags = []string{"*"}
		}
		list = append(list, image)
	}
	for name, regex := range r.ImagesByRegex {
		list = append(list, Image{Source: host + "/" + name, Regex: ".*(?:" + regex + ").*"})
	}
	for name, constraint := range r.ImagesBySemver {
		list = append(list, Image{Source: host + "/" + name, Semver: constraint})
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Regex+a.Semver, b.Regex+b.Semver))
	})
	return list, nil
}

// escape makes a tag a pattern for itself: a tag has none of a pattern's
// characters, but a list may.
func escape(tag string) string {
	return strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, "!", `\!`).Replace(tag)
}
