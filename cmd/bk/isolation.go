package main

import (
	"fmt"
	"os"
	"strings"

	"bk.build/bk/builder"
	"bk.build/bk/runner/host"
)

// isolation returns how steps are isolated: as asked, or else the best that this
// process is in a position for. It tries nothing: entering a user namespace was
// tried before, by package enter.
func (e *env) isolation(asked host.Isolation) (host.Isolation, error) {
	is := host.Chroot
	switch {
	case e.inside != "":
		is = e.inside
	case host.Privileged() && host.SingleUser():
		is = host.SingleID // in a namespace that somebody made
	case host.Privileged():
		is = host.Root
	}
	if asked == "" || asked == is || asked == host.Chroot {
		return orIsolation(asked, is), nil
	}
	r, err := e.probe()
	if err != nil {
		return "", err
	}
	return "", fmt.Errorf("isolation %s cannot be had here%s", asked, whyNot(r, asked))
}

func orIsolation(asked, is host.Isolation) host.Isolation {
	if asked == "" {
		return is
	}
	return asked
}

// require refuses an isolation that is weaker than what is required.
func (e *env) require(is, required host.Isolation) error {
	if required == "" || is.Satisfies(required) {
		return nil
	}
	r, err := e.probe()
	if err != nil {
		return err
	}
	if e.inside == "" && r.Isolation != "" {
		is = r.Isolation // not entered, since it is not enough
	}
	return fmt.Errorf("isolation %s is required, and steps would get %s%s", required, is, whyNot(r, required))
}

func (e *env) probe() (*host.Report, error) {
	store, err := e.store()
	if err != nil {
		return nil, err
	}
	return host.Probe(host.Options{Store: store}), nil
}

// whyNot says what stands in the way of an isolation, and what would allow it.
func whyNot(r *host.Report, i host.Isolation) string {
	var b strings.Builder
	for _, c := range r.Why(i) {
		fmt.Fprintf(&b, ": %s: %s", c.Title, c.Detail)
		if len(c.Fix) > 0 {
			fmt.Fprintf(&b, "; one of these allows it: %s", strings.Join(c.Fix, "; "))
		}
	}
	b.WriteString("\nRun 'bk doctor' to see what this machine allows.")
	return b.String()
}

// planIsolation parses what was asked for.
func (f *buildFlags) planIsolation(e *env, p *buildPlan) error {
	asked, err := host.ParseIsolation(orDefault(f.isolation, e.getenv("BK_ISOLATION")))
	if err != nil {
		return err
	}
	required, err := host.ParseIsolation(f.requireIsolation)
	if err != nil {
		return fmt.Errorf("require-isolation: %w", err)
	}
	p.isolation, p.requireIsolation = asked, required
	return nil
}

// settleIsolation decides how the build's steps are isolated.
func (e *env) settleIsolation(p *buildPlan) (err error) {
	if p.isolation, err = e.isolation(p.isolation); err != nil {
		return err
	}
	return e.require(p.isolation, p.requireIsolation)
}

// showIsolation tells it, unless it is what everybody expects.
func (p *buildPlan) showIsolation(display *progress) {
	if p.isolation == host.Root {
		return
	}
	_ = display.step("[internal] isolation: "+string(p.isolation), nil, func() error { return nil })
}

// plainCopy reports whether layers cannot be mounted in the store.
func plainCopy(opts *builder.Options) bool {
	if opts.Isolation == host.Chroot {
		return true
	}
	if err := os.MkdirAll(opts.Root, 0o700); err != nil {
		return false // the build says so
	}
	return !host.Overlay(opts.Root)
}
