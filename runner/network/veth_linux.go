package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// indexes is above the kernel's own numbers of interfaces.
	indexes   = 1 << 20
	peerIndex = 2 // of eth0, in the namespace

	vethInfoPeer = 1
	infoKind     = 1
	infoData     = 2
	flagOnlink   = 4 // RTNH_F_ONLINK
)

// create makes a namespace. The caller holds the lock.
func (n *Network) create() (*Namespace, error) {
	file, conn, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	defer conn.Close()
	ns := &Namespace{file: file}
	if err := n.connect(ns, conn); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// newNamespace makes an empty namespace and a socket to it.
func newNamespace() (file *os.File, conn *netlink.Conn, err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, nil, err
	}
	if file, err = os.Open("/proc/thread-self/ns/net"); err == nil {
		conn, err = netlink.Dial(familyRoute, nil)
	}
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		err = errors.Join(err, back) // the thread ends with the goroutine
	} else {
		runtime.UnlockOSThread()
	}
	if err != nil && file != nil {
		file.Close()
	}
	if err != nil && conn != nil {
		conn.Close()
	}
	return file, conn, err
}

// connect joins a namespace to this machine.
func (n *Network) connect(ns *Namespace, inside *netlink.Conn) error {
	var number uint32
	for tries := 0; ; tries++ {
		if n.last++; n.last == 0 {
			n.last++
		}
		number = uint32(n.last)
		err := n.addPair(number, ns.file)
		if err == nil {
			break
		}
		taken := errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)
		if !taken || tries == numbers {
			return fmt.Errorf("make a veth pair: %w", err)
		}
	}
	own := netip.AddrFrom4([4]byte{n.base[0], n.base[1], byte(number >> 8), byte(number)})
	gateway := netip.MustParseAddr(HostAddress)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"bring up lo", func() error { return up(inside, 1) }},
		{"bring up eth0", func() error { return up(inside, peerIndex) }},
		{"bring up " + name(number), func() error { return up(n.host, indexes+number) }},
		{"give eth0 its address", func() error { return address(inside, peerIndex, own, own, unix.RT_SCOPE_UNIVERSE) }},
		{"route", func() error { return defaultRoute(inside, gateway) }},
		{"give " + name(number) + " its address", func() error { return address(n.host, indexes+number, gateway, own, unix.RT_SCOPE_LINK) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func name(number uint32) string { return prefix + strconv.FormatUint(uint64(number), 10) }

// addPair makes both interfaces. The kernel opens neither before both are made.
func (n *Network) addPair(number uint32, ns *os.File) error {
	e := netlink.NewAttributeEncoder()
	e.String(unix.IFLA_IFNAME, name(number))
	e.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
		info.String(infoKind, "veth")
		info.Nested(infoData, func(data *netlink.AttributeEncoder) error {
			peer := netlink.NewAttributeEncoder()
			peer.String(unix.IFLA_IFNAME, "eth0")
			peer.Uint32(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
			attrs, err := peer.Encode()
			if err != nil {
				return err
			}
			data.Bytes(vethInfoPeer, append(link(peerIndex, false), attrs...))
			return nil
		})
		return nil
	})
	return request(n.host, unix.RTM_NEWLINK, netlink.Create|netlink.Excl, link(indexes+number, false), e)
}

// link is a struct ifinfomsg.
func link(index uint32, up bool) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	put32(b[4:], index)
	if up {
		put32(b[8:], unix.IFF_UP)
		put32(b[12:], unix.IFF_UP)
	}
	return b
}

func up(c *netlink.Conn, index uint32) error {
	return request(c, unix.RTM_NEWLINK, 0, link(index, true), netlink.NewAttributeEncoder())
}

// address gives an interface an address, and a route to the one at its other
// end.
func address(c *netlink.Conn, index uint32, local, other netip.Addr, scope byte) error {
	b := []byte{unix.AF_INET, 32, 0, scope, 0, 0, 0, 0} // struct ifaddrmsg
	put32(b[4:], index)
	e := netlink.NewAttributeEncoder()
	e.Bytes(unix.IFA_LOCAL, local.AsSlice())
	e.Bytes(unix.IFA_ADDRESS, other.AsSlice())
	return request(c, unix.RTM_NEWADDR, netlink.Create|netlink.Excl, b, e)
}

// defaultRoute sends everything to the other end of eth0.
func defaultRoute(c *netlink.Conn, gateway netip.Addr) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[4], b[5], b[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RTN_UNICAST
	put32(b[8:], flagOnlink)
	e := netlink.NewAttributeEncoder()
	e.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
	e.Uint32(unix.RTA_OIF, peerIndex)
	return request(c, unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, b, e)
}

// request sends one message and waits for the kernel's answer.
func request(c *netlink.Conn, kind uint16, flags netlink.HeaderFlags, head []byte, e *netlink.AttributeEncoder) error {
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(head, attrs...),
	})
	if op := (*netlink.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func put32(b []byte, v uint32) { binary.NativeEndian.PutUint32(b, v) }
