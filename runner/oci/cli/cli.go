//go:build linux

// Package cli is the command line of the OCI runtime, with runc's syntax.
//
// It runs before most of the program is initialised (see package early), so it
// parses flags itself and imports as little as it can. Its tables of commands
// and flags are what "bk runtime --help" is made of, too.
package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	// exitExec is the code when a process could not be executed by exec.
	exitExec = 255
)

// Program names the runtime in messages, and as argv[0].
const Program = "bk-runtime"

// Arguments returns the runtime's arguments when a process's are those of a
// runtime: "bk-runtime ..." or "bk runtime ...".
func Arguments(argv []string) (args []string, ok bool) {
	switch {
	case len(argv) == 0:
		return nil, false
	case filepath.Base(argv[0]) == Program:
		return argv[1:], true
	case len(argv) > 1 && argv[1] == "runtime":
		return argv[2:], true
	}
	return nil, false
}

// Complete reports whether this package answers the arguments by itself; it
// doesn't print help or the version, and has no commands that need images.
func Complete(args []string) bool {
	cmd, _, err := New().parse(args)
	if cmd == nil {
		// What is wrong with the command line is better said by those who know
		// all commands.
		return false
	}
	return !errors.Is(err, errHelp)
}

func find(list []*Command, name string) *Command {
	for _, c := range list {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// usageError is a command line that can't be understood.
type usageError struct {
	command string
	err     error
}

func (u *usageError) Error() string {
	name := "bk runtime"
	if u.command != "" {
		name += " " + u.command
	}
	return u.err.Error() + "\nRun '" + name + " --help' for its flags and arguments."
}

func (u *usageError) Unwrap() error { return u.err }

// exitError ends the program with the code of a container's process; there is
// nothing to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Line is a command line: the global flags and the commands with theirs, and
// the values of all of them.
type Line struct {
	Global   FlagSet
	Commands []*Command

	global global
}

// New returns a command line without values.
func New() *Line {
	l := &Line{Commands: commands()}
	l.Global = l.global.flags()
	return l
}

// Main runs one command line and returns the exit code.
func Main(args []string) int {
	l := New()
	cmd, rest, err := l.parse(args)
	return l.run(cmd, rest, err)
}

// parse sets flags and finds the command and its arguments.
func (l *Line) parse(args []string) (cmd *Command, rest []string, err error) {
	if rest, err = l.Global.parse(args); err != nil {
		return nil, nil, err
	}
	if len(rest) == 0 {
		return nil, nil, errors.New("a command is missing")
	}
	if cmd = find(l.Commands, rest[0]); cmd == nil {
		return nil, nil, fmt.Errorf("unknown command %q", rest[0])
	}
	rest, err = cmd.Flags.parse(rest[1:])
	return cmd, rest, err
}

// run runs a command; err is what was wrong with the command line.
func (l *Line) run(cmd *Command, args []string, err error) int {
	c := &call{global: l.global, stdout: os.Stdout, stderr: os.Stderr}
	if cmd != nil {
		c.command = cmd.Name()
	}
	defer c.close()
	errOpen := c.open()
	if err == nil && cmd != nil {
		err = cmd.count(len(args))
	}
	if err != nil {
		err = &usageError{c.command, err}
	} else if err = errOpen; err == nil {
		err = cmd.do(c, args)
	}
	return c.exit(err)
}

// exit reports err and returns the exit code.
func (c *call) exit(err error) int {
	var exit exitError
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	c.say("error", err.Error())
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case c.command == "exec":
		return exitExec
	}
	return exitFailed
}

// count checks the number of arguments.
func (c *Command) count(n int) error {
	switch {
	case n < c.MinArgs && c.MinArgs == 1:
		return errors.New("the container's id is missing")
	case n < c.MinArgs:
		return fmt.Errorf("%d arguments are needed, %d given", c.MinArgs, n)
	case c.MaxArgs >= 0 && n > c.MaxArgs:
		return fmt.Errorf("at most %d arguments are possible, %d given", c.MaxArgs, n)
	}
	return nil
}
