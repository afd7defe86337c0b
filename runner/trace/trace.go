// Package trace runs a step in a root directory where nothing is allowed: no
// namespace, no chroot(2), no capability, one user id, no_new_privs.
//
// What the kernel still allows is to trace one's own children, to filter their
// system calls, and Landlock. So a helper process, this program started again,
// forks the step under a filter that stops it at each call that names a file
// or an id, and nothing else:
//
//	Run                             helper                       step
//	---                             ------                       ----
//	start the helper            --> Landlock for itself
//	write the plan              --> fork                     --> wait
//	                                PTRACE_SEIZE
//	                                                         --> Landlock, filters, execve
//	                                a call stops             <--
//	                                  resolve its paths inside of the root
//	                                  answer it, or rewrite it and let it go -->
//	write a signal, a byte each --> kill(step)
//	                            <-- how the step ended
//	wait for the helper         <-- kill and reap what is left
//
// Three kinds of calls stop. Those that change or open files by path run in
// the step with the translated path. Those whose result a root directory
// changes, such as stat, readlink and getcwd, are made by the helper, which
// writes the result into the step's memory. Ids are virtual: the step believes
// that it is root, and what it gives to other users is remembered with the
// file.
//
// The translation is not what keeps a step inside: another thread may change
// a path after the helper read it. That is Landlock's work, which the kernel
// applies to the files that are really opened.
package trace

import (
	"io"
	"os"
	"time"
)

// Bind makes a file or directory of the host appear at a path of the root.
type Bind struct {
	Guest    string // absolute and clean
	Host     string // absolute
	ReadOnly bool
}

// Rlimit is a resource limit by the kernel's number.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Options describe a step.
type Options struct {
	// Root is the absolute path of the step's root directory, which this
	// process's user owns.
	Root string
	// Binds are laid over Root, deeper ones over others. /proc, /sys and the
	// usual devices are there without being named. A file or a directory is
	// made at Guest in the root when it is missing, as for a mount.
	Binds []Bind
	// Private is an empty directory of the step's own, outside of Root. It holds
	// executables that were adapted, and /dev. The caller removes it.
	Private string

	// ReadOnly makes all of Root read-only that isn't a bind.
	ReadOnly bool

	Paths     []string // of the command, tried in order
	Argv, Env []string
	Cwd       string // absolute, in the root; made when it is missing
	UID, GID  uint32 // what the step believes to be
	Groups    []uint32
	Umask     int
	Rlimits   []Rlimit

	// Filter is a seccomp program in the kernel's form that is loaded too; it
	// must not return SECCOMP_RET_TRACE. FilterFlags are for seccomp(2).
	Filter      []byte
	FilterFlags uint64

	// The standard streams are handed to the step as they are.
	Stdin, Stdout, Stderr *os.File `json:"-"`
	// Signals are sent to the step as they arrive.
	Signals <-chan os.Signal `json:"-"`
	// Grace is the time between SIGTERM to the step and SIGKILL to all when the
	// context ends; 0: SIGKILL at once.
	Grace time.Duration `json:"-"`
	// Started is called with the id of the tracer's process before it starts
	// the step, for a cgroup; nil: nothing. Files may be closed by then.
	Started func(pid int) error `json:"-"`
}

// Status is how the step ended.
type Status struct {
	Code   int // 128+N for signal N
	Signal int
}

// ExecError reports that none of the command's paths could be executed.
type ExecError struct{ Err error }

func (e *ExecError) Error() string { return "execve: " + e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }

// Marker is the environment variable that makes a process a helper.
const Marker = "_BK_RUNNER_TRACE"

// controlFD is the helper's socket to Run.
const controlFD = 3

// Kinds of reports of the helper: a byte, an errno or a wait status (4 bytes,
// little-endian), the length of a text (4 bytes) and the text.
const (
	reportFailure = 'e'
	reportExec    = 'x'
	reportExit    = 's'
)

// maxPlan bounds the encoded Options in bytes.
const maxPlan = 64 << 20

// maxText bounds a report's text.
const maxText = 64 << 10

func readFull(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
