//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A place is an image in a registry or in a layout.
type place struct {
	path string // of a layout; empty: a registry
	ref  string // in a registry, with its address
}

// skopeo spells a place as skopeo and bk do.
func (p place) skopeo() string {
	if p.path != "" {
		return "oci:" + p.path + ":latest"
	}
	return "docker://" + p.ref
}

// copies moves the large base of 1 GB from place to place. What one phase wrote
// the next may read.
func copies(layer int64) *scenario {
	const layers = 4
	local := func(j *job) place { return place{path: filepath.Join(j.vol, "layout")} }
	source := func(j *job) place { return place{ref: j.registry + "/large:latest"} }
	return &scenario{
		name: "copy", title: "an image of 1 GB in 4 layers, 487 MB packed", kind: moves,
		base:       func(ctx context.Context, r *bases) error { return r.pushLarge(ctx, layers, layer) },
		dockerfile: func(string) string { return "" },
		layers:     layers + 1,
		phases: []*phase{
			{name: "registry to layout", target: target{ratio: 0.9, of: "crane"}, move: func(j *job) (place, place) { return source(j), local(j) }},
			{name: "layout to registry", move: func(j *job) (place, place) {
				return local(j), place{ref: j.registry + "/" + j.repository + "-up:latest"}
			}},
			{name: "to another registry", move: func(j *job) (place, place) { return source(j), place{ref: j.other + "/" + j.repository + ":latest"} }},
			{name: "within a registry", target: target{ratio: 1, of: "crane"}, move: func(j *job) (place, place) { return source(j), place{ref: j.registry + "/" + j.repository + ":latest"} }},
		},
	}
}

// A mover copies images and builds none.
type mover struct {
	exe     string
	args    func(exe string, from, to place) []string
	show    []string // arguments for its version
	program string
}

// movers returns those that are there. Who has no steps runs none outside of a
// container.
func movers(tools string) []builder {
	all := []*mover{
		{program: "crane", exe: filepath.Join(tools, "crane"), show: []string{"version"}, args: craneArgs},
		{program: "skopeo", exe: "skopeo", show: []string{"--version"}, args: skopeoArgs},
		{program: "oras", exe: filepath.Join(tools, "oras"), show: []string{"version"}, args: orasArgs},
	}
	var there []builder
	for _, m := range all {
		if _, err := exec.LookPath(m.exe); err == nil {
			there = append(there, m)
		}
	}
	return there
}

func isMover(b builder) bool {
	_, ok := b.(*mover)
	return ok
}

func (m *mover) name() string               { return m.program }
func (m *mover) version() string            { return said(m.exe, m.show...) }
func (m *mover) daemon() int                { return 0 }
func (m *mover) isolates() bool             { return true }
func (m *mover) needsHandler() bool         { return false }
func (m *mover) layout(j *job) string       { return j.to.path }
func (m *mover) commands(j *job) [][]string { return [][]string{m.args(m.exe, j.from, j.to)} }

// blobCache is where skopeo remembers, for root, what it has seen in registries.
const blobCache = "/var/lib/containers/cache"

// start hides what skopeo remembers of earlier rounds.
func (m *mover) start(context.Context, string) error {
	if err := os.MkdirAll(blobCache, 0o700); err != nil {
		return err
	}
	return syscall.Mount("tmpfs", blobCache, "tmpfs", 0, "")
}

func (m *mover) stop() { _ = syscall.Unmount(blobCache, syscall.MNT_DETACH) } // else it ends with the namespace

func craneArgs(exe string, from, to place) []string {
	switch {
	case to.path != "":
		return []string{exe, "pull", "--format=oci", from.ref, to.path}
	case from.path != "":
		return []string{exe, "push", from.path, to.ref}
	}
	return []string{exe, "copy", from.ref, to.ref}
}

func skopeoArgs(exe string, from, to place) []string {
	args := []string{exe, "--insecure-policy", "copy", "-q", "--all", "--preserve-digests"}
	return append(args, "--src-tls-verify=false", "--dest-tls-verify=false", from.skopeo(), to.skopeo())
}

func orasArgs(exe string, from, to place) []string {
	side := func(which string, p place) []string {
		if p.path != "" {
			return []string{"--" + which + "-oci-layout", p.path + ":latest"}
		}
		return []string{"--" + which + "-plain-http", p.ref}
	}
	return slices.Concat([]string{exe, "copy", "--no-tty"}, side("from", from), side("to", to))
}

// moved makes sure that the image is where it was moved to.
func (b *bench) moved(ctx context.Context, s *scenario, p *phase, j *job) error {
	if j.to.path != "" {
		o, err := readOutput(j.to.path)
		if err != nil {
			return err
		}
		return o.check(s, p, nil)
	}
	want, err := b.digest(ctx, j.registry+"/large")
	if err != nil {
		return err
	}
	got, err := b.digest(ctx, j.to.ref)
	if err == nil && got != want {
		err = fmt.Errorf("%s has digest %s, want %s", j.to.ref, got, want)
	}
	return err
}

func (b *bench) digest(ctx context.Context, ref string) (string, error) {
	out, err := exec.CommandContext(ctx, b.registry.crane, "digest", ref).Output()
	if err != nil {
		return "", fmt.Errorf("crane digest %s: %w", ref, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// lastStep returns when the last instruction of a Dockerfile ended, of what a
// builder says with --progress=rawjson.
func lastStep(said string) (time.Time, error) {
	var last time.Time
	for line := range strings.Lines(said) {
		var status struct {
			Vertexes []struct {
				Name      string     `json:"name"`
				Completed *time.Time `json:"completed"`
			} `json:"vertexes"`
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &status) != nil {
			continue
		}
		for _, v := range status.Vertexes {
			_, instruction, ok := strings.Cut(v.Name, "] ")
			if ok && v.Completed != nil && v.Completed.After(last) && (strings.HasPrefix(instruction, "RUN ") || strings.HasPrefix(instruction, "COPY ")) {
				last = *v.Completed
			}
		}
	}
	if last.IsZero() {
		return last, errors.New("no step has ended")
	}
	return last, nil
}
