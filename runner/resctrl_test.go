//go:build linux

package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// classDir makes a directory as the kernel fills a new class of service.
func classDir(t *testing.T, dir, schemata string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "mon_groups"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"schemata": schemata, "tasks": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A class of service that is there is joined when it is as the specification
// wants it; one without schemata is not made. (No kernel fills the directories
// here.)
func TestResctrl(t *testing.T) {
	root := t.TempDir()
	classDir(t, filepath.Join(root, "shared"), "    L3:0=ff\n    MB:0=50\n")
	for _, test := range []struct {
		name string
		want specs.LinuxIntelRdt
		err  string
	}{
		{"join", specs.LinuxIntelRdt{ClosID: "shared"}, ""},
		{"same", specs.LinuxIntelRdt{ClosID: "shared", L3CacheSchema: "L3:0=ff", MemBwSchema: "MB:0=50"}, ""},
		{"other", specs.LinuxIntelRdt{ClosID: "shared", Schemata: []string{"L3:0=f"}}, "without"},
		{"missing", specs.LinuxIntelRdt{ClosID: "missing"}, "not there"},
		{"not monitored", specs.LinuxIntelRdt{ClosID: "shared", EnableMonitoring: true}, "tasks"},
	} {
		r := resctrl{root: root, want: &test.want, id: "c1"}
		made, err := r.apply(42)
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", test.name, err, test.err)
		case len(made) > 0:
			t.Errorf("%s: made %q", test.name, made)
		}
	}
	tasks, err := os.ReadFile(filepath.Join(root, "shared", "tasks"))
	if err != nil || string(tasks) != "42\n42\n42\n" {
		t.Errorf("tasks %q, %v", tasks, err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Names that lead elsewhere, and contradictions, are refused.
func TestResctrlRefuses(t *testing.T) {
	for _, want := range []specs.LinuxIntelRdt{
		{ClosID: "../x"}, {ClosID: ".."}, {ClosID: "info"}, {ClosID: "a", Schemata: []string{"L3:0=f\nMB:0=1"}},
		{ClosID: "a", Schemata: []string{"L3:0=f"}, L3CacheSchema: "L3:0=f"},
	} {
		if err := (resctrl{root: t.TempDir(), want: &want, id: "c1"}).check(); err == nil {
			t.Errorf("%+v was taken", want)
		}
	}
	if err := (resctrl{root: t.TempDir(), want: &specs.LinuxIntelRdt{ClosID: "a"}}).check(); err != nil {
		t.Error(err)
	}
}
