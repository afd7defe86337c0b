package builder

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// Name servers on the machine's loopback interface are not reached from a
// network of a step's own.
func TestReachableNameServers(t *testing.T) {
	for text, want := range map[string]string{
		"nameserver 10.0.0.1\nsearch a.example\n":            "nameserver 10.0.0.1\nsearch a.example\n",
		"nameserver 127.0.0.53\nnameserver 10.0.0.1\n":       "nameserver 10.0.0.1\n",
		"nameserver 127.0.0.53\noptions edns0\n":             "",
		"nameserver ::1\nnameserver fd00::1\n":               "",
		"# none\n":                                           "",
		"nameserver 192.0.2.1 # first\nnameserver 127.1.2.3": "nameserver 192.0.2.1 # first\n",
	} {
		kept, ok := reachable([]byte(text))
		if ok != (want != "") || ok && string(kept) != want {
			t.Errorf("%q: %q, %v", text, kept, ok)
		}
	}
}

// A step whose proxy listens on the machine's loopback interface shares the
// machine's network.
func TestProxyOnLoopback(t *testing.T) {
	for value, want := range map[string]bool{
		"": false, "http://127.0.0.1:3128": true, "localhost:3128": true, "http://[::1]:1": true,
		"http://proxy.example:3128": false, "10.0.0.1:3128": false, "%zz": false,
	} {
		if got := onLoopback(&pb.ProxyEnv{HttpsProxy: value}); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

// What is given replaces the machine's own lines, and nothing else.
func TestDNS(t *testing.T) {
	const own = "nameserver 10.0.0.1\nsearch a b\noptions edns0\n# note"
	for want, d := range map[string]DNS{
		own + "\n": {},
		"search a b\noptions edns0\n# note\nnameserver 192.0.2.1\nnameserver fd00::1\n": {Servers: []string{"192.0.2.1", "fd00::1"}},
		"nameserver 10.0.0.1\n# note\nsearch c d\noptions ndots:2 rotate\n":             {Search: []string{"c", "d"}, Options: []string{"ndots:2", "rotate"}},
	} {
		if got := string(d.apply([]byte(own))); got != want {
			t.Errorf("%+v: %q, want %q", d, got, want)
		}
	}
}
