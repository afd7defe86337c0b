//go:build linux

// Command bases makes the base images that tests and measurements build on.
//
// Each base is an OCI layout with one index for linux/amd64 and linux/arm64,
// made from Debian packages with the machine's own apt configuration (its
// mirrors, proxies and keys): nothing comes from an image registry. The data
// goes one way:
//
//	apt (private state per architecture) -> packages -> file tree (a tar) -> layers -> layout
//
// Bases are:
//
//	busybox   busybox-static and a handful of files, in two layers; needs no privilege
//	debian    mmdebstrap's minbase of the machine's release; needs root or subordinate ids,
//	          and qemu-user-static for the foreign architecture
//
// The same packages give the same digests: entries are sorted, times are zero.
// A base that was made by the same recipe is left as it is.
package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

// recipe is the source of this program: a change of it remakes the bases.
//
//go:embed *.go
var recipe embed.FS

// architectures that every base has, by their Debian (and Go) names.
var architectures = []string{"amd64", "arm64"}

// A base makes the images of one base, one per architecture.
type base struct {
	name string
	make func(ctx context.Context, w *layoutWriter, arch, work string) (*image, error)
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bases: ")
	out := flag.String("o", ".cache/bases", "directory of the layouts")
	force := flag.Bool("force", false, "remake bases that are there")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bases [-o DIR] [-force] [NAME ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, *force, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// run makes the named bases, or all, and goes on after one that can't be made.
func run(ctx context.Context, out string, force bool, names []string) error {
	all := []base{{"busybox", makeBusybox}, {"debian", makeDebian}}
	var errs []error
	for _, b := range all {
		if len(names) > 0 && !contains(names, b.name) {
			continue
		}
		dir := filepath.Join(out, b.name)
		if !force && isCurrent(dir) {
			continue
		}
		if err := makeBase(ctx, b, dir); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.name, err))
		}
	}
	return errors.Join(errs...)
}

// makeBase writes the base's layout beside dir and renames it into place.
func makeBase(ctx context.Context, b base, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "."+b.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	w, err := newLayout(filepath.Join(work, "layout"))
	if err != nil {
		return err
	}
	var images []*image
	for _, arch := range architectures {
		log.Printf("%s linux/%s", b.name, arch)
		img, err := b.make(ctx, w, arch, filepath.Join(work, arch))
		if err != nil {
			return fmt.Errorf("linux/%s: %w", arch, err)
		}
		images = append(images, img)
	}
	if err := w.finish(images); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, stampName), []byte(recipeDigest()), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(w.dir, dir)
}

// stampName is the file of a layout that says by which recipe it was made.
const stampName = ".recipe"

func isCurrent(dir string) bool {
	stamp, err := os.ReadFile(filepath.Join(dir, stampName))
	return err == nil && string(stamp) == recipeDigest()
}

func recipeDigest() string {
	entries, err := recipe.ReadDir(".")
	if err != nil {
		return ""
	}
	h := sha256.New()
	for _, e := range entries {
		src, _ := recipe.ReadFile(e.Name())
		if !strings.HasSuffix(e.Name(), "_test.go") {
			fmt.Fprintf(h, "%s %d\n%s", e.Name(), len(src), src)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
