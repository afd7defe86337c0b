package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// A pusher brings one output to the registries of its names. Layers go while the
// build still runs, each as soon as it is packed; documents and tags go at the
// end. A registry that refuses a layer ends the build: its result could not be
// pushed.
type pusher struct {
	ctx    context.Context // of the uploads beside the build
	fail   context.CancelCauseFunc
	places *places
	view   func() *transferView
	repos  []*pushRepo
	early  sync.WaitGroup
}

// pushers are those of a build, by output; nil for one that is not pushed. Only
// images count, as in builder.Options.Pack.
type pushers []*pusher

// startPushers makes the pushers of a plan. Those that were made are returned
// also with an error.
func (e *env) startPushers(ctx context.Context, fail context.CancelCauseFunc, plan *buildPlan, display *progress) (list pushers, err error) {
	for _, o := range plan.outputs {
		if !o.isImage() {
			continue
		}
		var p *pusher
		if o.push {
			if p, err = e.newPusher(ctx, fail, o, plan.insecure, display); err != nil {
				return list, fmt.Errorf("output type=%s: %w", o.kind, err)
			}
		}
		list = append(list, p)
	}
	return list, nil
}

// packed implements builder.Options.Packed.
func (list pushers) packed(c *builder.Content, i int, desc ocispecs.Descriptor) {
	if p := list[i]; p != nil {
		p.packed(c, desc)
	}
}

func (list pushers) close() (err error) {
	for _, p := range list {
		if p != nil {
			err = errors.Join(err, p.close())
		}
	}
	return err
}

// of returns the pusher of an output.
func (list pushers) of(plan *buildPlan, o *output) *pusher {
	i := 0
	for _, other := range plan.outputs {
		if other == o {
			return list[i]
		}
		if other.isImage() {
			i++
		}
	}
	return nil
}

// pushRepo is a repository, and the names that the image gets there.
type pushRepo struct {
	*place.Target
	copier *transfer.Copier
	names  []string
	// beside are repositories of the same registry that have the image before
	// this one, which takes the blobs from there.
	beside []string
}

// newPusher opens the repositories of an output. Failures of uploads are given
// to fail, as are those of the build.
func (e *env) newPusher(ctx context.Context, fail context.CancelCauseFunc, o *output, insecure []string, display *progress) (*pusher, error) {
	r := reach{insecure: slices.Clone(insecure)}
	if o.insecure {
		for _, name := range o.names {
			r.insecure = append(r.insecure, hostOf(name))
		}
	}
	p := &pusher{ctx: ctx, fail: fail, places: e.places(&r, false)}
	p.view = sync.OnceValue(func() *transferView { return display.transfer("pushing to " + strings.Join(o.names, ", ")) })
	p.places.Remote.Notify = func(line string) { p.view().log(line) }
	for _, name := range o.names {
		if err := p.add(ctx, name); err != nil {
			return nil, err
		}
	}
	if o.byDigest {
		for _, repo := range p.repos {
			repo.names = nil
		}
	}
	return p, nil
}

// hostOf returns the registry of a full name.
func hostOf(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}

// add adds a name, to the repository that is there for another of its tags.
func (p *pusher) add(ctx context.Context, name string) error {
	target, err := p.places.Target(ctx, place.Place{Kind: place.Registry, Rest: name}.String())
	if err != nil {
		return err
	}
	repo := &pushRepo{Target: target, names: []string{target.Ref}}
	for _, other := range p.repos {
		if other.Repository() == target.Repository() {
			other.names = append(other.names, target.Ref)
			return nil
		}
		if hostOf(other.Repository()) == hostOf(target.Repository()) {
			repo.beside = append(repo.beside, other.Repository())
		}
	}
	repo.copier = transfer.NewCopier(target.Writer, transfer.Options{Progress: func(e transfer.Event) { p.view().note(e) }})
	p.repos = append(p.repos, repo)
	return nil
}

// packed starts to upload a layer of the result.
func (p *pusher) packed(c *builder.Content, desc ocispecs.Descriptor) {
	for _, repo := range p.repos {
		if len(repo.beside) > 0 {
			continue
		}
		p.early.Go(func() {
			if err := repo.copier.Blob(p.ctx, c, desc); err != nil && p.ctx.Err() == nil {
				p.fail(err)
			}
		})
	}
}

// push uploads what is not there yet, then writes the tags.
func (p *pusher) push(ctx context.Context, c *builder.Content, desc ocispecs.Descriptor) error {
	p.early.Wait()
	for _, repo := range p.repos {
		if err := repo.copier.Image(ctx, besides{c, repo.beside}, desc, repo.names...); err != nil {
			p.view().done(err)
			return err
		}
	}
	p.view().done(nil)
	return nil
}

// close waits for uploads that a failed build left behind and ends connections.
func (p *pusher) close() (err error) {
	p.early.Wait()
	p.places.close(&err)
	for _, repo := range p.repos {
		err = errors.Join(err, repo.Close())
	}
	return err
}

// besides is a build's content that other repositories have too.
type besides struct {
	*builder.Content
	repositories []string
}

// Origins implements transfer.Located.
func (b besides) Origins(desc ocispecs.Descriptor) []string {
	return append(slices.Clone(b.repositories), b.Content.Origins(desc)...)
}
