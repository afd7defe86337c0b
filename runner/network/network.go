// Package network makes networks of their own for build steps.
//
// A network is a network namespace with a loopback interface and one end of a
// veth pair, "eth0", whose other end, "bk-N", is on this machine. The machine
// routes between the two and hides the namespace's address behind its own. There
// is no bridge: two steps share no link, and what one sends to the other is
// dropped. The name bk-N is also the lease of the N-th address: the kernel gives
// it once, to whichever process asks first, and takes it back with the
// namespace. So nothing has to be swept after a process that was killed, and
// any number of them can work side by side.
//
//	step's namespace            this machine
//	10.x.y.z/32, eth0  <---->   bk-N, 169.254.1.2 (HostAddress)
//	                            table bk of nftables: masquerade, and no way in
//
// A namespace has no name: its descriptor holds it. Namespaces are made ahead
// of need, one at a time, while steps run.
//
// Networks are IPv4 only.
package network

// HostAddress is this machine's address as seen from a network of [Network].
const HostAddress = "169.254.1.2"

// prefix starts the names of our interfaces on this machine.
const prefix = "bk-"
