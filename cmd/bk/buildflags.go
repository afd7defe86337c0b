package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"bk.build/bk/builder"
	"bk.build/bk/builder/source"
	"bk.build/bk/dockerfile"
	"bk.build/bk/runner/host"
)

// buildFlags are the flags of bk build as they were typed.
type buildFlags struct {
	file, target, call, network            string
	isolation, requireIsolation            string
	progress, iidFile, metadata, timestamp string

	tags, buildArgs, contexts, labels, annotations, platforms []string
	noCacheFilter, outputs, secrets, ssh, addHosts            []string
	insecure, allow, cdiDirs                                  []string
	runtime                                                   string
	dns                                                       builder.DNS
	check, noCache, pull, quiet, push                         bool
	jobs                                                      int
	limits                                                    limitFlags
}

// register declares the flags with the names and defaults of docker buildx
// build. The progress mode comes from BUILDKIT_PROGRESS when it is set.
func (f *buildFlags) register(set *pflag.FlagSet, e *env) {
	set.SortFlags = false
	f.registerInputs(set)
	f.registerSteps(set)
	set.StringArrayVarP(&f.outputs, "output", "o", nil, "write the result to `DEST`: DIR, -, or type=image|registry|oci|docker|tar|local[,dest=PATH,...]")
	set.BoolVar(&f.push, "push", false, "push the image to the registries of its names: --output=type=registry")
	set.StringArrayVar(&f.annotations, "annotation", nil, "annotate the image with `[LEVEL:]KEY=VALUE`; LEVEL is manifest or index")
	set.StringVar(&f.timestamp, "timestamp", "", "let no time in the image be later than `TIME`, in seconds or RFC 3339")
	set.StringVar(&f.iidFile, "iidfile", "", "write the image id, the digest of its configuration, to `FILE`")
	set.StringVar(&f.metadata, "metadata-file", "", "write digests and names to `FILE` as JSON")
	set.StringVar(&f.call, "call", "build", "`METHOD` to call: build, check, outline or targets [,format=json]")
	set.BoolVar(&f.check, "check", false, "check the Dockerfile, build nothing: --call=check")
	set.StringVar(&f.progress, "progress", orDefault(e.getenv("BUILDKIT_PROGRESS"), "auto"), "show progress in `MODE` auto, tty, plain, quiet or rawjson")
	set.BoolVarP(&f.quiet, "quiet", "q", false, "print only the image's digest")
}

func (f *buildFlags) registerInputs(set *pflag.FlagSet) {
	set.StringVarP(&f.file, "file", "f", "", "read the Dockerfile from `PATH`, or - for standard input")
	set.StringArrayVarP(&f.tags, "tag", "t", nil, "name the image `NAME[:TAG]`")
	set.StringVar(&f.target, "target", "", "build `STAGE` instead of the last stage")
	set.StringArrayVar(&f.platforms, "platform", nil, "build for `OS/ARCH,...` instead of this machine")
	set.StringArrayVar(&f.buildArgs, "build-arg", nil, "set an ARG: `KEY[=VALUE]`, the value by default from the environment")
	set.StringArrayVar(&f.contexts, "build-context", nil, "add a context: `NAME=SOURCE`, a directory, oci-layout://DIR[:TAG], docker-image://REF or target:STAGE")
	set.StringArrayVar(&f.labels, "label", nil, "label the image with `KEY=VALUE`")
	set.StringArrayVar(&f.secrets, "secret", nil, "offer a secret to RUN --mount=type=secret: `id=ID[,src=FILE|env=VAR]`")
	set.StringArrayVar(&f.ssh, "ssh", nil, "offer an agent to RUN --mount=type=ssh: `default|ID[=SOCKET|KEY,...]`")
}

func (f *buildFlags) registerSteps(set *pflag.FlagSet) {
	set.BoolVar(&f.noCache, "no-cache", false, "run every step")
	set.StringArrayVar(&f.noCacheFilter, "no-cache-filter", nil, "run every step of `STAGE,...`")
	set.BoolVar(&f.pull, "pull", false, "ask registries for newer base images")
	set.StringVar(&f.network, "network", "default", "run steps in network `MODE` default, host or none")
	set.StringVar(&f.isolation, "isolation", "", "isolate steps by `MODE` auto, root, rootless, single-id or chroot (default: $BK_ISOLATION, or auto)")
	set.StringVar(&f.requireIsolation, "require-isolation", "", "fail unless steps get `MODE` or better: chroot < single-id < rootless = root")
	set.StringArrayVar(&f.allow, "allow", nil, "let steps have a right: network.host, security.insecure or `device[=NAME]`")
	set.StringArrayVar(&f.cdiDirs, "cdi-spec-dir", nil, "look for the devices of RUN --device in `DIR` (default: /etc/cdi, /var/run/cdi, /etc/buildkit/cdi)")
	set.StringVar(&f.runtime, "runtime", "", "run steps by another OCI runtime, a `NAME` such as runc, crun or runsc, or its path")
	set.StringArrayVar(&f.dns.Servers, "dns", nil, "have steps ask the name server `IP` instead of the machine's")
	set.StringArrayVar(&f.dns.Search, "dns-search", nil, "have steps search `DOMAIN`")
	set.StringArrayVar(&f.dns.Options, "dns-option", nil, "set an `OPTION` of resolv.conf for steps")
	set.StringArrayVar(&f.addHosts, "add-host", nil, "add `HOST:IP` to the /etc/hosts of steps")
	f.limits.register(set)
	set.IntVar(&f.jobs, "jobs", 0, "run at most `N` steps at a time (0: no limit)")
	set.StringArrayVar(&f.insecure, "insecure-registry", nil, "reach `HOST[:PORT]` without TLS checks")
}

// buildPlan is a checked build command.
type buildPlan struct {
	options  dockerfile.Options
	names    []string
	outputs  []*output
	secrets  map[string]builder.Secret
	ssh      map[string]builder.SSHAgent
	insecure []string
	allow    builder.Entitlements
	cdiDirs  []string
	runtime  string // absolute path
	dns      builder.DNS
	jobs     int
	limits   stepLimits
	// isolation is what was asked for, until the build settles it.
	isolation, requireIsolation host.Isolation
	// epoch bounds the times in the image; nil: they stay as they are. It is
	// only a default when the user did not ask for it: the Dockerfile wins.
	epoch        *time.Time
	epochDefault bool

	progress          string
	quiet             bool
	iidFile, metadata string
}

// plan parses every value. What comes out needs no more parsing.
func (f *buildFlags) plan(ctx context.Context, e *env, contextDir string) (*buildPlan, error) {
	p := &buildPlan{
		progress: f.progress, quiet: f.quiet, iidFile: f.iidFile, metadata: f.metadata,
		jobs: f.jobs, insecure: f.insecure,
	}
	p.options = dockerfile.Options{
		Context: contextDir, Target: f.target, Platforms: f.platforms,
		NoCache: f.noCache, NoCacheFilter: f.noCacheFilter, Pull: f.pull,
		AddHosts: f.addHosts, Network: f.network,
	}
	steps := []func(*env, *buildPlan) error{
		f.planDisplay, f.planValues, f.planLimits, f.planRights, f.planIsolation, f.planOutputs, f.planEpoch,
	}
	for _, step := range steps {
		if err := step(e, p); err != nil {
			return nil, err
		}
	}
	return p, f.planFile(ctx, e, p)
}

// planDisplay settles what is printed, and what is asked of the Dockerfile.
func (f *buildFlags) planDisplay(_ *env, p *buildPlan) (err error) {
	if f.quiet {
		p.progress = "quiet"
	}
	p.quiet = p.progress == "quiet"
	switch p.progress {
	case "auto", "tty", "plain", "quiet", "rawjson":
	default:
		return fmt.Errorf("progress %q: must be auto, tty, plain, quiet or rawjson", p.progress)
	}
	call := f.call
	if f.check {
		if call != "build" && !strings.HasPrefix(call, "check") {
			return fmt.Errorf("--check cannot be combined with --call=%s", call)
		}
		call = "check" + strings.TrimPrefix(strings.TrimPrefix(call, "build"), "check")
	}
	p.options.Call, err = dockerfile.ParseCall(call)
	return err
}

// planFile reads a Dockerfile from standard input, until the context ends.
func (f *buildFlags) planFile(ctx context.Context, e *env, p *buildPlan) error {
	if f.file != "-" {
		p.options.File = f.file
		return nil
	}
	type input struct {
		text []byte
		err  error
	}
	read := make(chan input, 1)
	go func() {
		text, err := dockerfile.ReadText(e.stdin)
		read <- input{text, err}
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case in := <-read:
		p.options.Text = in.text
		return in.err
	}
}

// planValues parses what goes to the Dockerfile.
func (f *buildFlags) planValues(e *env, p *buildPlan) (err error) {
	o := &p.options
	if def := e.getenv("DOCKER_DEFAULT_PLATFORM"); def != "" && len(f.platforms) == 0 {
		o.Platforms = []string{def}
	}
	if o.BuildArgs, err = e.buildArgs(f.buildArgs); err != nil {
		return err
	}
	if o.BuildContexts, err = pairs("build-context", f.contexts, true); err != nil {
		return err
	}
	if o.Labels, err = pairs("label", f.labels, false); err != nil {
		return err
	}
	if p.secrets, err = e.secrets(f.secrets); err != nil {
		return err
	}
	p.ssh, err = e.sshAgents(f.ssh)
	return err
}

// planLimits checks the limits of RUN steps.
func (f *buildFlags) planLimits(_ *env, p *buildPlan) error {
	if f.jobs < 0 {
		return fmt.Errorf("jobs %d: must not be negative", f.jobs)
	}
	return f.limits.plan(p)
}

// planRights parses what steps may have beyond the default. Who runs the whole
// build in the host's network allows it.
func (f *buildFlags) planRights(_ *env, p *buildPlan) (err error) {
	allow := f.allow
	if f.network == "host" {
		allow = append(slices.Clone(allow), "network.host")
	}
	p.allow, err = builder.ParseEntitlements(allow)
	if err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	for _, dir := range f.cdiDirs {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("cdi-spec-dir %q: must be an absolute path", dir)
		}
	}
	p.cdiDirs = f.cdiDirs
	if err := checkDNS(f.dns); err != nil {
		return err
	}
	p.dns = f.dns
	p.runtime, err = findRuntime(f.runtime)
	return err
}

// checkDNS refuses what is no line of a resolv.conf.
func checkDNS(d builder.DNS) error {
	for _, s := range d.Servers {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("dns %q: want an IP address", s)
		}
	}
	for flag, list := range map[string][]string{"dns-search": d.Search, "dns-option": d.Options} {
		for _, s := range list {
			if s == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' || c == ';' }) {
				return fmt.Errorf("%s %q: want one word", flag, s)
			}
		}
	}
	return nil
}

// findRuntime returns the path of an OCI runtime. Kata Containers install
// theirs under a longer name than the one that they are known by.
func findRuntime(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	found, err := exec.LookPath(name)
	if err != nil && name == "kata" {
		found, err = exec.LookPath("kata-runtime")
	}
	if err != nil {
		return "", fmt.Errorf("runtime %q: install it, or give its path: %w", name, err)
	}
	return filepath.Abs(found)
}

// planOutputs parses where the result goes, under which names.
func (f *buildFlags) planOutputs(_ *env, p *buildPlan) (err error) {
	if p.names, err = imageNames(f.tags); err != nil {
		return err
	}
	if p.outputs, err = parseOutputs(f.pushed(f.outputs)); err != nil {
		return err
	}
	for _, o := range p.outputs {
		o.push = o.push || f.push && o.toNames()
	}
	shared, err := annotations(f.annotations)
	if err != nil {
		return err
	}
	for _, o := range p.outputs {
		own := o.commit.Annotations
		o.commit.Annotations = maps.Clone(shared)
		maps.Copy(o.commit.Annotations, own)
		if len(o.names) == 0 {
			o.names = p.names
		}
		if o.push && len(o.names) == 0 {
			return fmt.Errorf("output type=%s: a push needs a name: add --tag REGISTRY/NAME", o.kind)
		}
	}
	return p.checkReports()
}

// pushed adds an output for --push when no other goes to a registry.
func (f *buildFlags) pushed(outputs []string) []string {
	if !f.push {
		return outputs
	}
	for _, value := range outputs {
		if o, err := parseOutput(value); err != nil || o.toNames() {
			return outputs
		}
	}
	return append(slices.Clone(outputs), "type=registry")
}

// planEpoch settles the build's time: --timestamp, else the build argument
// SOURCE_DATE_EPOCH, else the variable of that name; these times are also given
// to the Dockerfile, as that argument. Else it is the time of the commit that
// is checked out in the context.
func (f *buildFlags) planEpoch(e *env, p *buildPlan) error {
	const name = "SOURCE_DATE_EPOCH"
	args := p.options.BuildArgs
	if f.timestamp != "" {
		t, err := parseTime(f.timestamp)
		if err != nil {
			return fmt.Errorf("timestamp %q: %w", f.timestamp, err)
		}
		args[name] = strconv.FormatInt(t.Unix(), 10)
	}
	if _, ok := args[name]; !ok && e.getenv(name) != "" {
		args[name] = e.getenv(name)
	}
	if n, err := strconv.ParseInt(args[name], 10, 64); err == nil {
		t := time.Unix(n, 0).UTC()
		p.epoch = &t
	} else if args[name] == "" {
		p.epoch, p.epochDefault = source.Epoch(p.options.Context), true
	}
	return nil
}

func parseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Unix() < 0 {
		return time.Time{}, errors.New("want seconds since 1970, or a time such as 2026-01-02T15:04:05Z")
	}
	return t, nil
}

// buildArgs parses KEY=VALUE and KEY, which takes the value from the
// environment and is left out when the variable is not set.
func (e *env) buildArgs(values []string) (map[string]string, error) {
	args := map[string]string{}
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if key == "" {
			return nil, fmt.Errorf("build-arg %q: want KEY=VALUE", v)
		}
		if !ok {
			if value, ok = e.lookup(key); !ok {
				delete(args, key)
				continue
			}
		}
		args[key] = value
	}
	return args, nil
}

// pairs parses KEY=VALUE values of a flag; strict ones need the "=".
func pairs(flag string, values []string, strict bool) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if key == "" || strict && (!ok || value == "") {
			return nil, fmt.Errorf("%s %q: want KEY=VALUE", flag, v)
		}
		out[key] = value
	}
	return out, nil
}
