package builder

import (
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotations are those of a commit, by where they go.
type annotations []annotation

type annotation struct {
	exptypes.AnnotationKey
	value string
}

// parseAnnotations reads attributes as BuildKit's exporter spells them; see
// CommitOptions.Annotations.
func parseAnnotations(attrs map[string]string) (annotations, error) {
	var list annotations
	for k, v := range attrs {
		key, ok, err := exptypes.ParseAnnotationKey(k)
		if err != nil {
			return nil, fmt.Errorf("annotation %q: %w", k, err)
		}
		if !ok {
			return nil, fmt.Errorf("annotation %q: not of the form annotation[-TYPE][[PLATFORM]].KEY", k)
		}
		list = append(list, annotation{key, v})
	}
	// Those for all platforms first, so that a platform's own replace them.
	slices.SortFunc(list, func(a, b annotation) int { return len(a.PlatformString()) - len(b.PlatformString()) })
	return list, nil
}

// of returns the annotations of a type for a platform; nil when there are none.
func (a annotations) of(typ string, p ocispecs.Platform) map[string]string {
	var m map[string]string
	for _, n := range a {
		if n.Type != typ || n.Platform != nil && n.PlatformString() != platforms.FormatAll(platforms.Normalize(p)) {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[n.Key] = n.value
	}
	return m
}
