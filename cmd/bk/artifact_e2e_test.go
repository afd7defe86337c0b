//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/registry"
)

// registries are real servers: with the API for referrers, and without.
var registries = map[string]func(*testing.T) string{
	"distribution": func(t *testing.T) string { return registry.Start(t) },
	"ggcr": func(t *testing.T) string {
		s := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	},
}

// peer runs a program beside bk, in the site, and skips the test when it is not
// there. Pinned ones are built by hack/tool.
func (s *site) peer(name string, args ...string) string {
	s.t.Helper()
	exe, err := filepath.Abs(filepath.Join("../../.cache/tools/bin", name))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := os.Stat(exe); err != nil {
		if exe, err = exec.LookPath(name); err != nil {
			s.t.Skipf("no %s: hack/tool %s builds it, if it is a pinned one", name, name)
		}
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "HOME="+s.path("home"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// prints returns what bk prints; it must not fail.
func (s *site) prints(args ...string) string {
	s.t.Helper()
	return s.must(args...).stdout
}

// wantFile compares a file of the context.
func (s *site) wantFile(name, want string) {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil || string(b) != want {
		s.t.Errorf("%s = %q, %v; want %q", name, b, err, want)
	}
}

// Oras pulls and discovers what bk pushes and attaches, and bk what oras does, in
// registries with and without the API for referrers.
func TestArtifactOras(t *testing.T) {
	for name, start := range registries {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "-- a.txt --\na\n-- conf/sub/x --\nx\n")
			host := start(t)
			ours, theirs := host+"/t/ours:v1", host+"/t/theirs:v1"

			s.prints("artifact", "push", "-q", ours, "a.txt:text/plain", "conf")
			_, attached, _ := strings.Cut(strings.TrimSpace(s.prints("artifact", "attach", "-q", "--artifact-type", "application/sbom", ours, "a.txt")), "@")
			s.peer("oras", "pull", "--plain-http", "-o", "got-oras", ours)
			s.wantFile("got-oras/conf/sub/x", "x\n")
			if got := s.peer("oras", "discover", "--plain-http", ours); !strings.Contains(got, attached) { // ggcr's server reports a wrong type
				t.Errorf("oras discovers:\n%s\nwant %s", got, attached)
			}

			s.peer("oras", "push", "--plain-http", theirs, "a.txt:text/plain", "conf")
			s.peer("oras", "attach", "--plain-http", "--artifact-type", "application/sig", theirs, "a.txt")
			s.peer("oras", "attach", "--plain-http", "--artifact-type", "application/sig2", theirs, "a.txt")
			s.prints("artifact", "pull", "-o", "got-bk", theirs)
			s.wantFile("got-bk/a.txt", "a\n")
			s.wantFile("got-bk/conf/sub/x", "x\n")
			got := s.prints("artifact", "discover", theirs)
			for _, want := range []string{"referrer application/sig ", "referrer application/sig2 "} {
				if !strings.Contains(got, want) {
					t.Errorf("bk discovers:\n%s\nwant %q", got, want)
				}
			}
			if got := s.prints("artifact", "discover", "--artifact-type", "application/sig2", theirs); strings.Contains(got, "application/sig ") {
				t.Errorf("discover of one type:\n%s", got)
			}
		})
	}
}

// Helm pulls and shows a chart that bk has pushed, byte for byte, and bk pulls
// one that Helm has pushed; both write the same config.
func TestArtifactHelm(t *testing.T) {
	s := newSite(t, "-- web/Chart.yaml --\napiVersion: v2\nname: web\nversion: 1.2.3+b7\ndescription: d\nmaintainers: [{name: a, email: a@example.com}]\n-- web/values.yaml --\n{}\n")
	host := registry.Start(t)
	s.peer("helm", "package", "web")
	const chart = "web-1.2.3+b7.tgz"
	want, err := os.ReadFile(filepath.Join(s.dir, chart))
	if err != nil {
		t.Fatal(err)
	}

	s.prints("artifact", "push", "-q", "--type", "helm", "oci://"+host+"/ours", chart)
	if got := s.prints("registry", "tags", host+"/ours/web"); got != "1.2.3_b7\n" {
		t.Errorf("tags %q", got)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "got"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.peer("helm", "pull", "--plain-http", "oci://"+host+"/ours/web", "--version", "1.2.3+b7", "-d", "got")
	s.wantFile("got/"+chart, string(want))
	if got := s.peer("helm", "show", "chart", "--plain-http", "oci://"+host+"/ours/web", "--version", "1.2.3+b7"); !strings.Contains(got, "version: 1.2.3+b7") {
		t.Errorf("helm shows:\n%s", got)
	}

	s.peer("helm", "push", "--plain-http", chart, "oci://"+host+"/theirs")
	s.prints("artifact", "pull", "-o", "back", "oci://"+host+"/theirs/web:1.2.3_b7")
	s.wantFile("back/"+chart, string(want))
	var manifests [2]ocispecs.Manifest
	for i, repo := range []string{"ours", "theirs"} {
		if err := json.Unmarshal([]byte(s.peer("crane", "manifest", host+"/"+repo+"/web:1.2.3_b7")), &manifests[i]); err != nil {
			t.Fatal(err)
		}
		delete(manifests[i].Annotations, ocispecs.AnnotationCreated)
	}
	a, b := manifests[0], manifests[1]
	if a.Config.Digest != b.Config.Digest || a.Layers[0].Digest != b.Layers[0].Digest || fmt.Sprint(a.Annotations) != fmt.Sprint(b.Annotations) {
		t.Errorf("bk's manifest %+v, Helm's %+v", a, b)
	}
}

// An index of images from other repositories is whole for crane and skopeo, and
// its blobs were mounted and not read.
func TestManifestRegistry(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n")
	w := newWatchedRegistry(t, registry.Options{})
	list := w.host + "/t/list:v1"
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		s.prints("build", "--platform", "linux/"+arch, "-t", w.host+"/t/"+arch, "--push", ".")
	}
	w.forget()
	s.prints("manifest", "create", "-q", list, w.host+"/t/amd64", w.host+"/t/arm64")
	s.prints("manifest", "add", "-q", list, w.host+"/t/riscv64")
	if n := w.seen("GET", "/blobs/", "t/list"); n > 0 {
		t.Errorf("%d blobs were read", n)
	}
	if n := w.seen("POST", "mount=", " 201"); n != 6 { // a config and a layer each
		t.Errorf("%d blobs were mounted, want 6", n)
	}
	s.peer("crane", "validate", "--remote", list)
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		got := s.peer("skopeo", "inspect", "--tls-verify=false", "--override-arch", arch, "--format", "{{.Architecture}}", "docker://"+list)
		if strings.TrimSpace(got) != arch {
			t.Errorf("skopeo selects %q, want %s", got, arch)
		}
	}
	s.prints("manifest", "rm", "-q", list, "linux/arm64")
	if got := s.peer("crane", "manifest", list); strings.Contains(got, "arm64") {
		t.Errorf("after rm:\n%s", got)
	}
}

// A mirror costs a request or two for what is there, takes referrers along, and
// goes through a layout to another registry.
func TestSyncRegistries(t *testing.T) {
	s := newSite(t, "-- a.txt --\na\n-- b.txt --\nb\n")
	w := newWatchedRegistry(t, registry.Options{})
	for _, tag := range []string{"1.0", "1.1", "2.0"} {
		s.prints("artifact", "push", "-q", w.host+"/t/app:"+tag, "a.txt", "--annotation", "tag="+tag)
	}
	s.prints("artifact", "attach", "-q", "--artifact-type", "application/sbom", w.host+"/t/app:1.1", "b.txt")
	s.write(fmt.Sprintf("-- list.yaml --\ndestination: %s/mirror\nimages: [{source: %s/t/app, semver: '<2', referrers: true}]\n", w.host, w.host))

	dry := s.prints("registry", "sync", "--dry-run", "list.yaml")
	if n := w.seen("PUT") + w.seen("POST"); strings.Count(dry, "copy ") != 2 || n != w.seen("PUT", "/t/app/")+w.seen("POST", "/t/app/") {
		t.Errorf("dry run wrote, or printed:\n%s", dry)
	}
	if got := s.prints("registry", "sync", "list.yaml"); strings.Count(got, "copied ") != 2 {
		t.Errorf("sync printed:\n%s", got)
	}
	if got := s.prints("artifact", "discover", w.host+"/mirror/t/app:1.1"); !strings.Contains(got, "application/sbom") {
		t.Errorf("the mirror's referrers:\n%s", got)
	}
	s.write(fmt.Sprintf("-- plain.yaml --\ndestination: %s/mirror\nimages: [{source: %s/t/app, tags: ['1.*']}]\n", w.host, w.host))
	w.forget()
	if got := s.prints("registry", "sync", "plain.yaml"); got != "" {
		t.Errorf("sync of what is there printed:\n%s", got)
	}
	if n := w.seen("GET", "/manifests/") + w.seen("GET", "/blobs/") + w.seen("PUT") + w.seen("POST"); n > 0 {
		t.Errorf("sync of what is there sent more than HEAD: %d requests of\n%s", n, strings.Join(w.requests, "\n"))
	}

	other := registry.Start(t)
	s.write(fmt.Sprintf("-- out.yaml --\ndestination: oci:usb\nimages: [{source: %s/t/app, tags: ['1.*'], referrers: true}]\n"+
		"-- in.yaml --\ndestination: %s/in\nimages: [{source: 'oci:usb', tags: ['*'], referrers: true}]\n", w.host, other))
	s.prints("registry", "sync", "out.yaml")
	s.prints("registry", "sync", "in.yaml")
	if got := s.prints("artifact", "discover", other+"/in/t/app:1.1"); !strings.Contains(got, "application/sbom") {
		t.Errorf("referrers at the end of the way:\n%s", got)
	}
	if got := s.prints("registry", "ls", other); got != other+"/in/t/app\n" {
		t.Errorf("ls: %q", got)
	}
}
