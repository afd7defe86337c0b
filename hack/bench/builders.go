//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A builder is measured by what its commands take, with its daemon if it has
// one. Between start and stop, its state lives on one volume.
type builder interface {
	name() string
	version() string
	start(ctx context.Context, vol string) error
	stop()
	commands(j *job) [][]string
	layout(j *job) string // where the output is
	daemon() int          // process that works for the commands, or 0
	isolates() bool       // steps run in containers
	needsHandler() bool   // the kernel must know how to run other platforms' programs
}

// A job is one build, or one move.
type job struct {
	*scenario
	context, dest, vol string
	registry, other    string // addresses
	repository         string // of this registry that nobody else uses
	from, to           place  // of a move
}

func newBuilders(ctx context.Context, f *flags, work string) ([]builder, error) {
	exe, err := exec.LookPath(f.bk)
	if err != nil {
		return nil, fmt.Errorf("bk: %w (run make build, or name it with -bk)", err)
	}
	if exe, err = filepath.Abs(exe); err != nil {
		return nil, err
	}
	tools, err := filepath.Abs(f.tools)
	if err != nil {
		return nil, err
	}
	all := []builder{
		&bk{exe: exe}, &isolated{bk{exe: exe}, "rootless", true}, &isolated{bk{exe: exe}, "single-id", true}, &isolated{bk{exe: exe}, "chroot", false},
	}
	for _, name := range f.peerNames() {
		if name == "buildah" {
			all = append(all, &buildah{})
			continue
		}
		all = append(all, &buildkitd{tools: tools})
	}
	if f.withKaniko {
		k, err := newKaniko(ctx, f.kaniko, filepath.Join(work, "kaniko"))
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return append(all, movers(tools)...), nil
}

// said returns the first line that a command prints, for a version.
func said(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// bk is the builder that this is about, with its defaults.
type bk struct{ exe string }

func (b *bk) name() string                        { return "bk" }
func (b *bk) version() string                     { return said(b.exe, "version") }
func (b *bk) start(context.Context, string) error { return nil }
func (b *bk) stop()                               {}
func (b *bk) daemon() int                         { return 0 }
func (b *bk) isolates() bool                      { return true }
func (b *bk) needsHandler() bool                  { return false }
func (b *bk) layout(j *job) string                { return j.dest }

func (b *bk) commands(j *job) [][]string {
	switch j.kind {
	case moves:
		return [][]string{{b.exe, "copy", "--root", filepath.Join(j.vol, "bk"), j.from.skopeo(), j.to.skopeo()}}
	case pushes:
		return [][]string{{
			b.exe, "build", "--root", filepath.Join(j.vol, "bk"), "--progress=rawjson", "--push", "-t", j.registry + "/" + j.repository, j.context,
		}}
	}
	args := []string{b.exe, "build", "--root", filepath.Join(j.vol, "bk"), "--progress=plain", "-o", ociOutput(j)}
	if j.platforms != "" {
		args = append(args, "--platform", j.platforms)
	}
	return [][]string{append(args, j.context)}
}

func ociOutput(j *job) string {
	o := "type=oci,tar=false,dest=" + j.dest
	if j.compression != "" {
		o += ",compression=" + j.compression
	}
	return o
}

// buildkitd is BuildKit's daemon with its OCI worker and runc. Its start is not
// measured.
type buildkitd struct {
	tools, addr string
	cmd         *exec.Cmd
}

func (d *buildkitd) name() string { return "buildkitd" }

func (d *buildkitd) version() string {
	version := "unknown version"
	if info, err := buildinfo.ReadFile(filepath.Join(d.tools, "buildkitd")); err == nil {
		version = info.Main.Version
	}
	return version + " with " + said("runc", "--version")
}

func (d *buildkitd) isolates() bool       { return true }
func (d *buildkitd) needsHandler() bool   { return true }
func (d *buildkitd) daemon() int          { return d.cmd.Process.Pid }
func (d *buildkitd) layout(j *job) string { return j.dest }

func (d *buildkitd) start(ctx context.Context, vol string) error {
	log, err := os.Create(filepath.Join(vol, "buildkitd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	sock := filepath.Join(vol, "buildkitd.sock")
	d.addr = "unix://" + sock
	d.cmd = exec.Command(filepath.Join(d.tools, "buildkitd"), "--root", filepath.Join(vol, "buildkitd"), "--addr", d.addr,
		"--containerd-worker=false", "--oci-worker-binary=runc", "--oci-worker-net=host", "--oci-worker-gc=false")
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Env = log, log, environment(vol)
	if err := d.cmd.Start(); err != nil {
		return err
	}
	if err := d.ready(ctx, sock); err != nil {
		d.stop()
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start buildkitd: %w\n%s", err, tail(string(text), 12))
	}
	return nil
}

// ready returns when the daemon answers.
func (d *buildkitd) ready(ctx context.Context, sock string) error {
	for range 300 {
		if conn, err := net.Dial("unix", sock); err == nil {
			conn.Close()
			return exec.CommandContext(ctx, filepath.Join(d.tools, "buildctl"), "--addr", d.addr, "debug", "workers").Run()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("it does not listen on " + sock)
}

func (d *buildkitd) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may be over
	kill := time.AfterFunc(20*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	_ = d.cmd.Wait()
}

func (d *buildkitd) commands(j *job) [][]string {
	progress, output := "plain", ociOutput(j)
	if j.kind == pushes {
		progress, output = "rawjson", "type=image,push=true,registry.insecure=true,name="+j.registry+"/"+j.repository
	}
	args := []string{filepath.Join(d.tools, "buildctl"), "--addr", d.addr, "build", "--progress=" + progress,
		"--frontend=dockerfile.v0", "--local", "context=" + j.context, "--local", "dockerfile=" + j.context,
		"--output", output}
	if j.platforms != "" {
		args = append(args, "--opt", "platform="+j.platforms)
	}
	return [][]string{args}
}

// buildah is Debian's, with layers cached as the others do, and with runc.
type buildah struct{}

func (b *buildah) name() string                        { return "buildah" }
func (b *buildah) version() string                     { return said("buildah", "--version") }
func (b *buildah) start(context.Context, string) error { return nil }
func (b *buildah) stop()                               {}
func (b *buildah) daemon() int                         { return 0 }
func (b *buildah) isolates() bool                      { return true }
func (b *buildah) needsHandler() bool                  { return true }
func (b *buildah) layout(j *job) string                { return j.dest }

func (b *buildah) commands(j *job) [][]string {
	global := []string{"buildah", "--root", filepath.Join(j.vol, "buildah"), "--runroot", filepath.Join(j.vol, "buildah-run"),
		"--storage-driver", "overlay"}
	build := append(global[:len(global):len(global)], "build", "--isolation", "oci", "--runtime", "runc", "--network", "host",
		"--layers", "--tls-verify=false", "--jobs", strconv.Itoa(max(1, j.jobs)))
	push := global[:len(global):len(global)]
	if j.platforms != "" {
		build = append(build, "--manifest", "bench", "--platform", j.platforms)
		push = append(push, "manifest", "push", "--all", "bench")
	} else {
		build = append(build, "-t", "bench")
		push = append(push, "push")
		if j.compression != "" {
			push = append(push, "--compression-format", j.compression)
		}
		push = append(push, "bench")
	}
	return [][]string{append(build, j.context), append(push, "oci:"+j.dest+":latest")}
}
