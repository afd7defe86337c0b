package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"bk.build/bk/runner/oci"
)

func (c *call) start(id string) error { return c.rt.Start(id) }

func (c *call) state(id string) error {
	s, err := c.rt.State(id)
	if err != nil {
		return err
	}
	return c.printJSON(printed(s))
}

// printedState has the fields that callers read even when they are zero.
type printedState struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func printed(s *oci.State) printedState {
	return printedState{
		Version: s.Version, ID: s.ID, Pid: s.Pid, Status: string(s.Status), Bundle: s.Bundle,
		Rootfs: s.Rootfs, Created: s.Created, Annotations: s.Annotations, Owner: s.Owner,
	}
}

func (c *call) kill(all bool, args []string) error {
	name := "TERM"
	if len(args) > 1 {
		name = args[1]
	}
	n, err := oci.ParseSignal(name)
	if err != nil {
		return &usageError{c.command, err}
	}
	return c.rt.Kill(args[0], n, all)
}

func (c *call) delete(force bool, ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, c.rt.Delete(id, force))
	}
	return errors.Join(errs...)
}

func (c *call) list(format string, quiet bool) error {
	states, err := c.rt.List()
	if err != nil {
		return err
	}
	if quiet {
		for _, s := range states {
			fmt.Fprintln(c.stdout, s.ID)
		}
		return nil
	}
	switch format {
	case "json":
		list := []printedState{}
		for _, s := range states {
			list = append(list, printed(s))
		}
		return c.printJSON(list)
	case "table":
		w := tabwriter.NewWriter(c.stdout, 0, 1, 3, ' ', 0)
		fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
		for _, s := range states {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return w.Flush()
	}
	return c.unknownFormat(format)
}

func (c *call) unknownFormat(format string) error {
	return &usageError{c.command, fmt.Errorf("--format %q: must be table or json", format)}
}

func (c *call) ps(format, id string, options []string) error {
	pids, err := c.rt.Processes(id)
	if err != nil {
		return err
	}
	switch format {
	case "json":
		if pids == nil {
			pids = []int{}
		}
		return c.printJSON(pids)
	case "table":
	default:
		return c.unknownFormat(format)
	}
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.Command("ps", options...).Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return fmt.Errorf("ps %s: %w", strings.Join(options, " "), err)
	}
	return c.printProcesses(strings.Split(strings.TrimRight(string(out), "\n"), "\n"), pids)
}

// printProcesses prints the heading of ps(1) and the lines of some processes.
func (c *call) printProcesses(lines []string, pids []int) error {
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("ps: its output has no column PID; give it other options")
	}
	fmt.Fprintln(c.stdout, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Fprintln(c.stdout, line)
		}
	}
	return nil
}

// event is a line of "events".
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func (c *call) events(once bool, interval, id string) error {
	wait, err := time.ParseDuration(interval)
	if err != nil || wait <= 0 {
		return &usageError{c.command, fmt.Errorf("--interval %q: must be a time above 0, such as 5s", interval)}
	}
	enc := json.NewEncoder(c.stdout)
	for before := uint64(0); ; time.Sleep(wait) {
		usage, kills, err := c.rt.Usage(id)
		if errors.Is(err, oci.ErrNotRunning) && !once || errors.Is(err, oci.ErrNotExist) && before > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if err := enc.Encode(event{Type: "stats", ID: id, Data: usage}); err != nil || once {
			return err
		}
		if kills > before {
			before = kills
			if err := enc.Encode(event{Type: "oom", ID: id}); err != nil {
				return err
			}
		}
	}
}

func (c *call) features() error { return c.printJSON(oci.Features()) }

// forward passes this process's signals to a container's process until stop is
// called.
func forward(send func(int)) (stop func()) {
	signals := make(chan os.Signal, 32)
	notifyAll(signals)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if n, ok := s.(syscall.Signal); ok && n != syscall.SIGCHLD && n != syscall.SIGURG && n != syscall.SIGPIPE {
					send(int(n))
				}
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}
