package main

import (
	"strings"
	"testing"
)

// The report must fail whenever something failed, did not compile or did not
// run at all, and must name what was skipped with the reason the test gave.
func TestReport(t *testing.T) {
	tests := []struct {
		name, stream string
		ok           bool
		want         []string
	}{
		{"pass", `
{"Action":"output","Package":"p","Test":"A","Output":"=== RUN A\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}`, true, []string{"ok  \tp\t0.1s", "1 passed, 0 failed, 0 skipped"}},
		{"skip", `
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:7: needs root: run as root\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p"}`, true, []string{"  needs root: run as root\n      p.B\n", "1 skipped"}},
		{"fail", `
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:1: want 1\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}`, false, []string{"want 1", "FAIL\tp\t0.1s", "  p.A\n"}},
		{"build", `
{"Action":"pass","Package":"q","Test":"A"}
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:1: undefined: x\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, false, []string{"undefined: x", "[build failed]"}},
		{"crash", `
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"panic: boom\n"}`, false, []string{"panic: boom", "p.B (did not end)"}},
		{"nothing", ``, false, []string{"0 passed"}},
		{"not events", "go: no such module\n{\"Action\":\"pass\",\"Package\":\"p\",\"Test\":\"A\"}", false, []string{"no such module"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(strings.TrimPrefix(tt.stream, "\n"))); err != nil {
				t.Fatal(err)
			}
			if got := r.summary(); got != tt.ok {
				t.Errorf("ok = %v, want %v", got, tt.ok)
			}
			for _, w := range tt.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("output lacks %q:\n%s", w, out.String())
				}
			}
		})
	}
}
