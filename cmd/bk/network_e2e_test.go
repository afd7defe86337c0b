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
