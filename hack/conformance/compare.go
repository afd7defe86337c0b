//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// compare lists how the second result differs from the first, a line each.
func compare(want, got *result) []string {
	var diffs []string
	if want.index != got.index {
		diffs = append(diffs, fmt.Sprintf("index: want %v, got %v", want.index, got.index))
	}
	for _, p := range keys(want.images, got.images) {
		w, g := want.images[p], got.images[p]
		if w == nil || g == nil {
			diffs = append(diffs, fmt.Sprintf("platform %s: want it %v, got it %v", p, w != nil, g != nil))
			continue
		}
		prefix := ""
		if p != "" {
			prefix = p + ": "
		}
		for _, d := range slices.Concat(compareConfig("config", w.config, g.config), compareHistory(w, g), compareTrees(w, g)) {
			diffs = append(diffs, prefix+d)
		}
	}
	return diffs
}

func compareConfig(at string, want, got map[string]any) []string {
	var diffs []string
	for _, k := range keys(want, got) {
		w, inWant := want[k]
		g, inGot := got[k]
		wm, wok := w.(map[string]any)
		gm, gok := g.(map[string]any)
		if wok && gok {
			diffs = append(diffs, compareConfig(at+"."+k, wm, gm)...)
			continue
		}
		if ws, gs := text(w, inWant), text(g, inGot); ws != gs {
			diffs = append(diffs, fmt.Sprintf("%s.%s: want %s, got %s", at, k, ws, gs))
		}
	}
	return diffs
}

func text(v any, there bool) string {
	if !there {
		return "nothing"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func compareHistory(want, got *image) []string {
	var diffs []string
	if want.layers != got.layers {
		diffs = append(diffs, fmt.Sprintf("layers: want %d, got %d", want.layers, got.layers))
	}
	for i := range max(len(want.history), len(got.history)) {
		w, g := "nothing", "nothing"
		if i < len(want.history) {
			w = historyText(want, i)
		}
		if i < len(got.history) {
			g = historyText(got, i)
		}
		if w != g {
			diffs = append(diffs, fmt.Sprintf("history[%d]: want %s, got %s", i, w, g))
		}
	}
	return diffs
}

func historyText(img *image, i int) string {
	h := img.history[i]
	h.Created = (*time.Time)(nil)
	return text(h, true)
}

func compareTrees(want, got *image) []string {
	var diffs []string
	w, g := want.files, got.files
	for _, p := range keys(w, g) {
		switch {
		case w[p] == g[p]:
		case w[p] == "":
			diffs = append(diffs, fmt.Sprintf("file %q: want nothing, got %s", p, g[p]))
		case g[p] == "":
			diffs = append(diffs, fmt.Sprintf("file %q: want %s, got nothing", p, w[p]))
		default:
			diffs = append(diffs, fmt.Sprintf("file %q: want %s, got %s", p, w[p], g[p])+
				compareText(want.text(p), got.text(p)))
		}
	}
	return diffs
}

// compareText lists lines that only one of two small files has.
func compareText(want, got string) string {
	if want == "" {
		return "" // from a record, which has no texts
	}
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var s strings.Builder
	for _, side := range []struct {
		sign        string
		lines, have []string
	}{{"-", w, g}, {"+", g, w}} {
		for _, l := range side.lines {
			if !slices.Contains(side.have, l) {
				fmt.Fprintf(&s, "\n          %s %s", side.sign, l)
			}
		}
	}
	return s.String()
}

func keys[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// print writes the verdict of one case as it comes.
func (b *bench) print(v verdict) {
	word := "ok  "
	if len(v.differences) > 0 {
		word = "FAIL"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s  %-40s %6.2fs %6.2fs\n", word, v.name, v.took[0].Seconds(), v.took[1].Seconds())
	for i, d := range v.differences {
		if i == 15 && !b.verbose {
			fmt.Fprintf(&s, "      and %d more\n", len(v.differences)-i)
			break
		}
		fmt.Fprintf(&s, "      %s\n", d)
	}
	for _, d := range v.known {
		fmt.Fprintf(&s, "      known: %s\n", d)
	}
	if b.verbose && len(v.differences) > 0 {
		s.WriteString(v.log)
	}
	fmt.Print(s.String())
}

// summarize prints the totals and says whether all passed.
func summarize(verdicts []verdict) bool {
	failed, known := 0, 0
	var took [2]time.Duration
	for _, v := range verdicts {
		if len(v.differences) > 0 {
			failed++
		} else if len(v.known) > 0 {
			known++
		}
		for i := range took {
			took[i] += v.took[i]
		}
	}
	fmt.Printf("\nconformance: %d cases, %d pass (%d with known differences), %d fail; reference %.1fs, subject %.1fs\n",
		len(verdicts), len(verdicts)-failed, known, failed, took[0].Seconds(), took[1].Seconds())
	return failed == 0
}
