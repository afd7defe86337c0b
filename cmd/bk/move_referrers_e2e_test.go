//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bk.build/bk/hack/images"
)

// What refers to an image travels with it, through registries with the referrers
// API and without, and is the same for bk and oras, whoever attached it.
func TestMoveReferrers(t *testing.T) {
	oras := filepath.Join(repository(t), ".cache", "tools", "bin", "oras")
	if _, err := exec.LookPath(oras); err != nil {
		t.Skip("oras is not there: run hack/tool oras")
	}
	src, made := corpus(t)
	for _, name := range []string{"distribution", "referrers", "bk"} {
		t.Run(name, func(t *testing.T) {
			addr := moveServers[name](t).addr
			w := newPeerWorld(t)
			s := newSite(t, noContext)
			s.env = w.env
			ref := addr + "/app:v1"
			s.must("copy", "-q", "--referrers", "oci:"+src.Path()+":oci", ref)
			if got := orasDiscover(t, w, oras, ref); !slices.Contains(got, made["referrer"].Digest.String()) {
				t.Errorf("oras finds %q, not what bk brought along", got)
			}
			note := filepath.Join(w.dir, "note.txt")
			if err := os.WriteFile(note, []byte("a note\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			attach := []string{oras, "attach", "--plain-http", "--no-tty", "--disable-path-validation", "--artifact-type", "application/vnd.example.note", ref, note + ":text/plain"}
			if err := w.run(t, [][]string{attach}); err != nil {
				t.Fatal(err)
			}
			want := orasDiscover(t, w, oras, ref)
			if len(want) != 2 {
				t.Fatalf("oras finds %q, want two", want)
			}
			out := "oci:" + s.path("out") + ":v1"
			s.must("copy", "-q", "--referrers", ref, addr+"/mirror:v1")
			s.must("copy", "-q", "--referrers", addr+"/mirror:v1", out)
			for _, place := range []string{ref, addr + "/mirror:v1", out} {
				said := s.must("artifact", "discover", "--format", "json", place).stdout
				for _, dgst := range want {
					if !strings.Contains(said, dgst) {
						t.Errorf("bk artifact discover %s lacks %s:\n%s", place, dgst, said)
					}
				}
				if !strings.Contains(said, images.ArtifactType) || !strings.Contains(said, "application/vnd.example.note") {
					t.Errorf("bk artifact discover %s lacks the artifact types:\n%s", place, said)
				}
			}
			if got := orasDiscover(t, w, oras, addr+"/mirror:v1"); !slices.Equal(got, want) {
				t.Errorf("oras finds %q in the mirror, want %q", got, want)
			}
			whole(t, s.path("out"), "v1", made["oci"])
		})
	}
}

// orasDiscover returns the digests of what refers to an image, sorted.
func orasDiscover(t *testing.T, w *peerWorld, oras, ref string) []string {
	t.Helper()
	cmd := exec.Command(oras, "discover", "--plain-http", "--format", "json", "--depth", "1", ref)
	cmd.Env = append(os.Environ(), w.env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oras discover %s: %v", ref, err)
	}
	var answer struct {
		Referrers []struct {
			Digest string `json:"digest"`
		} `json:"referrers"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("oras discover %s: %v\n%s", ref, err, out)
	}
	var list []string
	for _, r := range answer.Referrers {
		list = append(list, r.Digest)
	}
	slices.Sort(list)
	return list
}
