package oci

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// System calls younger than package syscall, with the same numbers on every
// architecture.
const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
)

// process is a process by number and start time, in ticks after boot.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// errGone is the error for a process that has ended.
var errGone = errors.New("no such process")

// findProcess identifies the process that has a number now.
func findProcess(pid int) (process, error) {
	_, start, err := readStat(pid)
	return process{pid, start}, err
}

// alive reports whether the process is there and is not a zombie.
func (p process) alive() bool {
	if p.Pid <= 0 {
		return false
	}
	state, start, err := readStat(p.Pid)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// open returns a descriptor of the process.
func (p process) open() (int, error) {
	if p.Pid <= 0 {
		return -1, errGone
	}
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(p.Pid), 0, 0)
	if errno == syscall.ESRCH {
		return -1, errGone
	}
	if errno != 0 {
		return -1, fmt.Errorf("pidfd_open: %w", errno)
	}
	// The number can't be given away any more: what has it now is compared.
	if !p.alive() {
		syscall.Close(int(fd))
		return -1, errGone
	}
	return int(fd), nil
}

// signal sends a signal to the process, and to no other.
func (p process) signal(n int) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return sendSignal(fd, n)
}

func sendSignal(pidfd, n int) error {
	_, _, errno := syscall.Syscall6(sysPidfdSendSignal, uintptr(pidfd), uintptr(n), 0, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case syscall.ESRCH:
		return errGone
	}
	return fmt.Errorf("send signal %d: %w", n, errno)
}

// readStat returns the state letter and the start time of a process.
func readStat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, errGone
	}
	return parseStat(string(b))
}

// parseStat reads /proc/PID/stat; the name in parentheses may hold anything.
func parseStat(line string) (state byte, start uint64, err error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return 0, 0, errors.New("stat of a process without a name")
	}
	fields := strings.Fields(line[end+1:])
	const startTime = 22 - 3 // fields are counted from 1; the state is the third
	if len(fields) <= startTime || len(fields[0]) != 1 {
		return 0, 0, errors.New("stat of a process is too short")
	}
	start, err = strconv.ParseUint(fields[startTime], 10, 64)
	return fields[0][0], start, err
}
