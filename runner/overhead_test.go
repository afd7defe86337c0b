//go:build linux

package runner

import (
	"slices"
	"testing"
	"time"
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
