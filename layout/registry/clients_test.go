package registry

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/images"
	"bk.build/bk/layout"
)

// A mirror is two of our registries: one with images of every kind, which other
// programs read, and an empty one that they write to.
type mirror struct {
	t        *testing.T
	src, dst *Registry
	from, to string // HOST:PORT/images/ and HOST:PORT/copy
	made     map[string]ocispec.Descriptor
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{t: t, src: newRegistry(t, Options{}), dst: newRegistry(t, Options{})}
	var err error
	if m.made, err = images.Write(m.src.dir); err != nil {
		t.Fatal(err)
	}
	m.from = startServer(t, m.src).Listener.Addr().String() + "/images"
	m.to = startServer(t, m.dst).Listener.Addr().String() + "/copy"
	return m
}

// arrived checks that an image is at the destination, with all its parts.
func (m *mirror) arrived(name string) {
	m.t.Helper()
	c := client{m.t, m.dst}
	rec := c.do("GET", "/v2/copy/manifests/"+name, "")
	want := m.made[name]
	if rec.Code != http.StatusOK || rec.Header().Get("Docker-Content-Digest") != want.Digest.String() || rec.Header().Get("Content-Type") != want.MediaType {
		m.t.Errorf("%s: %d %v, want %s", name, rec.Code, rec.Header(), want.Digest)
		return
	}
	blobs, err := m.dst.dir.Closure(want)
	if err != nil {
		m.t.Errorf("%s: %v", name, err)
	}
	for _, b := range blobs {
		if !m.dst.dir.HasDescriptor(b) && !layout.IsForeign(b.MediaType) {
			m.t.Errorf("%s: %s %s has not arrived", name, b.MediaType, b.Digest)
		}
	}
}

// run runs a program, which must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_RUNTIME_DIR="+t.TempDir(), "CONTAINERD_ADDRESS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// program skips a test when a program is not installed.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: run hack/deps", name)
	}
	return path
}

// skopeo reads and writes images of every kind.
func TestSkopeo(t *testing.T) {
	skopeo := program(t, "skopeo")
	m := newMirror(t)
	for _, name := range []string{"oci", "index", "docker", "list", "zstd", "plain", "foreign", "dockerforeign"} {
		run(t, skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
			"docker://"+m.from+":"+name, "docker://"+m.to+":"+name)
		m.arrived(name)
	}
	out := run(t, skopeo, "list-tags", "--tls-verify=false", "docker://"+m.to)
	if !strings.Contains(out, `"dockerforeign"`) {
		t.Errorf("list-tags: %s", out)
	}
	run(t, skopeo, "inspect", "--tls-verify=false", "docker://"+m.to+":oci")
	run(t, skopeo, "delete", "--tls-verify=false", "docker://"+m.to+":oci")
	client{t, m.dst}.want(http.StatusNotFound, "GET", "/v2/copy/manifests/oci", "")
}

// crane reads and writes images of every kind.
func TestCrane(t *testing.T) {
	crane := tool(t, "crane")
	m := newMirror(t)
	for _, name := range images.Names {
		if name == "foreign" || name == "dockerforeign" {
			continue // crane wants to fetch their layers
		}
		run(t, crane, "copy", "--insecure", m.from+":"+name, m.to+":"+name)
		m.arrived(name)
	}
	run(t, crane, "validate", "--insecure", "--remote", m.to+":oci")
	if out := run(t, crane, "ls", "--insecure", m.to); !strings.Contains(out, "nested") {
		t.Errorf("ls: %s", out)
	}
	if out := run(t, crane, "catalog", "--insecure", strings.TrimSuffix(m.to, "/copy")); out != "copy\n" {
		t.Errorf("catalog: %s", out)
	}
	run(t, crane, "tag", "--insecure", m.to+":oci", "again")
	run(t, crane, "delete", "--insecure", m.to+":again")
}

// oras copies images with what refers to them, attaches and discovers.
func TestOras(t *testing.T) {
	oras := tool(t, "oras")
	m := newMirror(t)
	for _, name := range images.Names {
		if name == "foreign" || name == "dockerforeign" {
			continue // oras wants to fetch their layers
		}
		run(t, oras, "cp", "-r", "--from-plain-http", "--to-plain-http", m.from+":"+name, m.to+":"+name)
		m.arrived(name)
	}
	index := decode[ocispec.Index](t, client{t, m.dst}.want(http.StatusOK, "GET", "/v2/copy/referrers/"+m.made["oci"].Digest.String(), ""))
	if len(index.Manifests) != 1 || index.Manifests[0].Digest != m.made["referrer"].Digest {
		t.Errorf("referrers %v", index.Manifests)
	}
	file := filepath.Join(t.TempDir(), "note.txt")
	if err := os.WriteFile(file, []byte("note"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, oras, "attach", "--plain-http", "--disable-path-validation", "--artifact-type", "text/note", m.to+":oci", file)
	if out := run(t, oras, "discover", "--plain-http", "--format", "json", m.to+":oci"); !strings.Contains(out, "text/note") || !strings.Contains(out, images.ArtifactType) {
		t.Errorf("discover: %s", out)
	}
	for _, d := range []string{"text/note", images.ArtifactType} {
		if out := run(t, oras, "discover", "--plain-http", "--artifact-type", d, "--format", "json", m.to+":oci"); strings.Count(out, "artifactType") != 1 {
			t.Errorf("discover %s: %s", d, out)
		}
	}
	run(t, oras, "manifest", "delete", "--plain-http", "--force", m.to+":artifact")
}

// podman pulls, tags and pushes.
func TestPodman(t *testing.T) {
	podman := program(t, "podman")
	if os.Geteuid() != 0 {
		t.Skip("podman's storage needs root here")
	}
	m := newMirror(t)
	dir := t.TempDir()
	storage := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	for _, name := range []string{"oci", "docker", "zstd", "plain"} {
		run(t, podman, append(storage, "pull", "-q", "--tls-verify=false", m.from+":"+name)...)
		run(t, podman, append(storage, "push", "-q", "--tls-verify=false", m.from+":"+name, m.to+":"+name)...)
		client{t, m.dst}.want(http.StatusOK, "GET", "/v2/copy/manifests/"+name, "")
		run(t, podman, append(storage, "pull", "-q", "--tls-verify=false", m.to+":"+name)...)
	}
}

// containerd pulls images, with those of other platforms, and pushes them.
func TestContainerd(t *testing.T) {
	daemon, ctr := program(t, "containerd"), program(t, "ctr")
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	m := newMirror(t)
	address := startContainerd(t, daemon)
	for _, name := range []string{"oci", "index", "docker", "list", "plain", "zstd"} {
		run(t, ctr, "-a", address, "content", "fetch", "--plain-http", "--all-platforms", m.from+":"+name)
		run(t, ctr, "-a", address, "images", "tag", m.from+":"+name, m.to+":"+name)
		run(t, ctr, "-a", address, "images", "push", "--plain-http", m.to+":"+name)
		m.arrived(name)
	}
}

// startContainerd starts a daemon with its state in a directory of the test.
func startContainerd(t *testing.T, daemon string) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctrd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	address = filepath.Join(dir, "sock")
	config := filepath.Join(dir, "config.toml")
	text := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n" +
		"[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"" + filepath.Join(dir, "opt") + "\"\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "-c", config, "-a", address, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(address); !errors.Is(err, fs.ErrNotExist) {
			return address
		}
	}
	t.Fatal("containerd has not started")
	return ""
}
