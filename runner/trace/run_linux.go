//go:build amd64 || arm64

package trace

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Run runs the step and returns how it ended. When the context ends first, the
// step is killed and the context's cause is returned. When Run returns no
// process of the step is left.
//
// A command that can't be executed is an *ExecError.
func Run(ctx context.Context, o Options) (Status, error) {
	// The kernel kills the helper when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	h, err := startHelper(&o)
	if err != nil {
		return Status{}, fmt.Errorf("start the tracer: %w", err)
	}
	defer h.control.Close()
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		h.watch(ctx, &o, done)
	}()
	status, err := h.listen()
	errWait := h.cmd.Wait()
	close(done)
	<-watched
	if cause := context.Cause(ctx); cause != nil && (err != nil || status.Signal != 0) {
		return Status{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL)}, cause
	}
	if err == nil || !errors.Is(err, io.EOF) {
		return status, err
	}
	return Status{}, fmt.Errorf("the tracer ended unexpectedly: %w", errWait)
}

// helper is the process that traces the step.
type helper struct {
	cmd     *exec.Cmd
	control *os.File
}

func startHelper(o *Options) (*helper, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"bk-trace"}
	cmd.Env = []string{Marker + "=1", "GOMAXPROCS=2", "GOGC=400"}
	cmd.Dir = "/"
	for _, s := range []struct {
		from *os.File
		set  func(f *os.File)
	}{
		{o.Stdin, func(f *os.File) { cmd.Stdin = f }},
		{o.Stdout, func(f *os.File) { cmd.Stdout = f }},
		{o.Stderr, func(f *os.File) { cmd.Stderr = f }},
	} {
		if s.from != nil {
			s.set(s.from)
		}
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	body, err := json.Marshal(o)
	if err == nil && len(body) > maxPlan {
		err = fmt.Errorf("the step's description has %d bytes; %d are allowed", len(body), maxPlan)
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		mine.Close()
		return nil, err
	}
	if o.Started != nil {
		if err := o.Started(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill() // it has started nothing yet
			_ = cmd.Wait()
			mine.Close()
			return nil, err
		}
	}
	// A failed write means a dead helper; its status tells.
	_, _ = mine.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...))
	return &helper{cmd, mine}, nil
}

// listen takes the helper's report.
func (h *helper) listen() (Status, error) {
	head, err := readFull(h.control, 9)
	if err != nil {
		return Status{}, io.EOF
	}
	value, size := binary.LittleEndian.Uint32(head[1:]), binary.LittleEndian.Uint32(head[5:])
	if size > maxText {
		return Status{}, fmt.Errorf("the tracer sent a report of %d bytes", size)
	}
	text, err := readFull(h.control, int(size))
	if err != nil {
		return Status{}, io.EOF
	}
	switch head[0] {
	case reportExec:
		return Status{}, &ExecError{syscall.Errno(value)}
	case reportFailure:
		return Status{}, fmt.Errorf("%s: %w", text, syscall.Errno(value))
	}
	exit := syscall.WaitStatus(value)
	if exit.Signaled() {
		return Status{Code: 128 + int(exit.Signal()), Signal: int(exit.Signal())}, nil
	}
	return Status{Code: exit.ExitStatus()}, nil
}

// reapTime is how long a helper that was told to kill the step may take.
const reapTime = 10 * time.Second

// watch passes signals on and ends the step with the context.
func (h *helper) watch(ctx context.Context, o *Options, done <-chan struct{}) {
	signals, end := o.Signals, ctx.Done()
	var kill <-chan time.Time
	for killed := false; ; {
		select {
		case <-done:
			return
		case s, ok := <-signals:
			if n, isSignal := s.(syscall.Signal); ok && isSignal {
				h.signal(n)
			} else if !ok {
				signals = nil
			}
		case <-end:
			end = nil
			if o.Grace > 0 {
				h.signal(syscall.SIGTERM)
			}
			kill = time.After(o.Grace)
		case <-kill:
			if killed {
				_ = h.cmd.Process.Kill() // the kernel kills the step with it
				kill = nil
				continue
			}
			h.signal(syscall.SIGKILL)
			killed, kill = true, time.After(reapTime)
		}
	}
}

// signal sends a signal to the step; a dead helper doesn't mind.
func (h *helper) signal(n syscall.Signal) { _, _ = h.control.Write([]byte{byte(n)}) }
