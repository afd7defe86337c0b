package builder

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/host"
	"bk.build/bk/runner/network"
	"bk.build/bk/runner/spec"
)

// network settles the network that the step is in: the one that it names, else
// one of its own with a way out, else the machine's.
func (s *step) network(ctx context.Context) error {
	switch s.op.Network {
	case pb.NetMode_NONE:
		s.net = spec.NetworkNone
		return nil
	case pb.NetMode_HOST:
		s.net = spec.NetworkHost
		return nil
	}
	s.net = spec.NetworkHost
	if s.n.b.opts.Network != "" {
		s.net = s.n.b.opts.Network
		return nil
	}
	nets := s.n.b.ownNetworks()
	if nets == nil || onLoopback(s.op.Meta.ProxyEnv) {
		return nil
	}
	ns, err := nets.Take(ctx)
	if err != nil {
		return err
	}
	s.release = append(s.release, func() { ns.Close() })
	s.net, s.netPath = spec.NetworkNone, ns.Path()
	return nil
}

// nameServers is the resolv.conf of the step.
func (s *step) nameServers() []byte {
	text := hostNameServers()
	if s.netPath != "" {
		text = nameServers()
	}
	return s.n.b.opts.DNS.apply(text)
}

// apply replaces lines of a resolv.conf.
func (d DNS) apply(text []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		switch fields := strings.Fields(string(line)); {
		case len(fields) == 0:
		case fields[0] == "nameserver" && len(d.Servers) > 0:
		case (fields[0] == "search" || fields[0] == "domain") && len(d.Search) > 0:
		case fields[0] == "options" && len(d.Options) > 0:
		default:
			out.WriteString(strings.TrimRight(string(line), "\n") + "\n")
		}
	}
	for _, s := range d.Servers {
		out.WriteString("nameserver " + s + "\n")
	}
	if len(d.Search) > 0 {
		out.WriteString("search " + strings.Join(d.Search, " ") + "\n")
	}
	if len(d.Options) > 0 {
		out.WriteString("options " + strings.Join(d.Options, " ") + "\n")
	}
	return out.Bytes()
}

// joinNetwork has the container join the step's own network.
func (s *step) joinNetwork(sp *specs.Spec) {
	for i, ns := range sp.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace && s.netPath != "" {
			sp.Linux.Namespaces[i].Path = s.netPath
		}
	}
}

// ownNetworks returns what makes networks, or nil where steps share the
// machine's: where this process may not make any, or where name servers listen
// on the machine's loopback interface only.
func (b *build) ownNetworks() *network.Network {
	nets, err := b.networks.do(func() (*network.Network, error) {
		if i := b.opts.Isolation; i != "" && i != host.Root || nameServers() == nil && len(b.opts.DNS.Servers) == 0 {
			return nil, nil
		}
		nets, err := network.Open()
		if err != nil {
			// Steps share the machine's then; who expected otherwise should see why.
			ev := b.report.internal(fmt.Sprintf("[internal] network of steps: the machine's: %v", err))
			ev.start()
			ev.done(nil)
		}
		return nets, err
	})
	if err != nil {
		return nil
	}
	return nets
}

// closeNetworks ends what was made ahead.
func (b *build) closeNetworks() error {
	nets, err := b.networks.do(func() (*network.Network, error) { return nil, nil })
	if err != nil || nets == nil {
		return nil
	}
	return nets.Close()
}

// resolvConfs are where name servers are found: the machine's own list, and the
// one behind the resolver of systemd, which listens on the loopback interface.
func resolvConfs() []string { return []string{resolvConf, "/run/systemd/resolve/resolv.conf"} }

// nameServers returns a resolv.conf for a network of a step's own; nil when all
// servers listen on the machine's loopback interface.
func nameServers() []byte {
	for _, name := range resolvConfs() {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if kept, ok := reachable(text); ok {
			return kept
		}
	}
	return nil
}

// reachable leaves out the name servers on the loopback interface; ok is false
// when no other is there.
func reachable(text []byte) (kept []byte, ok bool) {
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) > 1 && fields[0] == "nameserver" {
			addr, err := netip.ParseAddr(fields[1])
			if err == nil && (addr.IsLoopback() || addr.Is6()) { // networks of steps are IPv4
				continue
			}
			ok = true
		}
		kept = append(kept, line...)
	}
	return kept, ok
}

// onLoopback reports whether a proxy listens on the machine's loopback
// interface.
func onLoopback(p *pb.ProxyEnv) bool {
	if p == nil {
		return false
	}
	return slices.ContainsFunc([]string{p.HttpProxy, p.HttpsProxy, p.FtpProxy, p.AllProxy}, func(value string) bool {
		if !strings.Contains(value, "://") {
			value = "http://" + value
		}
		u, err := url.Parse(value)
		if err != nil {
			return false
		}
		addr, err := netip.ParseAddr(u.Hostname())
		return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	})
}
