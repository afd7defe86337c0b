package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("networks with a veth pair need root")
	}
	n, err := Open()
	if err != nil {
		t.Skipf("this machine makes no networks: %v", err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func take(t *testing.T, n *Network) *Namespace {
	t.Helper()
	ns, err := n.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs f on a thread that is in the namespace.
func in(t *testing.T, ns *Namespace, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// dial connects from the namespace; the socket is made by the thread itself.
func dial(t *testing.T, ns *Namespace, kind int, addr string) (fd int, err error) {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	err = in(t, ns, func() error {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		tv := unix.Timeval{Sec: 1}
		if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())})
	})
	if fd > 0 {
		t.Cleanup(func() { unix.Close(fd) })
	}
	return fd, err
}

// ownAddress returns an address of this machine that others know.
func ownAddress(t *testing.T) string {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no IPv4 address")
	return ""
}

// TestReach: from a network this machine's addresses can be reached, by TCP and
// UDP, but neither its loopback nor another network.
func TestReach(t *testing.T) {
	n := open(t)
	a, b := take(t, n), take(t, n)
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	for _, host := range []string{ownAddress(t), HostAddress} {
		if _, err := dial(t, a, unix.SOCK_STREAM, host+":"+port); err != nil {
			t.Errorf("connect to %s: %v", host, err)
		}
	}
	if _, err := dial(t, a, unix.SOCK_STREAM, "127.0.0.1:"+port); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect to the machine's loopback: %v, want a refusal", err)
	}
	listen(t, b, 7070)
	listen(t, a, 7070) // the same port
	own := eth0(t, b)
	if _, err := dial(t, b, unix.SOCK_STREAM, own+":7070"); err != nil {
		t.Errorf("connect to itself: %v", err)
	}
	if _, err := dial(t, a, unix.SOCK_STREAM, own+":7070"); err == nil {
		t.Error("a network reaches another one")
	}
	u, err := net.ListenPacket("udp4", ownAddress(t)+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	fd, err := dial(t, a, unix.SOCK_DGRAM, u.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	u.SetReadDeadline(time.Now().Add(10 * time.Second))
	size, from, err := u.ReadFrom(buf)
	if err != nil || string(buf[:size]) != "ping" {
		t.Fatalf("UDP: %q, %v", buf[:size], err)
	}
	if _, err := u.WriteTo([]byte("pong"), from); err != nil {
		t.Fatal(err)
	}
	if size, err := unix.Read(fd, buf); err != nil || string(buf[:size]) != "pong" {
		t.Errorf("answer by UDP: %v", err)
	}
}

// TestWayOut: what leaves the machine carries the machine's address.
func TestWayOut(t *testing.T) {
	n := open(t)
	ns := take(t, n)
	// A second machine is a namespace behind another veth pair.
	file, conn, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far := &Namespace{file: file}
	t.Cleanup(func() { far.Close() })
	outside(t, n, far)
	listen(t, far, 8080)
	if _, err := dial(t, ns, unix.SOCK_STREAM, "198.51.100.2:8080"); err != nil {
		t.Fatalf("connect to another machine: %v", err)
	}
	// The way back in is shut.
	listen(t, ns, 8081)
	if _, err := dial(t, far, unix.SOCK_STREAM, eth0(t, ns)+":8081"); err == nil {
		t.Error("another machine reaches into a network")
	}
}

func listen(t *testing.T, ns *Namespace, port int) (fd int) {
	t.Helper()
	err := in(t, ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: port}), unix.Listen(fd, 8))
	})
	if err != nil {
		t.Fatalf("listen on port %d: %v", port, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// eth0 returns the namespace's address.
func eth0(t *testing.T, ns *Namespace) (addr string) {
	t.Helper()
	err := in(t, ns, func() error {
		list, err := net.InterfaceAddrs()
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				addr = n.IP.String()
			}
		}
		return err
	})
	if err != nil || addr == "" {
		t.Fatalf("address of eth0: %q, %v", addr, err)
	}
	return addr
}

// TestFreeAddresses: a network that the machine has a way to is not taken.
func TestFreeAddresses(t *testing.T) {
	file := t.TempDir() + "/route"
	line := func(dev, dest, mask string) string {
		swap := func(ip string) uint32 { return binary.NativeEndian.Uint32(net.ParseIP(ip).To4()) }
		return fmt.Sprintf("%s\t%08X\t00000000\t0001\t0\t0\t0\t%08X\t0\t0\t0\n", dev, swap(dest), swap(mask))
	}
	head := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for _, test := range []struct {
		name, routes string
		want         byte
	}{
		{"none", "", 213},
		{"default", line("eth0", "0.0.0.0", "0.0.0.0"), 213},
		{"taken", line("eth0", "10.213.0.0", "255.255.0.0"), 214},
		{"one host in it", line("eth0", "10.213.7.1", "255.255.255.255"), 214},
		{"a larger one", line("eth0", "10.208.0.0", "255.248.0.0"), 216},
		{"ours", line("bk-7", "10.213.0.7", "255.255.255.255"), 213},
	} {
		if err := os.WriteFile(file, []byte(head+test.routes), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := freeAddresses(file); err != nil || got != [2]byte{10, test.want} {
			t.Errorf("%s: %v, %v, want 10.%d", test.name, got, err, test.want)
		}
	}
	if err := os.WriteFile(file, []byte(head+line("eth0", "10.0.0.0", "255.0.0.0")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := freeAddresses(file); err == nil {
		t.Error("addresses that are all in use are given")
	}
}

// TestTwoNetworks: processes that work side by side get different addresses, and
// a namespace that is let go leaves no interface.
func TestTwoNetworks(t *testing.T) {
	x, y := open(t), open(t)
	y.last = x.last // they will want the same
	a, b := take(t, x), take(t, y)
	c, d := take(t, x), take(t, y)
	seen := map[string]bool{}
	for _, ns := range []*Namespace{a, b, c, d} {
		if ip := eth0(t, ns); seen[ip] {
			t.Errorf("%s is given twice", ip)
		} else {
			seen[ip] = true
		}
	}
	if !strings.HasPrefix(a.Path(), "/proc/") {
		t.Errorf("path %q", a.Path())
	}
}

// BenchmarkTake is what a step waits when nothing was made ahead.
func BenchmarkTake(b *testing.B) {
	n, err := Open()
	if err != nil {
		b.Skip(err)
	}
	defer n.Close()
	for b.Loop() {
		n.mu.Lock()
		ns, err := n.create()
		n.mu.Unlock()
		if err != nil {
			b.Fatal(err)
		}
		ns.Close()
	}
}

// outside makes ns a machine that is reached by a link of its own.
func outside(t *testing.T, n *Network, ns *Namespace) {
	t.Helper()
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (iproute2, util-linux)", tool)
		}
	}
	dev := fmt.Sprintf("bktest%d", os.Getpid()%10000)
	run := func(args string) {
		t.Helper()
		if out, err := exec.Command(strings.Fields(args)[0], strings.Fields(args)[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	run("ip link add " + dev + " type veth peer name far0 netns " + ns.Path())
	run("ip addr add 198.51.100.1/24 dev " + dev)
	run("ip link set " + dev + " up")
	run("nsenter --net=" + ns.Path() + " ip link set lo up")
	run("nsenter --net=" + ns.Path() + " ip addr add 198.51.100.2/24 dev far0")
	run("nsenter --net=" + ns.Path() + " ip link set far0 up")
	run("nsenter --net=" + ns.Path() + " ip route add 10.0.0.0/8 via 198.51.100.1")
}
