package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ParseConfig reads a config.json. Unknown properties are ignored, as the
// specification wants; versions of another major number are refused.
func ParseConfig(b []byte) (*specs.Spec, error) {
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if err := checkVersion(s.Version); err != nil {
		return nil, err
	}
	if s.Linux == nil {
		return nil, errors.New("linux is missing")
	}
	if s.Root == nil || s.Root.Path == "" {
		return nil, errors.New("root.path is missing")
	}
	if s.Hooks != nil {
		if err := checkHooks(s.Hooks); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checkVersion accepts versions 1.x.y of the specification, with what is
// written behind a "-" or "+".
func checkVersion(v string) error {
	if v == "" {
		return errors.New("ociVersion is missing")
	}
	number, _, _ := strings.Cut(v, "+")
	number, _, _ = strings.Cut(number, "-")
	parts := strings.Split(number, ".")
	if len(parts) != 3 {
		return fmt.Errorf("ociVersion %q is not MAJOR.MINOR.PATCH", v)
	}
	for _, p := range parts {
		if _, err := strconv.ParseUint(p, 10, 31); err != nil {
			return fmt.Errorf("ociVersion %q is not MAJOR.MINOR.PATCH", v)
		}
	}
	if parts[0] != "1" {
		return fmt.Errorf("ociVersion %q is not supported: this runtime knows 1.0.0 to %s", v, specs.Version)
	}
	return nil
}

func checkHooks(h *specs.Hooks) error {
	for _, point := range hookPoints(h) {
		for _, hook := range point.hooks {
			if !path.IsAbs(hook.Path) {
				return fmt.Errorf("hooks.%s: path %q is not absolute", point.name, hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return fmt.Errorf("hooks.%s: timeout %d of %s is not above 0", point.name, *hook.Timeout, hook.Path)
			}
		}
	}
	return nil
}

// hookPoint is a place in the lifecycle.
type hookPoint struct {
	name  string
	hooks []specs.Hook
}

// hookPoints lists the places in their order.
func hookPoints(h *specs.Hooks) []hookPoint {
	if h == nil {
		h = new(specs.Hooks)
	}
	return []hookPoint{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and used
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	}
}
