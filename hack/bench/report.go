//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// median returns the middle of values, the mean of two when there are two.
func median[T time.Duration | int64](values []T) T {
	s := slices.Sorted(slices.Values(values))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// column takes one measure out of samples.
func column[T any](samples []sample, get func(sample) T) []T {
	out := make([]T, len(samples))
	for i, s := range samples {
		out[i] = get(s)
	}
	return out
}

func (r *result) wall() time.Duration {
	return median(column(r.samples, func(s sample) time.Duration { return s.wall }))
}

func (r *result) best() time.Duration {
	return slices.Min(column(r.samples, func(s sample) time.Duration { return s.wall }))
}

func (r *result) cpu() time.Duration {
	return median(column(r.samples, func(s sample) time.Duration { return s.cpu }))
}

func (r *result) peak() int64 {
	return median(column(r.samples, func(s sample) int64 { return s.peak }))
}

// seconds prints a time with three digits.
func seconds(d time.Duration) string {
	s := d.Seconds()
	digits := 3
	for limit := 1.0; s >= limit && digits > 0; limit *= 10 {
		digits--
	}
	return strconv.FormatFloat(s, 'f', digits, 64) + " s"
}

// of returns a builder's result, or nil when it has none that counts.
func (b *bench) of(s *scenario, p *phase, name string) *result {
	r := b.results[key{s.name, p.name, name}]
	if r == nil || r.err != nil || len(r.samples) == 0 {
		return nil
	}
	return r
}

// fastest returns the peer that isolates its steps with the least median.
func (b *bench) fastest(s *scenario, p *phase) *result {
	var best *result
	for _, peer := range b.builders {
		r := b.of(s, p, peer.name())
		if peer.name() == "bk" || !peer.isolates() || r == nil {
			continue
		}
		if best == nil || r.wall() < best.wall() {
			best = r
		}
	}
	return best
}

// verdict compares bk with the phase's target: the ratio to whom it is about, and
// whether it is reached.
func (b *bench) verdict(s *scenario, p *phase) (ratio, reached string) {
	own, peer := b.of(s, p, "bk"), b.fastest(s, p)
	if p.target.of != "" {
		peer = b.of(s, p, p.target.of)
	}
	if own == nil {
		return "n/a", "n/a"
	}
	ok, known := true, true
	if ratio = "n/a"; peer != nil {
		r := float64(own.wall()) / float64(peer.wall())
		ratio = strconv.FormatFloat(r, 'f', 3, 64)
		ok = p.target.ratio == 0 || r <= p.target.ratio
	} else if p.target.ratio != 0 {
		known = false
	}
	if p.target.limit != 0 && own.wall() >= p.target.limit {
		ok = false
	}
	if p.target.kaniko {
		if k := b.of(s, p, "kaniko"); k != nil {
			ok = ok && own.wall() < k.wall()
		} else if b.withKaniko {
			known = false
		}
	}
	switch {
	case !ok:
		return ratio, "no"
	case !known:
		return ratio, "n/a"
	}
	return ratio, "yes"
}

// A section is the scenarios of one kind, and who takes part in any of them.
type section struct {
	title     string
	scenarios []*scenario
	builders  []builder
}

func (b *bench) sections() []section {
	titles := map[kind]string{
		builds: "Builds, from a Dockerfile to a layout",
		moves:  "Images that are moved",
		pushes: "From the end of the last step until the image is pushed",

		isolating: "One step, by the isolation of steps (targets on an idle machine: root 10 ms, rootless 13 ms, chroot 16 ms)",
	}
	var list []section
	for _, k := range []kind{builds, isolating, moves, pushes} {
		s := section{title: titles[k]}
		for _, sc := range b.scenarios {
			if sc.kind == k {
				s.scenarios = append(s.scenarios, sc)
			}
		}
		for _, with := range b.builders {
			if slices.ContainsFunc(s.scenarios, func(sc *scenario) bool { return sc.takes(with) }) {
				s.builders = append(s.builders, with)
			}
		}
		if len(s.scenarios) > 0 {
			list = append(list, s)
		}
	}
	return list
}

// rows calls a function for every phase of every scenario.
func (s section) rows(header []string, row func(s *scenario, p *phase) []string) string {
	table := [][]string{append([]string{"scenario", "phase"}, header...)}
	for _, sc := range s.scenarios {
		for _, p := range sc.phases {
			table = append(table, append([]string{sc.title, p.name}, row(sc, p)...))
		}
	}
	return render(table)
}

// each returns one cell per builder.
func (s section) each(cell func(name string) string) []string {
	cells := make([]string, len(s.builders))
	for i, builder := range s.builders {
		cells[i] = cell(builder.name())
	}
	return cells
}

func (b *bench) tables() string {
	var text strings.Builder
	for _, s := range b.sections() {
		text.WriteString("### " + s.title + "\n\n" + b.tablesOf(s) + "\n")
	}
	return text.String()
}

func (b *bench) tablesOf(sec section) string {
	names := sec.each(func(name string) string { return name })
	show := func(s *scenario, p *phase, text func(r *result) string) []string {
		return sec.each(func(name string) string {
			if r := b.of(s, p, name); r != nil {
				return text(r)
			}
			return "n/a"
		})
	}
	wall := sec.rows(append(slices.Clone(names), "ratio", "target", "reached"), func(s *scenario, p *phase) []string {
		ratio, reached := b.verdict(s, p)
		cells := show(s, p, func(r *result) string { return seconds(r.wall()) + " (" + seconds(r.best()) + ")" })
		return append(cells, ratio, p.target.String(), reached)
	})
	cpu := sec.rows(names, func(s *scenario, p *phase) []string {
		return show(s, p, func(r *result) string { return seconds(r.cpu()) })
	})
	peak := sec.rows(append(slices.Clone(names), "bk is least"), func(s *scenario, p *phase) []string {
		cells := show(s, p, func(r *result) string { return strconv.FormatInt(r.peak()>>20, 10) + " MB" })
		return append(cells, b.least(s, p))
	})
	return "Wall time, median (minimum):\n\n" + wall +
		"\nCPU time of all processes, user and system, median:\n\n" + cpu +
		"\nPeak resident memory of the largest process, median:\n\n" + peak
}

// least says whether bk's peak is below every peer's.
func (b *bench) least(s *scenario, p *phase) string {
	own := b.of(s, p, "bk")
	if own == nil {
		return "n/a"
	}
	for _, peer := range b.builders[1:] {
		if _, same := peer.(*isolated); same {
			continue
		}
		if r := b.of(s, p, peer.name()); r != nil && r.peak() <= own.peak() {
			return "no"
		}
	}
	return "yes"
}

// render writes a Markdown table whose columns line up.
func render(table [][]string) string {
	widths := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var s strings.Builder
	for n, row := range table {
		for i, cell := range row {
			s.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		s.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				s.WriteString("|" + strings.Repeat("-", w+2))
			}
			s.WriteString("|\n")
		}
	}
	return s.String()
}

// machine describes this one: cores, memory and kernel.
func machine() string {
	var info syscall.Sysinfo_t
	_ = syscall.Sysinfo(&info) // a memory of 0 is plain to see
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	kernel := strings.SplitN(strings.TrimSpace(string(release)), "-", 2)[0]
	return fmt.Sprintf("%d cores, %.0f GB of memory, Linux %s", runtime.NumCPU(), float64(info.Totalram)/(1<<30), kernel)
}
