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

// wanted returns the isolation that a command line asks for, and whether its
// command is one that is isolated at all.
func wanted(args []string, getenv func(string) string) (isolation string, ok bool) {
	command := ""
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		flag, value, joined := strings.Cut(args[i], "=")
		switch {
		case flag == "--root" || flag == "--isolation":
			if !joined && i+1 < len(args) {
				i++
				value = args[i]
			}
			if flag == "--isolation" {
				isolation = value
			}
		case command == "" && !strings.HasPrefix(flag, "-"):
			command = args[i]
		}
	}
	if isolation == "" {
		isolation = getenv("BK_ISOLATION")
	}
	switch isolation {
	case "", "auto":
		return auto, needs(command)
	case rootless, singleID:
		return isolation, needs(command)
	}
	return isolation, false
}
