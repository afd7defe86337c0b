// Package runner runs one command in an OCI container.
//
// It is an OCI executor in Go over system calls: no external runtime, no
// daemon. The parent side turns a runtime-spec [specs.Spec] and a root
// described as overlay layers into a flat plan; the child side (package
// runner/child, which runs first in the re-executed binary) makes the mounts
// inside the container's own mount namespace, starts the command under its
// restrictions, reaps, forwards signals, and dies with its parent. Nothing is
// left on the host when either of them is killed.
//
// What a spec asks for and this package doesn't know is an error, never
// ignored, with one exception that doesn't weaken the container: annotations.
package runner

import (
	"io"
	"os"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/ids"
	"bk.build/bk/runner/seccomp"
)

// Tree is a file tree described as overlayfs layers.
type Tree struct {
	// Lower are absolute paths of unpacked layers, the topmost first. It may
	// be empty when Upper is given, and may be hundreds long.
	Lower []string
	// Upper and Work are absolute paths of empty directories of one file
	// system that take what the container writes. Without them the tree is
	// read-only. Upper alone, without layers, is an ordinary directory that
	// is mounted as it is.
	//
	// The mode and the owner of the merged root are those of Upper.
	//
	// The container's writes are not synced to disk before Run returns, and
	// overlayfs leaves marks in Work: a Work directory serves one Run.
	Upper, Work string
}

// Container is one command and all that it sees.
type Container struct {
	// ID names the container in messages and cgroups.
	ID string
	// Isolation is how the container is made. Empty: by namespaces, with the
	// rights that this process has.
	Isolation host.Isolation
	// Spec is the container as runtime-spec 1.3 describes it. Spec.Root.Path
	// is ignored in favour of Root; Spec.Root.Readonly is honoured. All user
	// and group names are resolved already.
	Spec *specs.Spec
	Root Tree
	// Trees gives for mounts of Spec.Mounts, by destination, the tree that is
	// mounted there; the mount's Source is then a path inside of the tree
	// (resolved inside of it, symlinks too) and its Options are flags such as
	// "ro". Mount points must exist in the tree below, or be made available by
	// the caller in a layer of their own.
	Trees map[string]Tree
	// Files gives for mounts of Spec.Mounts, by destination, a file in memory
	// that is mounted there; no disk ever holds its bytes. The mount's Source
	// is ignored.
	Files map[string]File
	// Emulator interprets the command when it's for a foreign platform and
	// the host has no handler for it; nil: the command runs as it is.
	Emulator *emulate.Emulator
	// Cgroups makes the container's cgroup unless Spec.Linux.CgroupsPath names
	// one; nil: it is made anew for this run. What Spec.Linux.Resources asks for
	// is in force before the container's first mount, and the cgroup is gone
	// when Run returns, or is left to the caller's Cgroups.
	Cgroups *cgroup.Own
	// Excuse is told of limits that cannot be applied, *[cgroup.LimitError]s;
	// the container runs without them. nil: it does not run.
	Excuse func(error)
	// Filters keeps compiled seccomp profiles for other containers; nil: each
	// is compiled anew, which takes most of a millisecond.
	Filters *seccomp.Cache

	// Links takes what is remembered of symbolic links and FIFOs that the
	// container leaves in Root.Upper, when Isolation is [host.SingleID]; nil: it
	// is forgotten.
	Links *ids.Links

	// Stdin is empty when it's nil. A file is handed to the command; another
	// reader is read ahead of it, and a Read that blocks may return after Run
	// did.
	Stdin io.Reader
	// Stdout and Stderr are written to as the output comes; nil discards it.
	// A file is handed to the command. Pipes are given to the command's user.
	Stdout, Stderr io.Writer

	// Signals are sent to the command as they arrive; nil: none.
	Signals <-chan os.Signal
	// Grace is the time between SIGTERM to the command and SIGKILL to the
	// container when the context ends; 0: SIGKILL at once.
	Grace time.Duration

	// Runtime is the absolute path of another OCI runtime that runs the
	// container, such as runc; empty: the container is made here. Bundle is then
	// the absolute path of an empty directory for it, which the caller removes.
	Runtime, Bundle string

	// hostRoot tells that Root is this machine's root directory with all that
	// is mounted below it.
	hostRoot bool
	// hideCgroups is a machine on which no cgroup can be made, for tests.
	hideCgroups bool
	// classicOverlay mounts overlays as kernels before 6.8 need, for tests.
	classicOverlay bool
}

// File is a file that exists in the container's memory only.
type File struct {
	Content  []byte
	Mode     uint32 // permission bits
	UID, GID uint32
}

// Status is how the command ended.
type Status struct {
	// Code is the exit code; 128+N when signal N ended the command; 127 when
	// it was not found and 126 when it could not be executed.
	Code int
	// Signal is the number of the signal that ended the command, or 0.
	Signal int
	// OOM reports that the kernel's out-of-memory killer ended a process. Only
	// a cgroup tells; without one it is false.
	OOM bool
}

// ExecError reports that the command could not be executed.
type ExecError struct {
	Name string // as in Spec.Process.Args
	Code int    // 127: not found; 126: found, and not executable
	Err  error
}

func (e *ExecError) Error() string {
	return "exec: " + strconv.Quote(e.Name) + ": " + e.Err.Error()
}

func (e *ExecError) Unwrap() error { return e.Err }
