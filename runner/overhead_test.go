//go:build linux

package runner

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"bk.build/bk/runner/child"
)

// BenchmarkTrue reports the container overhead: minimum and median of a step
// that does nothing.
func BenchmarkTrue(b *testing.B) {
	var times []time.Duration
	for b.Loop() {
		c := container(b, step("true"))
		start := time.Now()
		output(b, c)
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[0].Microseconds()), "min-µs")
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "median-µs")
}

// In a program with large dependencies the child runs before they are
// initialised: only packages of the standard library come first, those that
// need nothing or that syscall needs. The test binary is started as a child
// here, without a runner.
func TestInitOrder(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{child.Marker + "=1", "GODEBUG=inittrace=1"}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 125 || !strings.Contains(errs.String(), "is not a runner") {
		t.Fatalf("%v: %s", err, &errs)
	}
	late := regexp.MustCompile(`^([a-z0-9-]+\.[a-z]+/|(os|time|fmt|io/fs|reflect|regexp|testing|net|encoding/json)(/|$))`)
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) `).FindAllStringSubmatch(errs.String(), -1) {
		if late.MatchString(m[1]) {
			t.Errorf("package %s is initialised before the child takes over", m[1])
		}
	}
}

// BenchmarkStart is the time from execve to the child's first own system call,
// and the exit: what a step pays for being started by this program.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{child.Marker + "=1", "GOGC=off", "GOMAXPROCS=2"}
		if cmd.Run(); cmd.ProcessState.ExitCode() != 125 {
			b.Fatal(cmd.ProcessState)
		}
	}
}
