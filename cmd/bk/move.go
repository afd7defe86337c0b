package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"bk.build/bk/layout"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// move are the flags of the commands that bring an image from one place to
// another.
type move struct {
	reach
	platforms  []string
	referrers  bool
	jobs       int
	progress   string
	quiet      bool
	digestFile string
}

func (m *move) register(set *pflag.FlagSet, e *env) {
	set.SortFlags = false
	set.StringArrayVar(&m.platforms, "platform", nil, "take only the image for `OS/ARCH,...`, not all of them")
	set.BoolVar(&m.referrers, "referrers", false, "take signatures, attestations, SBOMs and other artifacts along")
	set.StringVar(&m.digestFile, "digestfile", "", "write the digest to `FILE`")
	set.IntVar(&m.jobs, "jobs", 0, "move at most `N` blobs at a time (0: 4)")
	set.StringVar(&m.progress, "progress", orDefault(e.getenv("BUILDKIT_PROGRESS"), "auto"), "show progress in `MODE` auto, tty, plain, quiet or rawjson")
	set.BoolVarP(&m.quiet, "quiet", "q", false, "show no progress")
	m.reach.register(set)
}

// A trip is one image on its way.
type trip struct {
	from, to string // places
	// fromStore says that a bare from is of the store.
	fromStore bool
}

// run brings images to other places, one after the other, and prints what they
// are there.
func (m *move) run(ctx context.Context, e *env, trips []trip) (err error) {
	if m.quiet {
		m.progress = "quiet"
	}
	if m.jobs < 0 {
		return fmt.Errorf("jobs %d: must not be negative", m.jobs)
	}
	display, err := e.startProgress(m.progress)
	if err != nil {
		return err
	}
	var lines []string
	for _, t := range trips {
		line, failed := m.one(ctx, e, display, t)
		if failed != nil {
			err = errors.Join(err, failed)
			break
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	display.close()
	for _, line := range lines {
		if _, err := fmt.Fprintln(e.stdout, line); err != nil {
			return err
		}
	}
	return err
}

// one brings one image to its place and returns its name there, with its digest;
// nothing when the image itself went to standard output.
func (m *move) one(ctx context.Context, e *env, display *progress, t trip) (line string, err error) {
	want, err := parsePlatforms(m.platforms)
	if err != nil {
		return "", err
	}
	p := e.places(&m.reach, t.fromStore)
	defer p.close(&err)
	view := display.transfer("copying " + t.from + " to " + t.to)
	p.Remote.Notify = view.log
	defer func() { view.done(err) }()
	img, err := p.image(ctx, t.from)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	to, err := place.Parse(t.to)
	if err != nil {
		return "", err
	}
	if len(want) == 0 && to.Single() && layout.IsIndex(img.desc.MediaType) {
		want = []ocispecs.Platform{place.HostPlatform()}
		view.log(t.to + " holds one image: that for " + platforms.Format(want[0]) + " is taken")
	}
	src, desc, err := transfer.Narrow(ctx, img.Reader, img.desc, want)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.from, err)
	}
	target, err := p.Target(ctx, t.to)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if target.Stream && isTerminal(e.stdout) {
		return "", errors.New("an archive is not written to a terminal: name a file, or redirect standard output")
	}
	opts := transfer.Options{Jobs: m.jobs, Referrers: m.referrers, From: img.Ref, Progress: view.note}
	if err := target.Put(ctx, src, desc, opts); err != nil {
		return "", err
	}
	if m.digestFile != "" {
		if err := writeText(m.digestFile, desc.Digest.String()); err != nil {
			return "", err
		}
	}
	if target.Stream {
		return "", nil
	}
	return target.At(desc.Digest), nil
}
