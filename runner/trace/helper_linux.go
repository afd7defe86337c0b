//go:build amd64 || arm64

package trace

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"runtime"
	"syscall"
)

// init takes over the process when Run started it as a helper, and otherwise
// returns at once.
func init() {
	if _, ok := syscall.Getenv(Marker); ok {
		runtime.LockOSThread() // the main thread, which traces
		syscall.Exit(help())
	}
}

// exitRefused is the status when the step could not be started.
const exitRefused = 125

// failure is an operation that was refused.
type failure struct {
	op    string
	errno syscall.Errno
}

func (f *failure) Error() string { return f.op + ": " + f.errno.Error() }
func (f *failure) Unwrap() error { return f.errno }

func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{op, errnoOf(err)}
}

// help is the helper's main function; it returns the exit code.
func help() int {
	control := os.NewFile(controlFD, "control")
	head, err := readFull(control, 4)
	if err != nil {
		_, _ = syscall.Write(2, []byte(Marker+" is set, but descriptor 3 is not a runner; unset it\n"))
		return exitRefused
	}
	size := binary.LittleEndian.Uint32(head)
	if size > maxPlan {
		return exitRefused
	}
	body, err := readFull(control, int(size))
	o := new(Options)
	if err != nil || json.Unmarshal(body, o) != nil {
		return exitRefused
	}
	t, err := start(o)
	if err != nil {
		f, ok := err.(*failure)
		if !ok {
			f = &failure{"start the step", errnoOf(err)}
		}
		report(reportFailure, uint32(f.errno), f.op)
		return exitRefused
	}
	go t.forward(control, t.step)
	t.run()
	if t.exit.Exited() && t.exit.ExitStatus() == exitRefused && t.reported() {
		return exitRefused
	}
	report(reportExit, uint32(t.exit), "")
	return 0
}

// report writes one frame to Run.
func report(kind byte, value uint32, text string) {
	b := []byte{kind}
	b = binary.LittleEndian.AppendUint32(b, value)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	_, _ = syscall.Write(controlFD, append(b, text...)) // a dead parent has no use for it
}

// forward sends the signals to the step that arrive as bytes. SIGKILL, and the
// end of the stream, are for all: the tracer reaps them.
func (t *tracer) forward(control *os.File, step int) {
	var b [1]byte
	for {
		n, err := control.Read(b[:])
		if n != 1 || err != nil || b[0] == byte(syscall.SIGKILL) {
			_ = syscall.Kill(step, syscall.SIGKILL) // its end ends the others
			return
		}
		_ = syscall.Kill(step, syscall.Signal(b[0])) // it may be gone already
	}
}

// start restricts the helper and forks the step.
func start(o *Options) (*tracer, error) {
	if _, errno := call(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0); errno != 0 {
		return nil, &failure{"become a subreaper", errno}
	}
	if _, errno := call(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0); errno != 0 {
		return nil, &failure{"set no_new_privs", errno}
	}
	if _, errno := call(sysCloseRange, controlFD+1, 1<<32-1, closeRangeCloexec); errno != 0 {
		return nil, &failure{"protect descriptors", errno}
	}
	syscall.CloseOnExec(controlFD)
	v, err := newView(o)
	if err != nil {
		return nil, err
	}
	t := &tracer{
		view: v, private: o.Private, calls: handlers(), owners: newOwners(),
		tasks: map[int]*task{}, early: map[int]bool{},
		copies: map[copyKey]string{}, aliases: map[[2]string]string{}, sockets: map[string]string{},
	}
	if err := v.makeCwd(o.Cwd); err != nil {
		return nil, err
	}
	outer, inner, err := landlock(o, v)
	if err != nil {
		return nil, err
	}
	if outer >= 0 {
		if _, errno := call(sysLandlockRestrict, fd(outer), 0); errno != 0 {
			return nil, &failure{"restrict the helper by Landlock", errno}
		}
		syscall.Close(outer)
	}
	return t, t.launch(o, inner)
}
