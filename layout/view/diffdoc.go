package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// compareConfigs compares two configurations, and what only some builders know
// as text.
func compareConfigs(a, b *Image) []Change {
	return append(compareConfig(a.Config, b.Config), compareMaps("", otherFields(a.RawConfig), otherFields(b.RawConfig))...)
}

// otherFields returns the fields of a configuration that image-spec does not
// have, as JSON.
func otherFields(raw []byte) map[string]string {
	var top struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	fields, out := map[string]json.RawMessage{}, map[string]string{}
	if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(raw, &top) != nil {
		return out // it was parsed before
	}
	for name, value := range fields {
		if !slices.Contains(knownFields, name) {
			out[name] = compact(value)
		}
	}
	for name, value := range top.Config {
		if !slices.Contains(knownConfig, name) {
			out["config."+name] = compact(value)
		}
	}
	return out
}

// The fields that are compared one by one, or that a change of layers changes.
var (
	knownFields = strings.Fields("created author architecture os os.version os.features variant config rootfs history")
	knownConfig = strings.Fields("User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal")
)

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

// compareConfig compares what a container is started with, field by field.
func compareConfig(a, b ocispec.Image) []Change {
	changes := []Change{}
	text := func(name, old, new string) {
		if old != new {
			changes = append(changes, Change{Name: name, Old: old, New: new})
		}
	}
	text("created", timeText(a.Created), timeText(b.Created))
	text("author", a.Author, b.Author)
	text("architecture", a.Architecture, b.Architecture)
	text("os", a.OS, b.OS)
	text("os.version", a.OSVersion, b.OSVersion)
	text("os.features", strings.Join(a.OSFeatures, " "), strings.Join(b.OSFeatures, " "))
	text("variant", a.Variant, b.Variant)
	x, y := a.Config, b.Config
	text("user", x.User, y.User)
	text("workdir", x.WorkingDir, y.WorkingDir)
	text("entrypoint", words(x.Entrypoint), words(y.Entrypoint))
	text("cmd", words(x.Cmd), words(y.Cmd))
	text("stop signal", x.StopSignal, y.StopSignal)
	changes = append(changes, compareMaps("env ", environment(x.Env), environment(y.Env))...)
	changes = append(changes, compareMaps("label ", x.Labels, y.Labels)...)
	changes = append(changes, compareMaps("port ", set(x.ExposedPorts), set(y.ExposedPorts))...)
	return append(changes, compareMaps("volume ", set(x.Volumes), set(y.Volumes))...)
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// words writes a command so that its arguments can be told apart.
func words(list []string) string {
	if list == nil {
		return ""
	}
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// environment splits NAME=VALUE. Of a name that comes twice the last counts.
func environment(list []string) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		name, value, _ := strings.Cut(e, "=")
		m[name] = value
	}
	return m
}

func set(m map[string]struct{}) map[string]string {
	out := map[string]string{}
	for k := range m {
		out[k] = "yes"
	}
	return out
}

// compareMaps compares by key. An empty value that was added or removed shows
// as quotes, so that it is not taken for none.
func compareMaps(prefix string, a, b map[string]string) []Change {
	changes := []Change{}
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		old, had := a[k]
		new, has := b[k]
		if had == has && old == new {
			continue
		}
		changes = append(changes, Change{Name: prefix + k, Old: shown(old, had), New: shown(new, has)})
	}
	return changes
}

func shown(value string, there bool) string {
	if there && value == "" {
		return `""`
	}
	return value
}

// compareHistory compares entry by entry; the numbers count from 1.
func compareHistory(a, b []ocispec.History) []Change {
	changes := []Change{}
	for i := range max(len(a), len(b)) {
		old, new := entryText(a, i), entryText(b, i)
		if old != new {
			changes = append(changes, Change{Name: strconv.Itoa(i + 1), Old: old, New: new})
		}
	}
	return changes
}

// entryText is an entry of a history for people, all of it.
func entryText(list []ocispec.History, i int) string {
	if i >= len(list) {
		return ""
	}
	h := list[i]
	var parts []string
	for _, s := range []string{timeText(h.Created), h.CreatedBy} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if h.Author != "" {
		parts = append(parts, "by "+h.Author)
	}
	if h.Comment != "" {
		parts = append(parts, "# "+h.Comment)
	}
	if h.EmptyLayer {
		parts = append(parts, "(no layer)")
	}
	if len(parts) == 0 {
		return "(an empty entry)"
	}
	return strings.Join(parts, " ")
}

// compareLayers finds the layers that both images begin with.
func compareLayers(a, b *Image) LayersDiff {
	n := sameLayers(a.Config.RootFS.DiffIDs, b.Config.RootFS.DiffIDs)
	d := LayersDiff{Common: n, A: a.layersFrom(n), B: b.layersFrom(n)}
	for i := range n {
		if a.Manifest.Layers[i].Digest != b.Manifest.Layers[i].Digest {
			d.Repacked++
		}
	}
	return d
}

func (m *Image) layersFrom(n int) []LayerChange {
	list := []LayerChange{}
	by := m.createdBy()
	for i, l := range m.Manifest.Layers[n:] {
		list = append(list, LayerChange{Digest: l.Digest, DiffID: m.Config.RootFS.DiffIDs[n+i], Size: l.Size, CreatedBy: by[n+i]})
	}
	return list
}

// String is "+ name: new", "- name: old" or "~ name: old -> new".
func (c Change) String() string {
	switch {
	case c.Old == "":
		return fmt.Sprintf("+ %s: %s", c.Name, c.New)
	case c.New == "":
		return fmt.Sprintf("- %s: %s", c.Name, c.Old)
	}
	return fmt.Sprintf("~ %s: %s -> %s", c.Name, c.Old, c.New)
}
