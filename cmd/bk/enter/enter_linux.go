package enter

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"bk.build/bk/runner/userns"
)

func init() {
	if _, inside := os.LookupEnv(variable); inside {
		return
	}
	r := wanted(os.Args[1:], os.Getenv)
	if !r.ok || r.isolation == auto && rooted() {
		return
	}
	if code, ok := enter(r); ok {
		os.Exit(code) //nolint:forbidigo // this process was the other one's shell
	}
}

// rooted reports whether the process has root's rights over mounts already.
func rooted() bool { return os.Geteuid() == 0 && has(capSysAdmin) }

const (
	capSetgid   = 6
	capSetuid   = 7
	capSysAdmin = 21
	capSetfcap  = 31
)

// has reports whether the process has all of the capabilities, which are below
// 32.
func has(caps ...uint) bool {
	header := struct{ version, pid uint32 }{version: 0x20080522}
	var data [2]struct{ effective, permitted, inheritable uint32 }
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	for _, c := range caps {
		if errno != 0 || data[0].effective>>c&1 == 0 {
			return false
		}
	}
	return true
}

// enter runs the program in the best namespace that can be had; false when there
// is none.
func enter(r request) (code int, ok bool) {
	if userns.ProcHidden() && userns.MountProc() != nil {
		return 0, false // no container could have a /proc
	}
	if r.isolation != singleID {
		m, err := Mapping()
		if err == nil {
			if code, err = userns.Enter(m, environment(rootless)); err == nil {
				return code, true
			}
		}
		if r.isolation == rootless || r.all || os.Geteuid() == 0 {
			return 0, false
		}
	}
	code, err := userns.Enter(userns.Single(os.Geteuid(), os.Getegid()), environment(singleID))
	return code, err == nil
}

// Mapping is the ids that a rootless build has: the user's subordinate ones, or
// all of a root that lacks other rights.
func Mapping() (userns.Mapping, error) {
	if os.Geteuid() == 0 && has(capSetuid, capSetgid, capSetfcap) {
		return userns.Whole()
	}
	return userns.Subordinate(os.Geteuid(), os.Getegid(), userns.SystemFiles())
}

// environment tells the inner process what it is in, and programs that it starts
// whose namespace it is, as podman's do.
func environment(isolation string) []string {
	return append(os.Environ(), variable+"="+isolation, "_CONTAINERS_ROOTLESS_UID="+strconv.Itoa(os.Getuid()))
}

// Isolation returns how this process is isolated by another bk that waits for
// it: rootless or single-id, or "" when there is none. It takes the mark out of
// the environment. A mark that the namespace contradicts is not believed.
func Isolation() string {
	value, ok := os.LookupEnv(variable)
	if !ok {
		return ""
	}
	_ = os.Unsetenv(variable) // it was there
	if !rooted() || value != rootless && value != singleID || !userns.Inside() {
		return ""
	}
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return ""
	}
	ids, err := userns.ParseMap(string(text))
	if err != nil || strings.TrimSpace(string(text)) == "" || (userns.Size(ids) == 1) != (value == singleID) {
		return ""
	}
	return value
}
