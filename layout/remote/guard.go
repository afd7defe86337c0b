package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const maxRedirects = 5

// errRefused marks requests that were not sent, and must not be tried again.
var errRefused = errors.New("refused")

// errPlain is errRefused for plain HTTP, which can be allowed.
var errPlain = fmt.Errorf("%w", errRefused)

// guard is the last stage before the network. It sees every request: those of
// the client, those to token servers, and those that redirects lead to.
type guard struct {
	registry string            // "host" or "host:port"
	own      http.RoundTripper // to the registry, with its certificates
	others   http.RoundTripper
	plain    bool // plain HTTP is allowed
	local    bool // the registry is on this machine, and so may be others
}

// RoundTrip refuses a request in plain text where that is not allowed (an
// http:// redirect would show a token's content to the network), and one to an
// address of this machine or link (a redirect to a cloud's metadata service).
// Only the registry itself is spoken to with its certificates.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.roundTrip(req)
	if errors.Is(err, errRefused) && req.Body != nil {
		req.Body.Close()
	}
	return resp, err
}

func (g *guard) roundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	if req.URL.Scheme != "https" && !(req.URL.Scheme == "http" && g.plain) {
		return nil, fmt.Errorf("%w: %s:// to %s, which is not listed as insecure", errPlain, req.URL.Scheme, req.URL.Host)
	}
	if host != hostname(g.registry) && isLinkLocal(host) {
		return nil, fmt.Errorf("%w: %s leads to the link-local address %s", errRefused, g.registry, req.URL.Host)
	}
	if host != hostname(g.registry) && !g.local && isLoopback(host) {
		return nil, fmt.Errorf("%w: %s leads to the internal address %s", errRefused, g.registry, req.URL.Host)
	}
	if sameHost(req.URL.Scheme, req.URL.Host, g.registry) {
		return g.own.RoundTrip(req)
	}
	return g.others.RoundTrip(req)
}

// limitRedirects bounds a chain of redirects. Only what changes nothing is
// redirected; credentials go to the registry's own host only, see bouncer.
func limitRedirects(req *http.Request, via []*http.Request) error {
	if m := via[0].Method; m != http.MethodGet && m != http.MethodHead {
		return http.ErrUseLastResponse
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	}
	if req.URL.User != nil {
		return fmt.Errorf("%w: a redirect to a URL with credentials", errRefused)
	}
	return nil
}

// isLoopback says whether host names this machine, in any spelling that the
// dialer takes for an address.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, ok := parseAddr(host)
	return ok && (addr.IsLoopback() || addr.IsUnspecified())
}

// isLinkLocal says whether host is an address of the local link, among which
// are the metadata services of clouds.
func isLinkLocal(host string) bool {
	addr, ok := parseAddr(host)
	return ok && linkLocal(addr)
}

func linkLocal(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr == netip.MustParseAddr("fd00:ec2::254")
}

// parseAddr parses an IP address. Old spellings of IPv4 ("2130706433",
// "127.1") resolve without a name server, so the system's parser decides.
func parseAddr(host string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.WithZone("").Unmap(), true
	}
	return parseLegacyIPv4(host)
}

// newTransport makes a pool of connections. Names must not resolve to the local
// link nor, unless local is true, to this machine.
func newTransport(conf *tls.Config, local bool) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	named := *dialer
	named.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return refuseInternal(address, local)
	}
	var proxies sync.Map // whose addresses are the user's choice
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			u, err := http.ProxyFromEnvironment(req)
			if u != nil {
				proxies.Store(u.Hostname(), true)
			}
			return u, err
		},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host := hostname(addr)
			if _, ok := proxies.Load(host); ok || isLinkLocal(host) || isLoopback(host) {
				return dialer.DialContext(ctx, network, addr) // the guard let it pass
			}
			return named.DialContext(ctx, network, addr)
		},
		TLSClientConfig:       conf,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 20, MaxReadFrameSize: 1 << 20},
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       256 << 10,
		DisableCompression:    true, // digests are of the bytes as stored
	}
}

// refuseInternal stops a connection to a name that resolves to the local link
// or, unless local is true, to this machine.
func refuseInternal(address string, local bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil
	}
	addr := ap.Addr().WithZone("").Unmap()
	if linkLocal(addr) || !local && (addr.IsLoopback() || addr.IsUnspecified()) {
		return fmt.Errorf("%w: it resolves to the internal address %s", errRefused, ap.Addr())
	}
	return nil
}
