//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/images"
	"bk.build/bk/layout"
)

// noContext is the context of a site that nothing is built in.
const noContext = "-- empty --\n"

// A peer is another program that moves images from registry to registry.
type peer struct {
	name    string
	program string
	// commands are what copies an image, with all its platforms.
	commands func(w *peerWorld, from, to string) [][]string
	// rewrites says that what it pushes has other digests than what it pulled.
	rewrites bool
	// cannot says which images it can't copy, and why.
	cannot map[string]string
}

// peers are all, with what their releases in Debian 12 and hack/peers cannot do.
func peers(t *testing.T) []peer {
	tool := func(name string) string { return filepath.Join(repository(t), ".cache", "tools", "bin", name) }
	const fetches = "it fetches the layer from its URL"
	return []peer{
		{
			name: "skopeo", program: "skopeo",
			commands: func(w *peerWorld, from, to string) [][]string {
				args := []string{"skopeo", "--insecure-policy", "copy", "-q", "--all", "--preserve-digests"}
				if w.plain {
					args = append(args, "--src-tls-verify=false", "--dest-tls-verify=false")
				}
				return [][]string{append(args, "docker://"+from, "docker://"+to)}
			},
			cannot: map[string]string{"nested": "it knows no index within an index"},
		},
		{
			name: "crane", program: tool("crane"),
			commands: func(_ *peerWorld, from, to string) [][]string { return [][]string{{tool("crane"), "copy", from, to}} },
		},
		{
			name: "oras", program: tool("oras"),
			commands: func(w *peerWorld, from, to string) [][]string {
				args := []string{tool("oras"), "copy", "--no-tty"}
				if w.plain {
					args = append(args, "--from-plain-http", "--to-plain-http")
				}
				return [][]string{append(args, from, to)}
			},
		},
		{
			name: "podman", program: "podman", commands: podmanCopy, rewrites: true,
			cannot: map[string]string{
				"artifact": "it knows images only", "referrer": "it knows images only", "foreign": fetches, "dockerforeign": fetches,
			},
		},
		{
			name: "containerd", program: "ctr", commands: ctrCopy,
			cannot: map[string]string{
				"artifact": "it unpacks what it pulls", "referrer": "it unpacks what it pulls", "foreign": fetches, "dockerforeign": fetches,
			},
		},
	}
}

// podmanCopy pulls this machine's platform into podman's storage and pushes it.
func podmanCopy(w *peerWorld, from, to string) [][]string {
	podman := []string{"podman", "--root", filepath.Join(w.dir, "podman"), "--runroot", filepath.Join(w.dir, "podman-run"), "--storage-driver", "vfs"}
	pull, push := slices.Concat(podman, []string{"pull", "-q"}), slices.Concat(podman, []string{"push", "-q"})
	if w.plain {
		pull, push = append(pull, "--tls-verify=false"), append(push, "--tls-verify=false")
	}
	return [][]string{append(pull, from), append(push, from, "docker://"+to)}
}

// ctrCopy pulls all platforms into a containerd of our own and pushes them.
func ctrCopy(w *peerWorld, from, to string) [][]string {
	flags := []string{"--plain-http"}
	if !w.plain {
		flags = []string{"--hosts-dir", w.hosts(from)}
	}
	if w.password != "" {
		flags = append(flags, "--user", w.password)
	}
	image := []string{"ctr", "-a", w.containerd(), "-n", "bk", "image"}
	return [][]string{
		slices.Concat(image, []string{"pull", "--all-platforms"}, flags, []string{from}),
		slices.Concat(image, []string{"push"}, flags, []string{to, from}),
	}
}

// peerWorld is what peers run in: their storage and configuration, apart from
// that of the machine.
type peerWorld struct {
	t         *testing.T
	dir       string
	plain     bool     // the registries speak plain HTTP
	authority string   // else: the file of who vouches for them
	password  string   // "user:password", for those that don't read config.json
	env       []string // also bk's
	socket    string   // of containerd
}

func newPeerWorld(t *testing.T) *peerWorld {
	t.Helper()
	dir, err := os.MkdirTemp("", "bk-peers-") // short, for the sake of sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600); err != nil { // podman misses it
		t.Fatal(err)
	}
	w := &peerWorld{t: t, dir: dir, plain: true}
	w.env = []string{
		"HOME=" + dir, "DOCKER_CONFIG=" + dir, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "config.json"), "XDG_RUNTIME_DIR=" + dir,
	}
	return w
}

// containerd returns the socket of a containerd, which it starts when it is
// asked first.
func (w *peerWorld) containerd() string {
	w.t.Helper()
	if w.socket != "" {
		return w.socket
	}
	need(w.t, "containerd", "ctr")
	if os.Geteuid() != 0 {
		w.t.Skip("containerd needs root")
	}
	w.socket = filepath.Join(w.dir, "containerd.sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		filepath.Join(w.dir, "containerd"), filepath.Join(w.dir, "containerd-state"), w.socket, w.socket+".ttrpc")
	name := filepath.Join(w.dir, "containerd.toml")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command("containerd", "--config", name, "--log-level", "error")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		for range 10 { // what it mounted goes before its directory
			left := mountsBelow(w.dir)
			for _, line := range left {
				if f := strings.Fields(line); len(f) > 5 {
					_ = syscall.Unmount(f[5], syscall.MNT_DETACH)
				}
			}
			if len(left) == 0 {
				break
			}
		}
	})
	for range 200 {
		if exec.Command("ctr", "-a", w.socket, "version").Run() == nil {
			return w.socket
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatalf("containerd does not start:\n%s", log.String())
	return ""
}

// hosts makes the configuration with which containerd doesn't take a registry on
// this machine for one without TLS, and trusts ours.
func (w *peerWorld) hosts(ref string) string {
	w.t.Helper()
	addr, _, _ := strings.Cut(ref, "/")
	dir := filepath.Join(w.dir, "hosts")
	text := fmt.Sprintf("server = \"https://%[1]s\"\n[host.\"https://%[1]s\"]\n  ca = %[2]q\n", addr, w.authority)
	if err := os.MkdirAll(filepath.Join(dir, addr), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, addr, "hosts.toml"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// run runs a peer's commands.
func (w *peerWorld) run(t *testing.T, commands [][]string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), w.env...)
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// with returns the site for a subtest.
func (s *site) with(t *testing.T) *site {
	other := *s
	other.t = t
	return &other
}

// there says why a peer does not run here, if so.
func (p peer) there() error {
	if _, err := exec.LookPath(p.program); err != nil {
		return fmt.Errorf("%s is not there: run hack/deps, or hack/tool %s", p.name, p.name)
	}
	if p.name == "containerd" || p.name == "podman" {
		if os.Geteuid() != 0 {
			return errors.New(p.name + " needs root")
		}
	}
	return nil
}

// corpus is a layout with one image of every kind.
func corpus(t *testing.T) (*layout.Dir, map[string]ocispecs.Descriptor) {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "corpus"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := images.Write(d)
	if err != nil {
		t.Fatal(err)
	}
	return d, made
}

// A copied image is valid in every byte. It is the one that was copied, or, when
// somebody on its way rewrites, has its content for some platform.
func (w *peerWorld) same(t *testing.T, path, ref string, src *layout.Dir, want ocispecs.Descriptor, rewritten bool) {
	t.Helper()
	d, err := layout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Validate(t.Context(), d, got); err != nil {
		t.Error(err)
	}
	if got.Digest == want.Digest {
		return
	}
	if !rewritten {
		t.Fatalf("digest %s, want %s", got.Digest, want.Digest)
	}
	ours, theirs := contents(t, src, want), contents(t, d, got)
	for _, c := range theirs {
		if !slices.Contains(ours, c) {
			t.Errorf("an image has the layers %s, want one of %q", c, ours)
		}
	}
}

// contents lists the diffIDs of each image that a descriptor leads to.
func contents(t *testing.T, d *layout.Dir, desc ocispecs.Descriptor) []string {
	t.Helper()
	list, err := layout.Images(desc, d.ReadBlob)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, i := range list {
		var m ocispecs.Manifest
		var c ocispecs.Image
		readDocument(t, d, i, &m)
		readDocument(t, d, m.Config, &c)
		all = append(all, fmt.Sprint(c.RootFS.DiffIDs))
	}
	return all
}
