//go:build amd64 || arm64

package trace

import (
	"syscall"
	"unsafe"
)

// Landlock's rights to files.
const (
	llExecute  = 1 << 0
	llWrite    = 1 << 1
	llRead     = 1 << 2
	llReadDir  = 1 << 3
	llRefer    = 1 << 13
	llTruncate = 1 << 14
	llIoctl    = 1 << 15

	llAll  = 1<<16 - 1 // as of version 5
	llLook = llExecute | llRead | llReadDir
	llFile = llExecute | llWrite | llRead | llTruncate | llIoctl // what a rule for a file may name

	llScopeAbstractUnix = 1 << 0
	llScopeSignal       = 1 << 1

	// landlockSignals is the version that keeps signals inside.
	landlockSignals = 6

	landlockVersionFlag = 1
	landlockPathBeneath = 1
)

// landlockVersion returns the version of Landlock; 0: there is none.
func landlockVersion() int {
	v, errno := call(sysLandlockCreate, 0, 0, landlockVersionFlag)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// landlock makes the rule sets of the helper and, inside of that, of the step;
// -1: the kernel has no Landlock that lets files be renamed, which is version 2.
func landlock(o *Options, v *view) (outer, inner int, err error) {
	version := landlockVersion()
	if version < 2 {
		return -1, -1, nil
	}
	if outer, err = ruleset(version, 0); err != nil {
		return -1, -1, err
	}
	if inner, err = ruleset(version, llScopeAbstractUnix|llScopeSignal); err != nil {
		return -1, -1, err
	}
	for _, r := range append(v.rules(), rule{o.Private, llAll, llLook}) {
		if err := allow(outer, version, r.path, r.outer); err != nil {
			return -1, -1, err
		}
		if err := allow(inner, version, r.path, r.inner); err != nil {
			return -1, -1, err
		}
	}
	return outer, inner, nil
}

// rule gives the helper and the step rights to a path and what is below.
type rule struct {
	path         string
	outer, inner uint64
}

// handled are the rights that a version knows.
func handled(version int) uint64 {
	all := uint64(llAll)
	if version < 5 {
		all &^= llIoctl
	}
	if version < 3 {
		all &^= llTruncate
	}
	return all
}

func ruleset(version int, scoped uint64) (int, error) {
	attr := struct{ fs, net, scoped uint64 }{fs: handled(version)}
	size := uintptr(8)
	if version >= landlockSignals {
		attr.scoped, size = scoped, 24
	}
	n, errno := call(sysLandlockCreate, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, &failure{"make a Landlock rule set", errno}
	}
	return int(n), nil
}

func allow(set, version int, name string, rights uint64) error {
	n, err := syscall.Open(name, oPath|syscall.O_CLOEXEC, 0)
	if err == syscall.ENOENT { // nobody reaches it then
		return nil
	}
	if err != nil {
		return explain("open "+name, err)
	}
	defer syscall.Close(n)
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return explain("stat "+name, err)
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		rights &= llFile
	}
	var attr [12]byte // packed
	rights &= handled(version)
	for i := range 8 {
		attr[i] = byte(rights >> (8 * i))
	}
	for i := range 4 {
		attr[8+i] = byte(n >> (8 * i))
	}
	if _, errno := call(sysLandlockAddRule, fd(set), landlockPathBeneath, uintptr(unsafe.Pointer(&attr)), 0); errno != 0 {
		return &failure{"allow " + name + " by Landlock", errno}
	}
	return nil
}
