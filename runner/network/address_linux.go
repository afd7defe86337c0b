package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	familyRoute = unix.NETLINK_ROUTE
	// numbers is how many addresses there are; 0 is none of them.
	numbers = 1 << 16
)

// firstNumber is where a process starts to look for free numbers: far from
// others.
func firstNumber() uint16 { return uint16(rand.N(numbers)) }

// maxRoutes bounds the routing table that is looked at, in bytes.
const maxRoutes = 4 << 20

// freeAddresses returns the first two bytes of addresses to which this machine
// has no way yet.
func freeAddresses(routes string) (base [2]byte, err error) {
	f, err := os.Open(routes)
	if err != nil {
		return base, fmt.Errorf("read the routing table: %w", err)
	}
	defer f.Close()
	table, err := io.ReadAll(io.LimitReader(f, maxRoutes))
	if err != nil {
		return base, fmt.Errorf("read the routing table: %w", err)
	}
	for second := byte(213); second < 250; second++ {
		base = [2]byte{10, second}
		if !routed(string(table), base) {
			return base, nil
		}
	}
	return base, errors.New("every network from 10.213.0.0/16 to 10.249.0.0/16 is in use")
}

// routed reports whether a line of /proc/net/route, other than the default
// route and those to our own interfaces, meets base.
func routed(table string, base [2]byte) bool {
	want := binary.BigEndian.Uint32([]byte{base[0], base[1], 0, 0})
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || strings.HasPrefix(f[0], prefix) {
			continue
		}
		to, err1 := printed(f[1])
		mask, err2 := printed(f[7])
		if err1 != nil || err2 != nil {
			continue // the heading
		}
		if mask &= 0xffff0000; mask != 0 && to&mask == want&mask {
			return true
		}
	}
	return false
}

// printed reads an address that the kernel printed as a number in its own byte
// order.
func printed(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 16, 32)
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, uint32(n))), err
}

const forwardSwitch = "/proc/sys/net/ipv4/ip_forward"

// forwarding makes this machine a router, which it is already wherever there are
// other containers.
func forwarding() error {
	now, err := os.ReadFile(forwardSwitch)
	if err == nil && string(bytes.TrimSpace(now)) == "1" {
		return nil
	}
	f, err := os.OpenFile(forwardSwitch, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("1")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("sysctl net.ipv4.ip_forward is not 1: %w", err)
	}
	return nil
}
