// Command testreport reads the stream of `go test -json` and writes what a
// reader wants of it: the closing line of every package, the full output of
// what failed, and at the end which tests were skipped and why. It exits with
// 1 when anything failed or when no test ran.
//
//	go test -json ./... | testreport
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// An event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	FailedBuild string
}

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.summary() {
		os.Exit(1)
	}
}

// A report collects the results of one stream.
type report struct {
	out      io.Writer
	output   map[string][]string // "package\x00test" -> what it printed so far
	build    map[string][]string // import path -> the compiler's words
	skips    map[string][]string // reason -> tests
	passed   int
	failed   []string // tests
	broken   []string // packages
	packages int      // with at least one test
	other    int      // lines that are no events
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: map[string][]string{}, build: map[string][]string{}, skips: map[string][]string{}}
}

func (r *report) read(in io.Reader) error {
	br := bufio.NewReader(in)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		r.other++
		r.out.Write(line)
		return
	}
	if e.Test == "" {
		r.packageEvent(e)
	} else {
		r.testEvent(e)
	}
}

func (r *report) packageEvent(e event) {
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
	case "output":
		r.output[e.Package] = append(r.output[e.Package], e.Output)
	case "pass":
		r.packages++
		r.write(closing(r.output[e.Package]))
	case "fail":
		r.packages++
		r.broken = append(r.broken, e.Package)
		r.write(r.build[e.FailedBuild])
		r.write(r.output[e.Package])
	}
	if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
		delete(r.output, e.Package)
	}
}

func (r *report) testEvent(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		r.output[key] = append(r.output[key], e.Output)
		return
	case "pass":
		r.passed++
	case "skip":
		why := reason(r.output[key])
		r.skips[why] = append(r.skips[why], e.Package+"."+e.Test)
	case "fail":
		r.failed = append(r.failed, e.Package+"."+e.Test)
		r.write(r.output[key])
	default:
		return
	}
	delete(r.output, key)
}

// summary writes the end of the report and says whether all is well.
func (r *report) summary() bool {
	r.unfinished()
	skipped := 0
	reasons := make([]string, 0, len(r.skips))
	for why, tests := range r.skips {
		reasons = append(reasons, why)
		skipped += len(tests)
	}
	slices.Sort(reasons)
	if skipped > 0 {
		fmt.Fprintf(r.out, "\nskipped %d:\n", skipped)
	}
	for _, why := range reasons {
		fmt.Fprintf(r.out, "  %s\n", why)
		for _, t := range r.skips[why] {
			fmt.Fprintf(r.out, "      %s\n", t)
		}
	}
	if len(r.failed)+len(r.broken) > 0 {
		fmt.Fprintf(r.out, "\nfailed:\n")
	}
	for _, f := range append(r.failed, r.broken...) {
		fmt.Fprintf(r.out, "  %s\n", f)
	}
	fmt.Fprintf(r.out, "\ntests: %d passed, %d failed, %d skipped, in %d packages\n", r.passed, len(r.failed), skipped, r.packages)
	return len(r.failed)+len(r.broken)+r.other == 0 && r.passed > 0
}

// unfinished reports tests whose process ended before they did.
func (r *report) unfinished() {
	for key, lines := range r.output {
		pkg, test, ok := strings.Cut(key, "\x00")
		if ok && test != "" {
			r.failed = append(r.failed, pkg+"."+test+" (did not end)")
			r.write(lines)
		}
	}
}

func (r *report) write(lines []string) {
	for _, l := range lines {
		io.WriteString(r.out, l)
	}
}

// closing picks the line of a package that go test prints without -v.
func closing(lines []string) []string {
	for _, l := range slices.Backward(lines) {
		if strings.HasPrefix(l, "ok ") || strings.HasPrefix(l, "FAIL\t") {
			return []string{l}
		}
	}
	return nil
}

// reason finds what a skipped test gave as its reason: its last line of output
// before the verdict, without the file and line.
func reason(lines []string) string {
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "---") || strings.HasPrefix(l, "===") {
			continue
		}
		if at, text, ok := strings.Cut(l, ": "); ok && strings.Contains(at, ".go:") {
			return text
		}
		return l
	}
	return "no reason given"
}
