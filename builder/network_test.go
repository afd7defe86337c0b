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
