package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/mdlayher/netlink"
)

// Network makes namespaces. It is safe for concurrent use. The caller closes it.
type Network struct {
	host *netlink.Conn // of this machine's namespace
	base [2]byte       // the first bytes of addresses

	mu     sync.Mutex // of host, and of what follows
	last   uint16     // the number that was given last
	closed bool
	spare  *Namespace
	making bool
	filled sync.WaitGroup
}

// Namespace is a network namespace with a way out.
type Namespace struct{ file *os.File }

// Path names the namespace for this process and for what it starts: it is below
// /proc, and valid until Close.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Close lets go of the namespace; it ends with the last process in it.
func (n *Namespace) Close() error { return n.file.Close() }

// Open prepares the machine: forwarding, and the rules of packets. An error says
// why this process cannot make networks.
func Open() (*Network, error) {
	base, err := freeAddresses("/proc/net/route")
	if err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(familyRoute, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	n := &Network{host: conn, base: base, last: firstNumber()}
	// The first namespace tells whether this can work before anything on the
	// machine is changed.
	if n.spare, err = n.create(); err == nil {
		err = errors.Join(forwarding(), packetRules())
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Take returns a namespace that nobody used before. The caller closes it.
func (n *Network) Take(ctx context.Context) (*Namespace, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ns := n.spare
	n.spare = nil
	if ns == nil {
		var err error
		if ns, err = n.create(); err != nil {
			return nil, err
		}
	}
	if !n.making && !n.closed {
		n.making = true
		n.filled.Go(n.fill)
	}
	return ns, nil
}

// fill makes a namespace for the next step.
func (n *Network) fill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.making = false
	if n.closed || n.spare != nil {
		return
	}
	// Whoever takes the next one is told of an error.
	n.spare, _ = n.create()
}

// Close lets go of what was not taken.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.filled.Wait()
	err := n.host.Close()
	if n.spare != nil {
		err = errors.Join(err, n.spare.Close())
	}
	return err
}
