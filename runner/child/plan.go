// Package child is the runner's side inside of the container.
//
// The runner re-executes its own binary with [Marker] in the environment and a
// stream socket as descriptor [ControlFD]. This package's init, which runs
// before nearly every other package's because its path sorts first and it
// imports next to nothing, then takes over the process and never returns:
//
//	runner                              child
//	------                              -----
//	clone into new namespaces      -->  PID 1, in init()
//	write the encoded Plan         -->  read it
//	                                    mount, pivot_root
//	                                    fork: rights, seccomp, execve
//	                               <--  ReportFailure (the container didn't start)
//	write signal numbers, a byte each ->  kill(step)
//	                                    reap orphans until the step ends
//	                               <--  ReportExit (wait status)
//	wait4                          <--  exit; the kernel kills what is left
//
// The end of the stream in either direction means that the other side died.
//
// The plan holds what the parent thought out: nothing here parses a
// specification, reads configuration or decides. The package must stay free of
// imports other than syscall and unsafe; a test says so.
package child

// Marker is the environment variable that makes a process a child. It is
// removed together with the rest of the environment before the step starts.
const Marker = "_BK_RUNNER_CHILD"

// Descriptors that the child is born with, besides 0 to 2, which are the
// step's.
const (
	ControlFD  = 3 // a stream socket to the runner
	EmulatorFD = 4 // the emulator's executable, when Plan.Emulator is set
)

// Detached is what a container of an OCI runtime has and a step has not.
// Descriptors are numbers that the child is born with; 0: none.
type Detached struct {
	// Enter tells that the process joins a container that is there: nothing is
	// mounted.
	Enter bool
	// RootPath is where the new root is mounted, so that hooks find it by its
	// path.
	RootPath string
	// Sync makes the child report that the mounts are made, and wait for a byte
	// from the runner, which runs hooks meanwhile.
	Sync bool
	// CreateHooks run after that, in the container's namespaces and with the
	// runner's paths; StartHooks in the container just before the command.
	CreateHooks, StartHooks []Hook
	// State is what hooks read of the container, as JSON, before and after it is
	// created.
	Creating, Created string
	// Console is a stream socket that gets the master of a new terminal, which
	// is then the command's standard streams. Rows and Columns are its size.
	Console       uint64
	Rows, Columns uint64
	// Gate is a FIFO: the command waits for a byte from it.
	Gate uint64
	// Inherit is how many descriptors, the first behind ControlFD, the command
	// has from 3 on.
	Inherit uint64
}

// Hook is a program that is run to its end.
type Hook struct {
	Path      string
	Argv, Env []string
	Timeout   uint64 // in seconds; 0: none
}

// Join is a namespace that somebody else made.
type Join struct {
	FD   uint64 // open
	Flag uint64 // CLONE_NEW*
}

// Plan is all that the child does, in the order of the fields.
type Plan struct {
	// Detached is set for a process that outlives the runner, and that becomes
	// the command itself instead of starting it; nil: a step.
	Detached *Detached
	// FDs is how many descriptors, from ControlFD+1 on, the child is born with.
	FDs uint64
	// Joins are namespaces that are entered before all else.
	Joins []Join
	// Time makes a time namespace, in which the command starts, with TimeOffsets
	// as /proc/PID/timens_offsets takes them.
	Time        bool
	TimeOffsets string
	// CgroupNamespace makes a namespace of cgroups whose root is where the
	// process is when the plan comes.
	CgroupNamespace bool

	OOMScoreAdj string // written to /proc/self/oom_score_adj unless empty
	Loopback    bool   // brings up lo
	Hostname    string
	Domainname  string

	// Propagation is what the mounts of the old root become before anything is
	// mounted, an MS_ type; 0: MS_PRIVATE. RootPropagation, if not 0, is what the
	// new root becomes at the end.
	Propagation, RootPropagation uint64
	Trees                        []Overlay // mounted aside, for mounts of kind MountTree
	Root                         Overlay
	Mounts                       []Mount
	Devices                      []Device // below /dev
	Links                        []Link   // below /dev
	Masked                       []string // absolute paths; those that don't exist are skipped
	Frozen                       []string // absolute paths made read-only; missing ones are skipped
	Sysctls                      []Sysctl

	RootReadonly bool
	RootNodev    bool // devices in the root can't be opened

	Emulator string // a binfmt_misc registration line, or empty
	Process  Process

	// Jail, when its Root is set, replaces all namespaces and mounts: of the
	// fields above OOMScoreAdj and Process count.
	Jail Jail
}

// Overlay is one tree of layers.
type Overlay struct {
	// Lower are absolute paths, the topmost first.
	Lower []string
	// Upper and Work are both set, or both empty for a read-only tree. With
	// Upper alone the tree is that directory itself.
	Upper, Work string
	// Recursive brings along what is mounted below an Upper that is alone.
	Recursive bool
	// Classic makes the mount by mount(2), as kernels before 6.8 need.
	Classic bool
	// UserXattr keeps overlayfs's notes in attributes user.overlay.*, as a user
	// namespace needs, instead of trusted.overlay.*.
	UserXattr bool
}

// Kinds of mounts.
const (
	MountFS   = 1 // a new file system of Type with Params
	MountBind = 2 // Source on the host
	MountTree = 3 // Source inside of Trees[Tree]
	MountFile = 4 // a file in memory with Content
	MountSame = 5 // what is mounted on Dest already gets other attributes
	MountOpen = 6 // the detached mount with descriptor FD
)

// Mount is one mount below the container's root.
type Mount struct {
	Kind   uint64
	Type   string
	Source string
	Tree   uint64
	// Dest is resolved inside of the root; it is created when it's missing.
	Dest string
	// Content, Mode, UID and GID are of a MountFile.
	Content        string
	Mode, UID, GID uint64
	// Params are for fsconfig: "key=value", or "flag".
	Params []string
	// Set and Clear are MOUNT_ATTR bits of the mount itself, RecSet and
	// RecClear of the mount and all mounts below it.
	Set, Clear, RecSet, RecClear uint64
	// Recursive binds what is mounted below Source too.
	Recursive bool
	// Propagation is an MS_ propagation type, with MS_REC or not; 0 leaves
	// the mount private.
	Propagation uint64
	// Plain demands that no element of Dest is a symbolic link.
	Plain bool
	// Late sets MOUNT_ATTR_RDONLY only after the devices were made.
	Late bool
	// FD is of a MountOpen.
	FD uint64
	// CopyUp fills a new file system with what is at Dest.
	CopyUp bool
}

// Device is a device node.
type Device struct {
	Path string // absolute, below /dev
	Mode uint64 // with the type bits
	Rdev uint64 // as mknod(2) takes it
	// Source is the host's node of the device, for where a new one is forbidden;
	// empty: the one at Path.
	Source   string
	UID, GID uint64
}

// Link is a symbolic link.
type Link struct {
	Path   string // absolute, below /dev
	Target string
}

// Sysctl is a file below /proc/sys and what is written to it.
type Sysctl struct {
	Path  string // relative to /proc/sys
	Value string
}

// Process is the step.
type Process struct {
	// Paths are tried in order, as execvp(3) does; relative ones start at
	// Cwd.
	Paths     []string
	Argv, Env []string
	Cwd       string // absolute; made when it's missing

	UID, GID uint64
	Groups   []uint64
	Umask    uint64
	Rlimits  []Rlimit

	// Capability sets, bit N for capability N.
	Bounding, Permitted, Effective, Inheritable, Ambient uint64
	LastCap                                              uint64

	NoNewPrivs bool
	// Label is written to File of /proc/thread-self/attr before the command
	// starts.
	Labels []Label
	// Personality is for personality(2), plus one; 0: as it is. IOPriority is
	// for ioprio_set(2), plus one.
	Personality, IOPriority uint64
	// Scheduler is a struct sched_attr, or empty.
	Scheduler string
	// MemoryMode is for set_mempolicy(2), plus one, with MemoryNodes as its mask.
	MemoryMode  uint64
	MemoryNodes []uint64
	// CPUs is the mask of processors on which the process starts.
	CPUs []uint64
	// Filter is a seccomp program as an array of struct sock_filter in the
	// machine's byte order, or empty; FilterFlags is for seccomp(2).
	Filter      string
	FilterFlags uint64
	// Listener is a stream socket that gets the descriptor of the filter's
	// notifications, with ListenerState; 0: there are none. The process's number,
	// at ListenerPID of the state, is replaced when a forked process becomes the
	// command.
	Listener      uint64
	ListenerState string
	// Notify is another such program, whose listener goes to the runner with
	// ReportListener before the step is executed.
	Notify      string
	NotifyFlags uint64
	// KeepGroups leaves the supplementary groups: a user namespace may forbid to
	// change them.
	KeepGroups bool
}

// Label is a security label of a Linux security module.
type Label struct{ File, Value string }

// Rlimit is one resource limit by the kernel's number.
type Rlimit struct {
	Resource, Soft, Hard uint64
}

// Kinds of reports from the child, each a frame of one kind byte, a 4-byte
// little-endian length and the payload.
const (
	// ReportFailure: the container was not started. Payload: errno (4 bytes,
	// little-endian) and what was done to what.
	ReportFailure = 'e'
	// ReportExec: execve failed. Payload: errno, and 4 bytes that are 1 when
	// the file is there but what interprets it is not.
	ReportExec = 'x'
	// ReportListener comes with the listener of Process.Notify. Payload: 4 bytes.
	ReportListener = 'l'
	// ReportExit: the step ended. Payload: wait status.
	ReportExit = 's'
	// ReportReady: the mounts are made, and the runner's hooks can run.
	ReportReady = 'r'
	// ReportCreated: the container waits to be started.
	ReportCreated = 'c'
	// ReportPID: the process that becomes the command. Payload: its number, in
	// the namespace of the child. The runner answers with its number in the
	// runner's namespace, as text of ListenerPIDSize bytes.
	ReportPID = 'p'
)

// ListenerPID is where Process.ListenerState has the process's number, and
// ListenerPIDSize how many bytes it takes.
const (
	ListenerPID     = len(`{"pid":`)
	ListenerPIDSize = 10
)

// Magic starts the stream from the runner; the length of the encoded plan (4
// bytes, little-endian) and the plan follow.
const Magic = "bkplan01"

// MaxPlan is the largest encoded plan in bytes.
const MaxPlan = 64 << 20
