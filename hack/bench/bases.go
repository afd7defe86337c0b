//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"bk.build/bk/hack/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bases is a registry on the loopback interface with the base images, from which
// all builders pull alike.
type bases struct {
	server *registry.Server
	crane  string
	dir    string
}

func startBases(ctx context.Context, f *flags, dir string) (*bases, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	server, err := registry.Run(dir, registry.Options{})
	if err != nil {
		return nil, err
	}
	b := &bases{server: server, crane: filepath.Join(f.tools, "crane"), dir: dir}
	if err := b.pushBusybox(ctx, filepath.Join(f.bases, "busybox")); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// pushBusybox pushes a layout, and names the image index in it rather than the
// index of the layout, which buildah doesn't look into.
func (b *bases) pushBusybox(ctx context.Context, layout string) error {
	var top ocispec.Index
	if err := readJSON(filepath.Join(layout, ocispec.ImageIndexFile), &top); err != nil {
		return fmt.Errorf("base image: %w (run make bases)", err)
	}
	if len(top.Manifests) != 1 {
		return fmt.Errorf("base image %s: %d manifests in index.json, want 1", layout, len(top.Manifests))
	}
	name := b.addr() + "/busybox"
	if err := b.run(ctx, "push", "--index", layout, name+":layout"); err != nil {
		return err
	}
	return b.run(ctx, "tag", name+"@"+top.Manifests[0].Digest.String(), "latest")
}

func (b *bases) addr() string { return b.server.Addr }

func (b *bases) stop() { b.server.Stop() }

func (b *bases) run(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, b.crane, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("crane %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// pushLarge pushes the image "large": busybox with layers of size bytes each, of
// which about half remains when they are compressed.
func (b *bases) pushLarge(ctx context.Context, layers int, size int64) error {
	args := []string{"append", "--platform", "linux/amd64", "-b", b.addr() + "/busybox", "-t", b.addr() + "/large"}
	for i := range layers {
		name := filepath.Join(b.dir, "layer"+strconv.Itoa(i)+".tar.gz")
		if err := writeLayer(name, i, size); err != nil {
			return err
		}
		defer os.Remove(name)
		args = append(args, "-f", name)
	}
	return b.run(ctx, args...)
}

// layerFile is the size of each file of a layer in bytes.
const layerFile = 250_000

// writeLayer writes a compressed layer of files.
func writeLayer(name string, layer int, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	z, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for i := range max(1, int(size/layerFile)) {
		h := &tar.Header{Name: fmt.Sprintf("data/%d/f%04d", layer, i), Mode: 0o644, Size: min(layerFile, size)}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyN(t, newContent(uint64(1000*(layer+1)*10+i), 430), h.Size); err != nil {
			return err
		}
	}
	for _, end := range []func() error{t.Close, z.Close, buffered.Flush} {
		if err := end(); err != nil {
			return err
		}
	}
	return f.Close()
}
