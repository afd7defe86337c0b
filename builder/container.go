package builder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/runner"
	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/ids"
	"bk.build/bk/runner/network"
	"bk.build/bk/runner/spec"
)

// step is one run of an exec operation: it prepares a container from the
// operation's mounts and turns what the command wrote into layers.
type step struct {
	n     *node
	op    *pb.ExecOp
	trees []*Tree // of the inputs

	tmp      string // the step's own directory in the store's tmp
	root     snapshot.FS
	readonly bool
	rootTree runner.Tree
	mounts   []mount
	targets  []snapshot.Target
	outs     []pending
	release  []func()
	net      string               // a mode of package spec
	netPath  string               // of a network of the step's own
	places   map[string]*places   // of a plain step's trees, by directory
	caches   map[*pb.Mount]string // those of a jailed step
	// links is what the command made of symbolic links and FIFOs, where owners
	// are remembered.
	links ids.Links
	// ranOut tells that the kernel ended a process because memory ran out.
	ranOut bool
}

// mount is one mount of the container, with what only the runner knows.
type mount struct {
	specs.Mount
	tree *runner.Tree
	file *runner.File
	view snapshot.FS // of tree, which is mounted from at on
	at   string
	host string // a directory of the store that is mounted
}

// pending is an output: an upper directory that becomes a layer, or an input
// that is handed on.
type pending struct {
	index int64
	base  *Tree
	dir   string    // holds fs and work; empty: base itself
	work  *workTree // instead of dir
}

func (s *step) run(ctx context.Context) ([]*Tree, error) {
	defer func() {
		for _, f := range slices.Backward(s.release) {
			f()
		}
	}()
	var err error
	if s.tmp, err = s.n.b.tmp.mkdir("step"); err != nil {
		return nil, err
	}
	s.release = append(s.release, func() { os.RemoveAll(s.tmp) })
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	c, err := s.container(ctx)
	if err != nil {
		return nil, err
	}
	running := ctx
	if limit := s.n.b.opts.StepTimeout; limit > 0 {
		var cancel context.CancelFunc
		running, cancel = context.WithTimeoutCause(ctx, limit, &TimeoutError{Limit: limit})
		defer cancel()
	}
	st, err := runner.Run(running, c)
	s.ranOut = st.OOM
	if err != nil {
		if c := context.Cause(running); c != nil {
			return nil, c
		}
		if limit := new(cgroup.LimitError); errors.As(err, &limit) {
			return nil, fmt.Errorf("%w; with --limits=best-effort the step runs without it", err)
		}
		return nil, fmt.Errorf("process %q did not start: %w", strings.Join(s.op.Meta.Args, " "), err)
	}
	if !s.valid(st.Code) {
		return nil, &ExitError{Args: s.op.Meta.Args, Code: st.Code, OOM: st.OOM, MemoryLimit: s.memoryLimit()}
	}
	return s.commit(ctx)
}

func (s *step) valid(code int) bool {
	if ok := s.op.Meta.ValidExitCodes; len(ok) > 0 {
		return slices.Contains(ok, int32(code))
	}
	return code == 0
}

// commit turns the upper directories into layers, and names the outputs.
func (s *step) commit(ctx context.Context) ([]*Tree, error) {
	var outs []*Tree
	for _, p := range s.outs {
		for int64(len(outs)) <= p.index {
			outs = append(outs, nil)
		}
		if p.dir == "" && p.work == nil {
			outs[p.index] = p.base
			continue
		}
		below, err := p.base.stack(ctx)
		if err != nil {
			return nil, err
		}
		l := s.n.b.layers.get(randomID())
		if err := s.finish(ctx, p, l); err != nil {
			return nil, fmt.Errorf("finish a layer: %w", err)
		}
		outs[p.index] = layersTree(append(below[:len(below):len(below)], l))
	}
	return outs, nil
}

// finish stores what the step wrote as the layer l.
func (s *step) finish(ctx context.Context, p pending, l *Layer) error {
	if p.work != nil {
		return s.commitPlain(ctx, p.work, l)
	}
	if err := os.RemoveAll(filepath.Join(p.dir, "work")); err != nil {
		return err
	}
	if err := s.saveLinks(p.dir); err != nil {
		return err
	}
	base, err := p.base.FS(ctx)
	if err == nil {
		err = dropIdleMarks(filepath.Join(p.dir, l.s.fs), base)
	}
	if err != nil {
		return err
	}
	return l.install(p.dir, l.s.fs, l.s.inodesFile())
}

// container describes the command and all that it sees.
func (s *step) container(ctx context.Context) (runner.Container, error) {
	var none runner.Container
	meta := s.op.Meta
	env, err := s.n.environment(s.op)
	if err != nil {
		return none, err
	}
	user, err := s.user(meta.User)
	if err != nil {
		return none, fmt.Errorf("user %q: %w", meta.User, err)
	}
	if err := s.network(ctx); err != nil {
		return none, fmt.Errorf("network: %w", err)
	}
	if err := s.addHostFiles(); err != nil {
		return none, err
	}
	for _, p := range []string{"/proc", "/dev", "/sys"} {
		s.targets = append(s.targets, snapshot.Target{Path: p})
	}
	trees, files := map[string]runner.Tree{}, map[string]runner.File{}
	var mounts []specs.Mount
	describe := spec.Default
	if s.jailed() {
		describe, err = spec.Chroot, s.fill(ctx)
	} else {
		err = s.addStubs(ctx)
	}
	if err == nil {
		err = s.settle()
	}
	if err != nil {
		return none, err
	}
	for _, m := range s.mounts {
		if s.jailed() {
			break // it is in the root
		}
		mounts = append(mounts, m.Mount)
		if m.tree != nil {
			trees[m.Destination] = *m.tree
		}
		if m.file != nil {
			files[m.Destination] = *m.file
		}
	}
	if err := s.loadLinks(trees); err != nil {
		return none, err
	}
	cgroupsPath, err := s.cgroupsPath()
	if err != nil {
		return none, err
	}
	sp, err := describe(spec.Options{
		Args: meta.Args, Env: env, Cwd: meta.Cwd, User: user,
		Hostname: s.hostname(), ReadonlyRoot: s.readonly, Network: s.net,
		Mounts: mounts, Rlimits: rlimits(meta.Ulimit),
		Insecure:  s.op.Security == pb.SecurityMode_INSECURE,
		Resources: s.resources(), CgroupsPath: cgroupsPath,
	})
	if err != nil {
		return none, err
	}
	keepShown(sp)
	s.joinNetwork(sp)
	if err := s.addDevices(sp); err != nil {
		return none, err
	}
	emulator, err := s.n.b.emulator(wanted(platformOf(s.n.v.Op)))
	if err != nil {
		return none, err
	}
	bundle, err := s.bundle()
	if err != nil {
		return none, err
	}
	return runner.Container{
		Runtime: s.n.b.opts.Runtime, Bundle: bundle, Links: &s.links, Cgroups: &s.n.b.cgroups, Excuse: s.excuse(),
		ID: randomID(), Isolation: s.n.b.opts.Isolation, Spec: sp, Root: s.rootTree, Trees: trees, Files: files, Emulator: emulator, Filters: &s.n.b.filters,
		Stdout: &output{s.n.event, 1}, Stderr: &output{s.n.event, 2},
	}, nil
}

// bundle makes the directory that another runtime takes the container from;
// it goes with the step's own.
func (s *step) bundle() (string, error) {
	if s.n.b.opts.Runtime == "" {
		return "", nil
	}
	dir := filepath.Join(s.tmp, "bundle")
	return dir, os.Mkdir(dir, 0o700)
}

// emulator returns what runs programs of a platform; nil when the host does.
func (b *build) emulator(p ocispecs.Platform) (*emulate.Emulator, error) {
	return b.emulators.do(platforms.FormatAll(p), func() (*emulate.Emulator, error) {
		return emulate.Find(p, emulate.Dirs{Emulators: b.opts.Emulators})
	})
}

// rlimits spells limits as the runtime specification does.
func rlimits(list []*pb.Ulimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, u := range list {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return out
}

// maxUserFile bounds /etc/passwd and /etc/group.
const maxUserFile = 10 << 20

// user resolves USER in the image's own files.
func (s *step) user(name string) (spec.User, error) {
	passwd, err := s.optional("etc/passwd")
	if err != nil {
		return spec.User{}, err
	}
	group, err := s.optional("etc/group")
	if err != nil {
		return spec.User{}, err
	}
	return spec.ResolveUser(bytes.NewReader(passwd), bytes.NewReader(group), name)
}

// optional reads a file of the root; one that isn't there is empty.
func (s *step) optional(name string) ([]byte, error) {
	b, err := snapshot.ReadFile(s.root, name, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (s *step) hostname() string { return cmp.Or(s.op.Meta.Hostname, defaultHostname) }

// addHostFiles mounts what the network needs to be known by name.
func (s *step) addHostFiles() error {
	for name, content := range map[string][]byte{
		resolvConf: s.nameServers(),
		hostsFile:  hosts(s.hostname(), s.op.Meta.ExtraHosts, s.netPath != ""),
	} {
		src, err := s.n.b.hostFile(path.Base(name), content)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(s.mounts, func(m mount) bool { return m.Destination == name }) {
			continue
		}
		s.targets = append(s.targets, snapshot.Target{Path: name, File: true})
		s.mounts = append(s.mounts, mount{Mount: specs.Mount{
			Destination: name, Type: "bind", Source: src, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
		}})
	}
	return nil
}

// output shows what a command writes.
type output struct {
	event  *event
	stream int
}

func (o *output) Write(p []byte) (int, error) {
	o.event.log(o.stream, p)
	return len(p), nil
}

// resolvConf and hosts are what the container sees in /etc; see hostFiles.
const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"
)

// hosts returns the text of /etc/hosts.
func hosts(hostname string, extra []*pb.HostIP, ownNetwork bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		ip := h.IP
		if ip == network.HostAddress && !ownNetwork {
			ip = "127.0.0.1" // the machine, seen from its own network
		}
		fmt.Fprintf(&b, "%s\t%s\n", ip, h.Host)
	}
	return b.Bytes()
}

// hostFile writes a file that containers mount, once for each content.
func (b *build) hostFile(name string, content []byte) (string, error) {
	return b.hostFiles.do(name+"\x00"+string(content), func() (string, error) {
		p, err := b.tmp.path(name)
		if err != nil {
			return "", err
		}
		return p, errors.Join(cache.WriteFile(p, content), os.Chmod(p, 0o644))
	})
}

// hostNameServers returns the machine's resolv.conf.
func hostNameServers() []byte {
	dt, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil
	}
	return dt
}

const defaultHostname = "buildkitsandbox"
