//go:build !linux

package host

import "runtime"

// Probe finds out what the machine allows: nothing, where there is no Linux.
func Probe(Options) *Report {
	r := &Report{Checks: []Check{{ID: "process", Title: "this process", Detail: "on " + runtime.GOOS, Fix: []string{"build in Linux, such as in a virtual machine"}}}}
	r.settle()
	return r
}

// Overlay reports false: only Linux mounts layers over each other.
func Overlay(string) bool { return false }

// SingleUser reports false.
func SingleUser() bool { return false }

// Privileged reports false.
func Privileged() bool { return false }

// TrustedXattrs reports false.
func TrustedXattrs() bool { return false }

// Device returns "": only Linux has containers that see devices.
func Device(string, uint32, uint32) string { return "" }
