//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"bk.build/bk/hack/registry"
)

// A builder builds a case into in.dest, an OCI layout, and returns all it
// printed.
type builder interface {
	build(ctx context.Context, in *input) (string, error)
}

// baseNames are the base images that cases build on.
var baseNames = []string{"busybox", "debian"}

// buildLimit is how long one build may take.
const buildLimit = 3 * time.Minute

// startRegistry serves the base images; both builders pull from it.
func (b *bench) startRegistry(ctx context.Context) error {
	dir := filepath.Join(b.work, "registry")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s, err := registry.Run(dir, registry.Options{})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, s.Stop)
	for _, name := range baseNames {
		layout := filepath.Join(b.flags.bases, name)
		if _, err := os.Stat(layout); err != nil {
			return fmt.Errorf("base %s: %w (run make bases)", name, err)
		}
		ref := s.Addr + "/" + name + ":latest"
		out, err := exec.CommandContext(ctx, filepath.Join(b.tools, "crane"), "push", "--index", layout, ref).CombinedOutput()
		if err != nil {
			return fmt.Errorf("push %s: %w\n%s", name, err, out)
		}
		b.bases[name] = "docker-image://" + ref
	}
	return nil
}

// buildkitd is the reference: BuildKit's own daemon with runc.
type buildkitd struct {
	tools, addr string
	noCache     bool
	cmd         *exec.Cmd
}

// startBuildkitd starts the daemon with its own state in dir.
func startBuildkitd(ctx context.Context, tools, dir string) (*buildkitd, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("buildkitd needs root here")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	sock := filepath.Join(dir, "sock")
	d := &buildkitd{tools: tools, addr: "unix://" + sock}
	d.cmd = exec.Command(filepath.Join(tools, "buildkitd"), "--root", filepath.Join(dir, "state"), "--addr", d.addr,
		"--containerd-worker=false", "--oci-worker-binary=runc", "--oci-worker-net=host", "--oci-worker-gc=false")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		if conn, err := net.Dial("unix", sock); err == nil {
			conn.Close()
			return d, nil
		}
		select {
		case <-ctx.Done():
			d.stop()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	d.stop()
	said, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("buildkitd does not listen on %s\n%s", sock, tail(string(said), 20))
}

func (d *buildkitd) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

func (d *buildkitd) build(ctx context.Context, in *input) (string, error) {
	dockerfile, err := withoutSyntax(in.context)
	if err != nil {
		return "", err
	}
	args := []string{"--addr", d.addr, "build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local", "context=" + in.context, "--local", "dockerfile=" + dockerfile,
		"--output", "type=oci,tar=false,dest=" + in.dest}
	opt := func(k, v string) {
		if v != "" {
			args = append(args, "--opt", k+"="+v)
		}
	}
	opt("target", in.target)
	opt("platform", in.platforms)
	for _, kv := range in.args {
		k, v, _ := strings.Cut(kv, "=")
		args = append(args, "--opt", "build-arg:"+k+"="+v)
	}
	for _, kv := range in.opts {
		args = append(args, "--opt", kv)
	}
	for name, where := range in.named {
		if strings.Contains(where, "://") {
			opt("context:"+name, where)
			continue
		}
		opt("context:"+name, "local:"+name)
		args = append(args, "--local", name+"="+where)
	}
	if d.noCache {
		args = append(args, "--no-cache")
	}
	args = append(args, in.grants()...)
	return command(ctx, nil, filepath.Join(d.tools, "buildctl"), nil, args...)
}

// grants are the flags for secrets and ssh, which both builders spell alike.
func (in *input) grants() []string {
	var args []string
	for id, file := range in.secrets {
		args = append(args, "--secret", "id="+id+",src="+file)
	}
	if in.sshKey != "" {
		args = append(args, "--ssh", "default="+in.sshKey)
	}
	return args
}

// withoutSyntax returns the directory of the Dockerfile for buildkitd: the
// context, or a copy when the Dockerfile has a syntax line, for which buildkitd
// would pull the frontend's image.
func withoutSyntax(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil || !bytes.HasPrefix(data, []byte("# syntax=")) {
		return dir, nil
	}
	other := dir + "-dockerfile"
	if err := os.MkdirAll(other, 0o755); err != nil {
		return "", err
	}
	data = append([]byte("# was: "), data[2:]...)
	return other, os.WriteFile(filepath.Join(other, "Dockerfile"), data, 0o644)
}

// bk is the builder to judge.
type bk struct {
	exe, root string
	isolation string          // of --isolation; empty: what bk chooses
	become    func(*exec.Cmd) // makes the command another user's; nil: not
}

func (b *bk) build(ctx context.Context, in *input) (string, error) {
	args := []string{"build", "--progress=plain", "-o", "type=oci,tar=false,dest=" + in.dest}
	if in.target != "" {
		args = append(args, "--target", in.target)
	}
	if in.platforms != "" {
		args = append(args, "--platform", in.platforms)
	}
	for _, kv := range in.args {
		args = append(args, "--build-arg", kv)
	}
	for _, kv := range in.opts {
		flag, err := optionFlag(kv)
		if err != nil {
			return "", err
		}
		args = append(args, flag...)
	}
	for name, where := range in.named {
		args = append(args, "--build-context", name+"="+where)
	}
	args = append(args, in.grants()...)
	if b.isolation != "" {
		args = append(args, "--isolation", b.isolation)
	}
	args = append(args, "-f", filepath.Join(in.context, "Dockerfile"), in.context)
	return command(ctx, b.become, b.exe, []string{"BK_ROOT=" + b.root}, args...)
}

// optionFlag spells a frontend option as a flag of bk.
func optionFlag(kv string) ([]string, error) {
	k, v, _ := strings.Cut(kv, "=")
	if label, ok := strings.CutPrefix(k, "label:"); ok {
		return []string{"--label", label + "=" + v}, nil
	}
	switch k {
	case "add-hosts":
		return []string{"--add-host", v}, nil
	case "force-network-mode":
		return []string{"--network", v}, nil
	case "shm-size":
		return []string{"--shm-size", v}, nil
	case "ulimit":
		return []string{"--ulimit", v}, nil
	case "hostname":
		return []string{"--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=" + v}, nil
	}
	return nil, fmt.Errorf("no flag of bk is known for the option %s", k)
}

func command(ctx context.Context, become func(*exec.Cmd), exe string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = slices.Concat(os.Environ(), env)
	cmd.WaitDelay = 5 * time.Second
	if become != nil {
		become(cmd)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}
