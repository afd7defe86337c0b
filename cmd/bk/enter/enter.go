// Package enter moves bk into a user namespace, when the command that it was
// started with works on unpacked layers and an ordinary user started it.
//
// It does so as the package is initialised, before nearly all others are: the
// process that goes on waits for the other one and needs nothing else. What
// cannot be entered is not an error here: the command goes on where it is, and
// finds out by [Isolation] and package host what that means for it.
package enter

import (
	"strings"
)

// variable tells the inner process what it is in.
const variable = "_BK_ISOLATION"

// Isolations that are entered. They are those of package host, which this one
// does not import.
const (
	auto     = ""
	rootless = "rootless"
	singleID = "single-id"
)

// needs are the commands whose work touches unpacked layers.
func needs(command string) bool {
	switch command {
	case "build", "b", "run", "cache":
		return true
	}
	return false
}

// request is what a command line asks for.
type request struct {
	isolation string
	// all says that one id is not enough: --require-isolation wants more.
	all bool
	// ok: the command is one that is isolated, in a namespace.
	ok bool
}

// wanted reads a command line.
func wanted(args []string, getenv func(string) string) (r request) {
	command := ""
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		flag, value, joined := strings.Cut(args[i], "=")
		switch {
		case flag == "--root" || flag == "--isolation" || flag == "--require-isolation":
			if !joined && i+1 < len(args) {
				i++
				value = args[i]
			}
			switch flag {
			case "--isolation":
				r.isolation = value
			case "--require-isolation":
				r.all = value == rootless || value == "root"
			}
		case command == "" && !strings.HasPrefix(flag, "-"):
			command = args[i]
		}
	}
	if r.isolation == "" {
		r.isolation = getenv("BK_ISOLATION")
	}
	if r.isolation == "auto" {
		r.isolation = auto
	}
	switch r.isolation {
	case auto, rootless, singleID:
		r.ok = needs(command)
	}
	return r
}
