//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A sample is what one build took.
type sample struct {
	wall time.Duration
	cpu  time.Duration // user and system, of all processes
	peak int64         // bytes resident, of the largest process
	end  time.Time
}

func (s sample) String() string {
	return fmt.Sprintf("%s (CPU %s, %d MB)", seconds(s.wall), seconds(s.cpu), s.peak>>20)
}

// measure runs commands one after the other, as one build. The daemon, if not
// 0, is a process that works for them: what it and its children use counts too.
func measure(ctx context.Context, commands [][]string, env []string, daemon int) (sample, string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	reap()
	syscall.Sync() // nobody pays for what another has written
	if err := resetPeak(daemon); err != nil {
		return sample{}, "", err
	}
	var s sample
	var said bytes.Buffer
	cpu := childrenCPU() + processCPU(daemon)
	start := time.Now()
	for _, args := range commands {
		peak, err := runOne(ctx, args, env, &said)
		if err != nil {
			return s, said.String(), err
		}
		s.peak = max(s.peak, peak)
	}
	s.end = time.Now()
	s.wall = s.end.Sub(start)
	reap()
	s.cpu = childrenCPU() + processCPU(daemon) - cpu
	if daemon != 0 {
		s.peak = max(s.peak, status(daemon, "VmHWM"))
	}
	return s, said.String(), nil
}

// runOne runs a command and returns the peak of its largest process.
func runOne(ctx context.Context, args, env []string, said *bytes.Buffer) (int64, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, said, said
	cmd.Dir = "/"
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", args[0], err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, errors.New("no resource usage")
	}
	return usage.Maxrss << 10, nil
}

// reap waits for processes whose parents have ended; they are ours then, and so
// is what they used.
func reap() {
	var info syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(-1, &info, syscall.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
	}
}

// resetPeak lets peaks start from what is resident now: the daemon's, and our
// own, which a new process starts from.
func resetPeak(daemon int) error {
	for _, pid := range []int{os.Getpid(), daemon} {
		if pid == 0 {
			continue
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return fmt.Errorf("reset the peak of memory: %w", err)
		}
	}
	return nil
}

// childrenCPU is what all processes used that we have waited for.
func childrenCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processCPU is what a process and the children that it has waited for used,
// from proc_pid_stat(5), in steps of 10 ms.
func processCPU(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return parseCPU(string(data))
}

func parseCPU(stat string) time.Duration {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0
	}
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// status returns a size of /proc/PID/status in bytes.
func status(pid int, field string) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), field+":"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// loadAverage is that of the last minute.
func loadAverage() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// unmountBelow unmounts what a builder left mounted below a directory.
func unmountBelow(dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	var below []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			below = append(below, f[4])
		}
	}
	slices.Reverse(below)
	for _, m := range below {
		_ = syscall.Unmount(m, syscall.MNT_DETACH) // the unmount of the volume will tell
	}
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}
