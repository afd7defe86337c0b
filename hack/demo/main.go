// Command demo builds a program for two platforms with bk, and runs both from
// the image that comes out.
//
//	demo BK BASES OUT
//
// BK is the bk binary, BASES the directory of the base images' OCI layouts; the
// image becomes the OCI layout OUT/image.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner/emulate"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: demo BK BASES OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// arches are what the demo builds for.
var arches = []string{"amd64", "arm64"}

func run(bk, bases, out string) error {
	image := filepath.Join(out, "image")
	if err := os.RemoveAll(image); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(out, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := compile(dir); err != nil {
		return err
	}
	if err := build(bk, bases, dir, image); err != nil {
		return err
	}
	d, err := layout.Open(image)
	if err != nil {
		return err
	}
	top, err := d.Resolve("demo")
	if err != nil {
		return err
	}
	for _, arch := range arches {
		if err := runImage(d, top, arch, filepath.Join(dir, "root-"+arch)); err != nil {
			return fmt.Errorf("run the %s program of the image: %w", arch, err)
		}
	}
	fmt.Printf("\nOCI layout:   %s\nindex digest: %s\n", image, top.Digest)
	return nil
}

// compile makes the build context: the program for each platform, and the
// Dockerfile.
func compile(dir string) error {
	for _, arch := range arches {
		c := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "bin", "hello-"+arch), "./hack/demo/app")
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("compile the program for %s: %w", arch, err)
		}
	}
	text, err := os.ReadFile("hack/demo/Dockerfile")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o644) //nolint:forbidigo // a context of our own
}

func build(bk, bases, dir, image string) error {
	abs, err := filepath.Abs(bases)
	if err != nil {
		return err
	}
	c := exec.Command(bk, "build", "--root", filepath.Join(dir, "store"), "--progress", "plain",
		"--platform", "linux/amd64,linux/arm64", "-t", "demo",
		"--build-context", "busybox=oci-layout://"+filepath.Join(abs, "busybox"),
		"-o", "type=oci,tar=false,dest="+image, dir)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("bk build: %w", err)
	}
	return nil
}

// runImage unpacks an image's layers and runs its program, under an emulator
// when this machine is of another kind.
func runImage(d *layout.Dir, top ocispec.Descriptor, arch, root string) error {
	platform := ocispec.Platform{OS: "linux", Architecture: arch}
	desc, err := d.Platform(top, platform)
	if err != nil {
		return err
	}
	dt, err := d.ReadBlob(desc, layout.MaxManifest)
	if err != nil {
		return err
	}
	m, err := layout.ParseManifest(desc.MediaType, dt)
	if err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	for i, l := range m.Layers {
		r, err := d.OpenBlob(l)
		if err != nil {
			return err
		}
		dir := filepath.Join(root, fmt.Sprint(i))
		_, err = layer.Unpack(context.Background(), r, dir, layer.UnpackOptions{Digest: l.Digest, Size: l.Size})
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if program := filepath.Join(dir, "hello"); exists(program) {
			fmt.Printf("\nlinux/%s from the image: ", arch)
			return execute(platform, program)
		}
	}
	return errors.New("no layer has /hello")
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func execute(platform ocispec.Platform, program string) error {
	args := []string{program}
	if platform.Architecture != runtime.GOARCH {
		switch e, err := emulate.Find(platform, emulate.Dirs{}); {
		case err != nil:
			return err
		case e != nil:
			args = []string{e.Path, program}
		}
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}
