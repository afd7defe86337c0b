//go:build linux

package main

import (
	"net"
	"strings"
	"testing"

	"bk.build/bk/runner/network"
)

// Steps have networks of their own: the same port twice, nothing of the machine's
// loopback interface, nothing of each other's, and a way to the machine by its
// name. A build in the machine's network has all of that.
func TestNetworkOfSteps(t *testing.T) {
	needContainers(t)
	if n, err := network.Open(); err != nil {
		t.Skip(err)
	} else {
		n.Close()
	}
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS one
RUN --mount=type=cache,id=meet,target=/meet sh -c 'echo one | nc -l -p 45671 > /dev/null & echo $! > /tmp/pid'; \
    touch /meet/one; for i in $(seq 300); do test -e /meet/two && break; sleep 0.1; done; ip addr show eth0 | grep -q 'inet 10' && kill $(cat /tmp/pid)
FROM busybox AS two
RUN --mount=type=cache,id=meet,target=/meet sh -c 'echo two | nc -l -p 45671 > /dev/null & echo $! > /tmp/pid'; \
    touch /meet/two; for i in $(seq 300); do test -e /meet/one && break; sleep 0.1; done; kill $(cat /tmp/pid)
FROM busybox
ARG PORT
COPY --from=one /etc/group /1
COPY --from=two /etc/group /2
RUN ! nc -w 1 127.0.0.1 $PORT < /dev/null && nc -w 5 machine $PORT < /dev/null | grep -q served && echo reached
RUN --network=none test "$(ls /sys/class/net)" = lo && ! nc -w 1 machine $PORT < /dev/null
`)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("served\n"))
			c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	out := s.build(base(t, "busybox"), "--build-arg=PORT="+port, "--add-host=machine:host-gateway")
	if !strings.Contains(out.logs, "reached") {
		t.Errorf("logs: %s", out.logs)
	}
	s.write("-- Dockerfile --\nFROM busybox\nARG PORT\nRUN nc -w 5 127.0.0.1 $PORT < /dev/null | grep served && nc -w 5 machine $PORT < /dev/null | grep served\n")
	s.build(base(t, "busybox"), "--network=host", "--build-arg=PORT="+port, "--add-host=machine:host-gateway")
}

// Name servers, search domains and options that are given are a step's, and
// never in a layer; what is no line of a resolv.conf is refused.
func TestDNSOfSteps(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
RUN cat /etc/resolv.conf
`)
	out := s.build(base(t, "busybox"), "--dns=192.0.2.7", "--dns=fd00::7", "--dns-search=a.example", "--dns-option=ndots:3")
	for _, want := range []string{"nameserver 192.0.2.7\n", "nameserver fd00::7\n", "search a.example\n", "options ndots:3\n"} {
		if !strings.Contains(out.logs, want) {
			t.Errorf("no %q in %q", want, out.logs)
		}
	}
	if strings.Count(out.logs, "nameserver") != 2 {
		t.Errorf("other servers are asked too: %q", out.logs)
	}
	for _, flag := range []string{"--dns=name", "--dns-search=a b", "--dns-option=x\nnameserver 10.0.0.1", "--dns-search="} {
		if o := s.run("build", ".", flag); o.code != exitUsage {
			t.Errorf("%q: exit code %d: %s", flag, o.code, o.stderr)
		}
	}
}
