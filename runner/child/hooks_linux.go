package child

import "syscall"

// hookTick is how often a hook with a time limit is looked at, in nanoseconds.
const hookTick = 2_000_000

// run runs a hook with the container's state as its standard input. A hook that
// fails, or takes longer than it may, is an error.
func (h *Hook) run(state string) error {
	var in [2]int
	if err := syscall.Pipe2(in[:], syscall.O_CLOEXEC); err != nil {
		return explain("make a pipe", err)
	}
	argv := h.Argv
	if len(argv) == 0 {
		argv = []string{h.Path}
	}
	pid, err := syscall.ForkExec(h.Path, argv, &syscall.ProcAttr{
		Env: h.Env, Files: []uintptr{fd(in[0]), 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	syscall.Close(in[0])
	if err != nil {
		syscall.Close(in[1])
		return explain("execute it", err)
	}
	go func() { // a hook that ends without reading all of it ends the writing
		for state != "" {
			n, err := syscall.Write(in[1], []byte(state[:min(len(state), 64<<10)]))
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				break
			}
			state = state[n:]
		}
		syscall.Close(in[1])
	}()
	return h.wait(pid)
}

func (h *Hook) wait(pid int) error {
	options := 0
	if h.Timeout > 0 {
		options = syscall.WNOHANG
	}
	for waited := uint64(0); ; {
		var status syscall.WaitStatus
		n, err := syscall.Wait4(pid, &status, options, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return explain("wait for it", err)
		case n == pid && status.Signaled():
			return explain("it was ended by signal "+itoa(int(status.Signal())), syscall.ECANCELED)
		case n == pid && status.ExitStatus() != 0:
			return explain("it ended with code "+itoa(status.ExitStatus()), syscall.ECANCELED)
		case n == pid:
			return nil
		}
		if waited += hookTick; waited > h.Timeout*1_000_000_000 {
			syscall.Kill(-pid, syscall.SIGKILL)
			syscall.Wait4(pid, &status, 0, nil)
			return explain("it takes longer than "+itoa(int(h.Timeout))+" s", syscall.ETIMEDOUT)
		}
		tick := syscall.NsecToTimespec(hookTick)
		syscall.Nanosleep(&tick, nil)
	}
}
