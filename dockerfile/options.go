package dockerfile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
)

// maxDockerfile bounds a Dockerfile that comes from a pipe. It is what the
// frontend takes from a file.
const maxDockerfile = 16 << 20

// Options are what a user can ask of a Dockerfile build. The zero value builds
// the file named Dockerfile in the working directory.
type Options struct {
	// Context is the directory that COPY and ADD read; empty: ".".
	Context string
	// File is the path of the Dockerfile; empty: Dockerfile in the context.
	// Its directory need not be the context.
	File string
	// Text is the Dockerfile itself; when not nil it is used instead of File.
	Text []byte

	// Target is the stage to build; empty: the last.
	Target string
	// Platforms are "os/arch[/variant]", or "local"; empty: the host's.
	Platforms []string
	BuildArgs map[string]string
	Labels    map[string]string
	// BuildContexts are named contexts: a directory, oci-layout://DIR[:TAG][@DIGEST],
	// or docker-image://REF.
	BuildContexts map[string]string

	// NoCache runs every step; NoCacheFilter the steps of these stages.
	NoCache       bool
	NoCacheFilter []string
	// Pull asks the registry even when an image is in the store.
	Pull bool

	// AddHosts are "HOST:IP", "HOST=IP" or "HOST:host-gateway".
	AddHosts []string
	// Network of RUN steps that name none: "", "default", "host" or "none".
	Network string
	// ShmSize is the size of /dev/shm in bytes; 0: the default.
	ShmSize int64
	// Ulimits are "NAME=SOFT[:HARD]".
	Ulimits      []string
	CgroupParent string

	// Call asks about the Dockerfile instead of building it.
	Call Call
}

// Request is a build as the gateway protocol describes it.
type Request struct {
	FrontendOpt map[string]string
	// Locals are absolute directories by the name of their local:// source.
	Locals map[string]string
	// Layouts are absolute OCI layout directories by their store id.
	Layouts map[string]string

	temp string
}

// Close removes the temporary files of the request.
func (r *Request) Close() error {
	if r.temp == "" {
		return nil
	}
	return os.RemoveAll(r.temp)
}

// Prepare checks o and translates it. The caller closes the request when the
// build has ended.
func (o Options) Prepare() (*Request, error) {
	r := &Request{
		FrontendOpt: map[string]string{},
		Locals:      map[string]string{},
		Layouts:     map[string]string{},
	}
	for _, step := range []func(Options) error{r.setContext, r.setDockerfile, r.setContexts, r.setSteps, r.setStages} {
		if err := step(o); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	r.setValues(o)
	return r, nil
}

// setContext checks the main context and makes it a local source.
func (r *Request) setContext(o Options) error {
	dir := o.context()
	if isRemote(dir) || dir == "-" {
		return fmt.Errorf("context %q: only a directory can be the context: fetch or unpack it, then name the directory", dir)
	}
	return r.setLocal("context", "context", dir)
}

func (o Options) context() string {
	if o.Context == "" {
		return "."
	}
	return o.Context
}

// setLocal makes dir, which is called what in messages, the local source name.
func (r *Request) setLocal(name, what, dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %q: no such directory: %w", what, dir, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s %q: not a directory", what, dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("%s %q: %w", what, dir, err)
	}
	r.Locals[name] = abs
	return nil
}

// setSteps translates what RUN steps get from the command line.
func (r *Request) setSteps(o Options) error {
	hosts, err := extraHosts(o.AddHosts)
	if err != nil {
		return err
	}
	r.set("add-hosts", hosts)
	r.set("ulimit", strings.Join(o.Ulimits, ","))
	r.set("cgroup-parent", o.CgroupParent)
	if o.ShmSize < 0 {
		return fmt.Errorf("shm-size %d: must not be negative", o.ShmSize)
	}
	if o.ShmSize > 0 {
		r.set("shm-size", strconv.FormatInt(o.ShmSize, 10))
	}
	switch o.Network {
	case "", "default":
	case "host", "none":
		r.set("force-network-mode", o.Network)
	default:
		return fmt.Errorf("network %q: must be default, host or none", o.Network)
	}
	return nil
}

// setStages translates what is built: target, platforms, cache use.
func (r *Request) setStages(o Options) error {
	names, err := platformNames(o.Platforms)
	if err != nil {
		return err
	}
	r.set("platform", strings.Join(names, ","))
	r.set("target", o.Target)
	if o.Pull {
		r.set("image-resolve-mode", "pull")
	}
	switch {
	case o.NoCache:
		r.FrontendOpt["no-cache"] = "" // the key alone means all stages
	case len(o.NoCacheFilter) > 0:
		r.set("no-cache", strings.Join(o.NoCacheFilter, ","))
	}
	if id := o.Call.requestID(); id != "" {
		r.set("requestid", id)
		r.addCap("moby.buildkit.frontend.subrequests")
	}
	return nil
}

// setValues passes build arguments and labels.
func (r *Request) setValues(o Options) {
	for k, v := range o.BuildArgs {
		r.FrontendOpt["build-arg:"+k] = v
	}
	for k, v := range o.Labels {
		r.FrontendOpt["label:"+k] = v
	}
}

func (r *Request) set(key, value string) {
	if value != "" {
		r.FrontendOpt[key] = value
	}
}

// addCap tells a frontend in an image that it must know a capability.
func (r *Request) addCap(name string) {
	const key = "frontend.caps"
	name += "+forward"
	if have := r.FrontendOpt[key]; have != "" {
		name = have + "," + name
	}
	r.FrontendOpt[key] = name
}

// platformNames parses a list of platforms and writes each in full, once.
func platformNames(list []string) ([]string, error) {
	var names []string
	seen := map[string]bool{}
	for _, s := range list {
		for part := range strings.SplitSeq(s, ",") {
			name, err := platformName(strings.TrimSpace(part))
			if err != nil {
				return nil, err
			}
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func platformName(s string) (string, error) {
	if s == "local" {
		return platforms.FormatAll(platforms.DefaultSpec()), nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return "", fmt.Errorf("platform %q: want os/arch[/variant], such as linux/arm64: %w", s, err)
	}
	return platforms.FormatAll(platforms.Normalize(p)), nil
}

// hostGateway is this machine's address in networks of steps; the engine knows
// what it is for steps that share the machine's network.
const hostGateway = "169.254.1.2"

// extraHosts translates HOST:IP and HOST=IP to the gateway's list.
func extraHosts(list []string) (string, error) {
	var out []string
	for _, s := range list {
		host, ip, ok := strings.Cut(s, "=")
		if !ok {
			host, ip, ok = strings.Cut(s, ":")
		}
		if ip == "host-gateway" {
			ip = hostGateway
		}
		if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
			ip = ip[1 : len(ip)-1]
		}
		if !ok || host == "" || strings.ContainsAny(host, `,"`) || net.ParseIP(ip) == nil {
			return "", fmt.Errorf("add-host %q: want HOST:IP", s)
		}
		out = append(out, host+"="+ip)
	}
	return strings.Join(out, ","), nil
}
