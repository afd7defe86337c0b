package host

import (
	"os"
	"path/filepath"
	"testing"

	"bk.build/bk/runner/userns"
)

// The range that is advised is nobody's.
func TestFreeRange(t *testing.T) {
	for text, want := range map[string]uint64{
		"":                                 100000,
		"a:100000:65536\nb:165536:65536\n": 231072,
		"a:500000:1\nb:100000:65536\n":     500001,
		"damaged\na:x:1\na:1\na:100000:65536:9\n": 100000,
	} {
		file := filepath.Join(t.TempDir(), "subuid")
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := freeRange(file, filepath.Join(t.TempDir(), "none")); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// A probe leaves nothing where the store is, and finds each thing only once.
func TestProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	r := Probe(Options{Store: filepath.Join(dir, "not", "there")})
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("left %v, %v", list, err)
	}
	seen := map[string]bool{}
	for _, c := range r.Checks {
		if seen[c.ID] || c.Title == "" {
			t.Errorf("check %+v", c)
		}
		seen[c.ID] = true
	}
	for _, m := range r.Modes {
		for _, id := range m.Missing {
			if !seen[id] {
				t.Errorf("%s needs %s, which is not checked", m.Isolation, id)
			}
		}
	}
}

// What a build is told of overlays agrees with what trying says.
func TestOverlay(t *testing.T) {
	if !Privileged() {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	data, err := overlayDirs(dir)
	if err != nil {
		t.Fatal(err)
	}
	tried := tryOverlay(dir, data)
	if got := Overlay(dir); got != (tried == nil) {
		t.Errorf("Overlay: %t, trying: %v", got, tried)
	}
	if Overlay("/proc") || Overlay(filepath.Join(dir, "none")) {
		t.Error("overlays in /proc, or nowhere")
	}
	if userns.Inside() && TrustedXattrs() {
		t.Error("trusted attributes in a user namespace")
	}
}
