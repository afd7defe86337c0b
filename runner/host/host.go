// Package host says what this machine lets this process do for the isolation
// of build steps, and which isolation follows from it.
package host

import "fmt"

// Isolation is how steps are kept apart from the machine and from each other.
type Isolation string

const (
	// Root: containers made by a process that is root on the host.
	Root Isolation = "root"
	// Rootless: the same containers inside of one user namespace of an
	// ordinary user, which maps the user's subordinate ids.
	Rootless Isolation = "rootless"
	// SingleID: a user namespace that holds the one id of the user; changes
	// of ids are answered and remembered, not made.
	SingleID Isolation = "single-id"
	// Chroot: no namespaces. A step runs in a copy of its file tree, inside of
	// what Landlock, seccomp and a changed root give.
	Chroot Isolation = "chroot"
)

// ParseIsolation reads the name of an isolation; "" and "auto" mean that the
// machine decides, and are returned as "".
func ParseIsolation(name string) (Isolation, error) {
	switch i := Isolation(name); i {
	case Root, Rootless, SingleID, Chroot:
		return i, nil
	case "", "auto":
		return "", nil
	}
	return "", fmt.Errorf("isolation %q: must be auto, root, rootless, single-id or chroot", name)
}

// Namespaced reports whether steps have namespaces of their own.
func (i Isolation) Namespaced() bool { return i != Chroot }
