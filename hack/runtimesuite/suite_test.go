//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestSuite is the rule that bk passes every test of the specification's suite
// that runc passes; testdata/runc.txt says which.
func TestSuite(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, and is not short")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not installed: the machine is not prepared for runtimes")
	}
	passed, err := readColumn("testdata/runc.txt")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSuite(t.Context(), "../..", regexp.MustCompile("."))
	if err != nil {
		t.Skip("the suite can't be built: ", err)
	}
	bk := filepath.Join(t.TempDir(), "bk")
	if _, err := goTool(t.Context(), "../..", "build", "-o", bk, "./cmd/bk"); err != nil {
		t.Fatal(err)
	}
	all := s.tests
	s.tests = nil
	for _, test := range all {
		if passed[test] && test != notRun {
			s.tests = append(s.tests, test)
		}
	}
	if len(s.tests) == 0 {
		t.Fatal("no test is recorded as one that runc passes")
	}
	outcomes, err := s.column(t.Context(), "bk", bk, 8)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range s.tests {
		if o := outcomes[test]; !o.passed() {
			t.Errorf("%s: runc passes, bk has %s\n%s", test, o, o.output)
		}
	}
}

// The columns count assertions of the suite, not output of what it runs.
func TestCount(t *testing.T) {
	ok, notOK := count("TAP version 13\nok 1 - a\nnot ok 2 - b\n  not ok 3 - inside\nok 4 # SKIP c\nnot ok 5 - d # TODO later\n1..4\n")
	if ok != 3 || notOK != 1 {
		t.Errorf("%d ok, %d not ok, want 3 and 1", ok, notOK)
	}
}

// A recorded result is passed only when nothing stands behind its counts.
func TestColumn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "column")
	in := map[string]outcome{
		"good": {ok: 3}, "bad": {ok: 3, notOK: 1}, "dead": {ok: 3, err: os.ErrInvalid}, "said": {output: `"error": "x"`}, "quiet": {},
	}
	if err := writeColumn(file, in); err != nil {
		t.Fatal(err)
	}
	got, err := readColumn(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range in {
		if got[name] != o.passed() {
			t.Errorf("%s: recorded as passed: %v, want %v", name, got[name], o.passed())
		}
	}
}
