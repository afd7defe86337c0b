package oci

import (
	"fmt"
	"strconv"
	"strings"
)

// signalNames are Linux's signals from 1 on, as most architectures number
// them.
const signalNames = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT " +
	"CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"

// maxSignal is the last real-time signal, SIGRTMAX; SIGRTMIN is 34.
const (
	minRealTime = 34
	maxSignal   = 64
)

// ParseSignal understands a signal's number or name, with or without "SIG", in
// any case, and RTMIN+N or RTMAX-N.
func ParseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > maxSignal || s[0] == '+' {
			return 0, fmt.Errorf("signal %q: not a number from 1 to %d", s, maxSignal)
		}
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for i, known := range strings.Fields(signalNames) {
		if name == known {
			return i + 1, nil
		}
	}
	switch name {
	case "IOT":
		return 6, nil
	case "POLL":
		return 29, nil
	case "CLD":
		return 17, nil
	case "RTMIN":
		return minRealTime, nil
	case "RTMAX":
		return maxSignal, nil
	}
	if n, ok := realTime(name); ok {
		return n, nil
	}
	return 0, fmt.Errorf("signal %q is unknown", s)
}

// realTime parses RTMIN+N and RTMAX-N.
func realTime(name string) (int, bool) {
	if rest, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		n, err := strconv.ParseUint(rest, 10, 8)
		return minRealTime + int(n), err == nil && minRealTime+n <= maxSignal
	}
	if rest, ok := strings.CutPrefix(name, "RTMAX-"); ok {
		n, err := strconv.ParseUint(rest, 10, 8)
		return maxSignal - int(n), err == nil && n <= maxSignal-minRealTime
	}
	return 0, false
}
