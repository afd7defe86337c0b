//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// kaniko unpacks images over the root directory and runs steps there, without
// isolation, so it runs with a throw-away root on the volume.
type kaniko struct{ exe, vol string }

// kanikoModule is the pinned source of the executor.
const kanikoModule = "github.com/GoogleContainerTools/kaniko/cmd/executor@v1.24.0"

// newKaniko returns the executor, which it builds when it isn't there, as a tool
// of a throw-away module in dir.
func newKaniko(ctx context.Context, path, dir string) (*kaniko, error) {
	exe, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(exe); err == nil {
		return &kaniko{exe: exe}, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	pkg, _, _ := strings.Cut(kanikoModule, "@")
	for _, args := range [][]string{
		{"mod", "init", "throwaway"},
		{"get", "-tool", kanikoModule},
		{"build", "-trimpath", "-ldflags", "-s -w", "-o", exe, pkg},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build kaniko: %w\n%s", err, tail(string(out), 12))
		}
	}
	return &kaniko{exe: exe}, nil
}

func (k *kaniko) name() string { return "kaniko" }
func (k *kaniko) version() string {
	return kanikoModule[strings.IndexByte(kanikoModule, '@')+1:]
}
func (k *kaniko) stop()                {}
func (k *kaniko) daemon() int          { return 0 }
func (k *kaniko) isolates() bool       { return false }
func (k *kaniko) needsHandler() bool   { return true }
func (k *kaniko) layout(j *job) string { return filepath.Join(k.root(), "kaniko/out") }

func (k *kaniko) root() string { return filepath.Join(k.vol, "root") }

// start makes the root: kaniko's own directory, and the kernel's file systems.
func (k *kaniko) start(_ context.Context, vol string) error {
	k.vol = vol
	for _, dir := range []string{"kaniko", "proc", "dev", "tmp", "workspace"} {
		if err := os.MkdirAll(filepath.Join(k.root(), dir), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(k.exe, filepath.Join(k.root(), "kaniko/executor")); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev"} {
		if err := syscall.Mount("/"+dir, filepath.Join(k.root(), dir), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("mount /%s for kaniko: %w", dir, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// commands puts the context where kaniko sees it; the scenarios that it takes
// part in have a Dockerfile only.
func (k *kaniko) commands(j *job) [][]string {
	dir := filepath.Join(k.root(), "workspace")
	if err := copyFile(filepath.Join(j.context, "Dockerfile"), filepath.Join(dir, "Dockerfile")); err != nil {
		return [][]string{{"kaniko: " + err.Error()}}
	}
	return [][]string{{"chroot", k.root(), "/kaniko/executor", "--force", "--context", "dir:///workspace", "--dockerfile", "/workspace/Dockerfile",
		"--no-push", "--oci-layout-path", "/kaniko/out", "--destination", "bench", "--insecure-pull", "--insecure"}}
}
