//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// A scenario is a Dockerfile with its context, built in phases, or an image that
// is moved.
type scenario struct {
	name, title string
	files       func(dir string) error // context, apart from the Dockerfile
	base        func(ctx context.Context, r *bases) error
	dockerfile  func(registry string) string
	phases      []*phase
	rounds      int
	platforms   string // by commas; empty: this machine's
	compression string // empty: gzip, every builder's default
	jobs        int    // for builders that must be told how many steps to run at a time
	layers      int    // that the image must have on top of its base
	kaniko      bool   // kaniko takes part
	kind        kind
	parts       int // that the times are divided by; 0: 1
}

// A kind of scenario says who takes part, and which table it is in.
type kind int

const (
	builds    kind = iota // from a Dockerfile to a layout
	moves                 // from one place to another
	pushes                // from the end of the last step to the registry
	isolating             // as builds, by bk with each isolation of steps; times are of one step
)

// A phase is one build of a scenario. The first is cold; each starts from what
// the one before left.
type phase struct {
	name   string
	change func(dir string, seed uint64) error // what to change in the context first
	target target
	move   func(j *job) (from, to place) // of a scenario that moves
}

// A target is what bk should reach: a ratio to the fastest builder that
// isolates its steps, or to one peer, or a time, and perhaps to be faster than
// kaniko.
type target struct {
	ratio  float64
	of     string // the peer; empty: the fastest
	limit  time.Duration
	kaniko bool
}

func (t target) String() string {
	var parts []string
	if t.ratio != 0 {
		parts = append(parts, strings.TrimRight(fmt.Sprintf("≤ %.2f %s", t.ratio, t.of), " "))
	}
	if t.limit != 0 {
		parts = append(parts, fmt.Sprintf("< %s", seconds(t.limit)))
	}
	if t.kaniko {
		parts = append(parts, "< kaniko")
	}
	return strings.Join(parts, ", ")
}

// takes says whether a builder takes part.
func (s *scenario) takes(b builder) bool {
	switch s.kind {
	case moves:
		return b.name() == "bk" || isMover(b)
	case pushes:
		return b.name() == "bk" || b.name() == "buildkitd"
	case isolating:
		return strings.HasPrefix(b.name(), "bk") || b.name() == "kaniko"
	}
	if _, other := b.(*isolated); other {
		return false
	}
	return !isMover(b) && (s.kaniko || b.isolates())
}

func (s *scenario) images() int { return 1 + strings.Count(s.platforms, ",") }

func cold(t target) *phase { return &phase{name: "cold", target: t} }

func unchanged(ratio float64) *phase { return &phase{name: "unchanged", target: target{ratio: ratio}} }

// scenarios returns all, n rounds each, with sizes multiplied by scale.
func scenarios(scale float64, n int) []*scenario {
	count := func(full int) int { return max(2, int(float64(full)*scale)) }
	size := func(full int64) int64 { return max(1<<16, int64(float64(full)*scale)) }
	all := []*scenario{
		hello(n * 3),
		steps(count(50)),
		stages(count(16)),
		smallFiles(count(500), count(100)),
		largeLayer("layer-gzip", "", size(1_000_000_000), target{ratio: 0.5}),
		largeLayer("layer-zstd", "zstd", size(1_000_000_000), target{ratio: 0.7}),
		largeBase(size(250_000_000)),
		platforms(),
		isolations(count(50), n),
		copies(size(250_000_000)),
		push("push-run", "`RUN` that writes 1 GB", size(1_000_000_000), "FROM %s/busybox\nRUN --mount=target=/context cp /context/large /\n"),
		push("push-copy", "`COPY` of 1 GB", size(1_000_000_000), "FROM %s/busybox\nCOPY large /\n"),
	}
	for _, s := range all {
		if s.rounds == 0 {
			s.rounds = n
		}
	}
	return all
}

func hello(rounds int) *scenario {
	return &scenario{
		name: "hello", title: "`FROM scratch` and `COPY` of 1 MB",
		files:      func(dir string) error { return writeFile(filepath.Join(dir, "hello"), 1, 1_000_000, 1000) },
		dockerfile: func(string) string { return "FROM scratch\nCOPY hello /\n" },
		phases:     []*phase{cold(target{ratio: 0.35}), unchanged(0.5)},
		rounds:     rounds, layers: 1,
	}
}

func steps(n int) *scenario {
	return &scenario{
		name: "steps", title: fmt.Sprintf("%d `RUN` steps", n),
		dockerfile: func(registry string) string { return "FROM " + registry + "/busybox\n" + echoes(n) },
		phases:     []*phase{cold(target{ratio: 0.1, kaniko: true})},
		layers:     n, kaniko: true,
	}
}

// echoes are n steps that write a small file each.
func echoes(n int) string {
	var s strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&s, "RUN echo %d > /f%d\n", i, i)
	}
	return s.String()
}

func stages(n int) *scenario {
	return &scenario{
		name: "stages", title: fmt.Sprintf("%d parallel stages of `sleep 1`, joined", n),
		dockerfile: func(registry string) string {
			var s, join strings.Builder
			for i := 1; i <= n; i++ {
				fmt.Fprintf(&s, "FROM %s/busybox AS s%d\nRUN sleep 1 && echo %d > /f%d\n", registry, i, i, i)
				fmt.Fprintf(&join, "COPY --from=s%d /f%d /\n", i, i)
			}
			return s.String() + "FROM scratch\n" + join.String()
		},
		phases: []*phase{cold(target{limit: 1250 * time.Millisecond})},
		jobs:   n, layers: n,
	}
}

func smallFiles(dirs, files int) *scenario {
	return &scenario{
		name: "files", title: fmt.Sprintf("`COPY` of %d files (%d MB)", dirs*files, dirs*files*smallFile/1_000_000),
		files:      func(dir string) error { return writeTree(filepath.Join(dir, "tree"), dirs, files) },
		dockerfile: func(string) string { return "FROM scratch\nCOPY tree /tree\n" },
		phases: []*phase{
			cold(target{ratio: 0.16}),
			unchanged(0.15),
			{name: "one changed", target: target{ratio: 0.08}, change: func(dir string, seed uint64) error {
				return writeFile(treeFile(filepath.Join(dir, "tree"), dirs/2, files/2), 1<<32+seed, smallFile, 1000)
			}},
		},
		layers: 1,
	}
}

func largeLayer(name, compression string, size int64, t target) *scenario {
	title := "a layer of 1 GB, gzip"
	if compression != "" {
		title = "a layer of 1 GB, " + compression
	}
	return &scenario{
		name: name, title: title,
		files:       func(dir string) error { return writeFile(filepath.Join(dir, "large"), 2, size, 500) },
		dockerfile:  func(string) string { return "FROM scratch\nCOPY large /\n" },
		phases:      []*phase{cold(t)},
		compression: compression, layers: 1,
	}
}

// push builds a layer and pushes it. What counts is the time from the end of the
// last step on.
func push(name, title string, size int64, dockerfile string) *scenario {
	return &scenario{
		name: name, title: title, kind: pushes,
		files:      func(dir string) error { return writeFile(filepath.Join(dir, "large"), 2, size, 500) },
		dockerfile: func(registry string) string { return fmt.Sprintf(dockerfile, registry) },
		phases:     []*phase{{name: "last step to pushed", target: target{ratio: 0.3}}},
	}
}

func largeBase(layer int64) *scenario {
	const layers = 4
	return &scenario{
		name: "base", title: "pull of a base of 1 GB in 4 layers, `RUN true`",
		base: func(ctx context.Context, r *bases) error { return r.pushLarge(ctx, layers, layer) },
		dockerfile: func(registry string) string {
			return "FROM " + registry + "/large\nRUN true\n"
		},
		phases: []*phase{cold(target{ratio: 0.4}), unchanged(0.05)},
	}
}

func platforms() *scenario {
	return &scenario{
		name: "platforms", title: "two platforms, one emulated, 5 `RUN` steps each",
		dockerfile: func(registry string) string { return "FROM " + registry + "/busybox\n" + echoes(5) },
		phases:     []*phase{cold(target{ratio: 0.4})},
		platforms:  "linux/amd64,linux/arm64", jobs: 2, layers: 5,
	}
}
