package artifact

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// oras runs the pinned oras in dir, and skips the test when it was not built.
func oras(t *testing.T, dir string, args ...string) string {
	t.Helper()
	exe, err := filepath.Abs(filepath.Join(testdata, "../../../.cache/tools/bin/oras"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(exe); err != nil {
		t.Skipf("no oras at %s: run hack/tool oras", exe)
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oras %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// pushLayout packs an artifact into an OCI layout.
func pushLayout(ctx context.Context, t *testing.T, path string, spec Spec, name string) *Packed {
	t.Helper()
	d, err := layout.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Pack(ctx, spec, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := transfer.Copy(ctx, transfer.Layout(d), p, p.Desc, []string{name}, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	return p
}

// Oras reads what we write, and we read what oras writes: files, directories,
// titles, media types, annotations, and who refers to whom.
func TestOras(t *testing.T) {
	want := tree{"a.txt": "a", "conf/app.json": "{}", "conf/sub/x": "x", "conf/link": "-> sub/x"}
	src := want.write(t, t.TempDir())

	ours := filepath.Join(t.TempDir(), "ours")
	spec := Spec{ArtifactType: "application/example", Files: parseFiles(t, src, "a.txt:text/plain", "conf")}
	p := pushLayout(t.Context(), t, ours, spec, "v1")
	out := t.TempDir()
	oras(t, src, "pull", "--oci-layout", ours+":v1", "-o", out)
	if diff := cmp.Diff(want, readTree(t, out)); diff != "" {
		t.Errorf("oras pulled (-want +got):\n%s", diff)
	}
	pushLayout(t.Context(), t, ours, Spec{ArtifactType: "application/sbom", Files: parseFiles(t, src, "a.txt"), Subject: &p.Desc}, "")
	if got := oras(t, src, "discover", "--oci-layout", ours+":v1"); !strings.Contains(got, "application/sbom") {
		t.Errorf("oras discovers:\n%s", got)
	}

	theirs := filepath.Join(t.TempDir(), "theirs")
	oras(t, src, "push", "--oci-layout", theirs+":v1", "--artifact-type", "application/example", "a.txt:text/plain", "conf")
	oras(t, src, "attach", "--oci-layout", theirs+":v1", "--artifact-type", "application/sig", "a.txt")
	d, err := layout.Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	place := transfer.Layout(d)
	desc, err := place.Resolve(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	out = t.TempDir()
	if _, err := Pull(t.Context(), place, desc, out, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readTree(t, out)); diff != "" {
		t.Errorf("pulled of oras's (-want +got):\n%s", diff)
	}
	root, err := Discover(t.Context(), place, desc)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := outline(root), "root \n  referrer application/sig\n"; !strings.HasPrefix(got, "root ") || !strings.HasSuffix(got, want[5:]) {
		t.Errorf("Discover of oras's = %q, want %q", got, want)
	}
}
