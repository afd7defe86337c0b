package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bk.build/bk/builder"
	"bk.build/bk/dockerfile"
)

const buildExample = `  bk build -t app .
  bk build --platform linux/amd64,linux/arm64 -o type=oci,dest=app.tar .
  bk build --secret id=token,env=TOKEN --build-arg VERSION=1 -f build/Dockerfile .
  bk build --target bin -o out .
  bk build --check .`

func newBuild(e *env) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:     "build [flags] CONTEXT",
		Aliases: []string{"b"},
		Short:   "Build an image from a Dockerfile",
		Long: `Build what a Dockerfile describes. Without --output the image goes into the
store, under its tags.`,
		Example: buildExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments: want one, the context directory, such as %q", len(args), ".")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	f.register(cmd.Flags(), e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		plan, err := f.plan(cmd.Context(), e, args[0])
		if err != nil {
			return usage(cmd, err)
		}
		return e.build(cmd.Context(), plan)
	}
	return cmd
}

// build runs a plan: evaluate, then write every output, then report.
func (e *env) build(ctx context.Context, plan *buildPlan) (err error) {
	if err := plan.checkDests(e); err != nil {
		return err
	}
	request, err := plan.options.Prepare()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, request.Close()) }()
	if err := plan.checkPlatforms(request); err != nil {
		return err
	}
	if limit := plan.limits.timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, &builder.TimeoutError{Build: true, Limit: limit})
		defer cancel()
	}
	if err := e.settleIsolation(plan); err != nil {
		return err
	}
	display, err := e.startProgress(plan.progress)
	if err != nil {
		return err
	}
	plan.showIsolation(display)
	answer, err := e.solve(ctx, plan, request, display)
	display.close()
	if err != nil {
		return err
	}
	return answer()
}

// checkPlatforms refuses several platforms for an output that holds one.
func (p *buildPlan) checkPlatforms(request *dockerfile.Request) error {
	list := request.FrontendOpt["platform"]
	for _, o := range p.outputs {
		if o.kind == outDocker && strings.Contains(list, ",") {
			return fmt.Errorf("output type=docker holds one platform, not %s: use type=oci", list)
		}
	}
	return nil
}

// solve builds and exports. What it returns prints the outcome; that comes
// after the display has ended.
func (e *env) solve(ctx context.Context, plan *buildPlan, request *dockerfile.Request, display *progress) (answer func() error, err error) {
	opts, err := plan.builderOptions(e, request)
	if err != nil {
		return nil, err
	}
	ctx, fail := context.WithCancelCause(ctx)
	pushers, err := e.startPushers(ctx, fail, plan, display)
	defer func() {
		fail(err)
		err = errors.Join(err, pushers.close())
	}()
	if err != nil {
		return nil, err
	}
	opts.Packed = pushers.packed
	res, err := builder.Build(ctx, dockerfile.Build, opts, display.update)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	if call := plan.options.Call; call.Name != "" {
		return func() error { return call.Print(e.stdout, res.Metadata) }, nil
	}
	x := &exporter{env: e, plan: plan, res: res, display: display, pushers: pushers}
	if err := x.export(ctx); err != nil {
		return nil, err
	}
	return func() error { return e.reportBuild(plan, &x.done) }, nil
}

// builderOptions joins what the plan and the request say.
func (p *buildPlan) builderOptions(e *env, request *dockerfile.Request) (builder.Options, error) {
	root, err := e.store()
	if err != nil {
		return builder.Options{}, err
	}
	opts := builder.Options{
		Root:               root,
		FrontendOpt:        request.FrontendOpt,
		Locals:             request.Locals,
		Layouts:            request.Layouts,
		Secrets:            p.secrets,
		SSH:                p.ssh,
		InsecureRegistries: p.insecure,
		Hosts:              e.hosts(),
		Allow:              p.allow,
		DeviceDirs:         p.cdiDirs,
		Runtime:            p.runtime,
		DNS:                p.dns,
		Isolation:          p.isolation,
		Jobs:               p.jobs,
		Resources:          p.limits.resources,
		LimitsBestEffort:   p.limits.bestEffort,
		StepTimeout:        p.limits.stepTimeout,
		VerifyCache:        e.getenv("BK_CACHE_VERIFY") == "1",
	}
	opts.PlainCopy = plainCopy(&opts)
	for _, o := range p.outputs {
		if o.isImage() {
			opts.Pack = append(opts.Pack, o.packOptions(p.epoch))
		}
	}
	return opts, nil
}

// packOptions says how the output's layers are packed, when the build's time
// is epoch.
func (o *output) packOptions(epoch *time.Time) builder.PackOptions {
	pack := o.commit.PackOptions
	pack.Remote = o.push && o.away
	if !o.keepTimes {
		pack.Epoch = epoch
	}
	return pack
}
