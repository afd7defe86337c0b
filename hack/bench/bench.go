//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"bk.build/bk/hack/registry"
)

// A bench holds what all runs share, and what they measured.
type bench struct {
	*flags
	work      string // the volumes' sparse files and mount points
	shared    *volume
	registry  *bases
	other     *registry.Server // to copy to
	scenarios []*scenario
	builders  []builder
	emulator  *emulator
	results   map[key]*result
	seed      uint64 // of the next change, so that no two are alike
}

// A key says what was measured.
type key struct{ scenario, phase, builder string }

// A result is all samples of a key, or why there are none.
type result struct {
	samples []sample
	err     error
}

func newBench(ctx context.Context, f *flags, work string) (_ *bench, err error) {
	b := &bench{flags: f, work: work, results: map[key]*result{}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if load := loadAverage(); load > 0.5 {
		log.Printf("the load average is %.1f: others are at work here, and the times will show it", load)
	}
	only := regexp.MustCompile(f.only) // parse has compiled it before
	for _, s := range scenarios(f.scale, f.n) {
		if only.MatchString(s.name) {
			b.scenarios = append(b.scenarios, s)
		}
	}
	if len(b.scenarios) == 0 {
		return nil, fmt.Errorf("no scenario matches %q", f.only)
	}
	if b.builders, err = newBuilders(ctx, f, work); err != nil {
		return nil, err
	}
	if err := addUser(work); err != nil {
		return nil, err
	}
	if b.shared, err = newVolume(ctx, work, "shared"); err != nil {
		return nil, err
	}
	if b.registry, err = startBases(ctx, f, filepath.Join(b.shared.dir, "registry")); err != nil {
		return nil, err
	}
	other := filepath.Join(b.shared.dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		return nil, err
	}
	b.other, err = registry.Run(other, registry.Options{})
	return b, err
}

func (b *bench) close() {
	b.emulator.unregister()
	if b.registry != nil {
		b.registry.stop()
	}
	if b.other != nil {
		b.other.Stop()
	}
	if b.shared != nil {
		b.shared.close(b.keep)
	}
}

// run measures all scenarios. What a builder can't do is its result, not an
// error of the run.
func (b *bench) run(ctx context.Context) error {
	for _, s := range b.scenarios {
		log.Printf("%s: preparing", s.name)
		dir := filepath.Join(b.shared.dir, s.name)
		if err := b.lay(ctx, s, dir); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for round := range s.rounds {
			for _, builder := range b.builders {
				if s.takes(builder) {
					b.turn(ctx, s, builder, dir, round)
				}
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// lay writes a scenario's context and, if it has one, its base image.
func (b *bench) lay(ctx context.Context, s *scenario, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if s.base != nil {
		if err := s.base(ctx, b.registry); err != nil {
			return err
		}
	}
	if s.files != nil {
		if err := s.files(dir); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(s.dockerfile(b.registry.addr())), 0o644)
}

// turn lets one builder build all phases of a scenario on a fresh volume.
func (b *bench) turn(ctx context.Context, s *scenario, with builder, dir string, round int) {
	err := b.phases(ctx, s, with, dir, round)
	if err == nil || ctx.Err() != nil {
		return
	}
	log.Printf("%s: %s: %v", s.name, with.name(), err)
	for _, p := range s.phases {
		if r := b.result(s, p, with); r.err == nil {
			r.err = err
		}
	}
}

func (b *bench) phases(ctx context.Context, s *scenario, with builder, dir string, round int) error {
	if s.platforms != "" && with.needsHandler() {
		var err error
		if b.emulator, err = registerEmulator(b.work); err != nil {
			return err
		}
		defer b.emulator.unregister()
	}
	vol, err := newVolume(ctx, b.work, with.name())
	if err != nil {
		return err
	}
	defer vol.close(b.keep)
	if err := os.MkdirAll(filepath.Join(vol.dir, "tmp"), 0o1777); err != nil {
		return err
	}
	if err := with.start(ctx, vol.dir); err != nil {
		return err
	}
	defer with.stop()
	var before *output
	for i, p := range s.phases {
		after, err := b.phase(ctx, i, with, &job{
			scenario: s, context: dir, dest: filepath.Join(vol.dir, fmt.Sprintf("out%d", i)), vol: vol.dir,
			registry: b.registry.addr(), other: b.other.Addr, repository: fmt.Sprintf("%s-%s-%d", s.name, with.name(), round),
		}, before)
		if err != nil {
			return fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
		}
		before = after
	}
	return nil
}

// phase measures one build or move and checks what it wrote.
func (b *bench) phase(ctx context.Context, i int, with builder, j *job, before *output) (*output, error) {
	s, p := j.scenario, j.phases[i]
	if p.change != nil {
		b.seed++
		if err := p.change(j.context, b.seed); err != nil {
			return nil, err
		}
	}
	if p.move != nil {
		j.from, j.to = p.move(j)
	}
	took, said, err := measure(ctx, with.commands(j), environment(j.vol), with.daemon())
	if b.verbose {
		log.Print(said)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, tail(said, 12))
	}
	after, err := b.check(ctx, p, with, j, before)
	if err != nil {
		return nil, err
	}
	if s.kind == pushes {
		last, err := lastStep(said)
		if err != nil {
			return nil, err
		}
		took.wall = took.end.Sub(last)
	}
	if s.parts > 1 {
		took.wall /= time.Duration(s.parts)
	}
	r := b.result(s, p, with)
	r.samples = append(r.samples, took)
	log.Printf("%s, %s: %s %s", s.name, p.name, with.name(), took)
	return after, nil
}

// check looks at what a build or a move has left.
func (b *bench) check(ctx context.Context, p *phase, with builder, j *job, before *output) (*output, error) {
	switch j.kind {
	case moves:
		return nil, b.moved(ctx, j.scenario, p, j)
	case pushes:
		_, err := b.digest(ctx, j.registry+"/"+j.repository)
		return nil, err
	}
	after, err := readOutput(with.layout(j))
	if err != nil {
		return nil, err
	}
	return after, after.check(j.scenario, p, before)
}

func (b *bench) result(s *scenario, p *phase, with builder) *result {
	k := key{s.name, p.name, with.name()}
	if b.results[k] == nil {
		b.results[k] = &result{}
	}
	return b.results[k]
}

// environment is what every builder's commands get: their scratch space is on
// their volume, and no configuration of a user's home counts.
func environment(vol string) []string {
	return append(os.Environ(), "TMPDIR="+filepath.Join(vol, "tmp"), "HOME="+filepath.Join(vol, "tmp"))
}

// buildLimit is how long one build may take.
const buildLimit = 10 * time.Minute
