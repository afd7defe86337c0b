//go:build linux

package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Flag is one flag of the runtime's command line. It has the methods of
// pflag's Value, so that the help that cobra prints is made of the same
// declarations that the runtime itself parses.
type Flag struct {
	Name, Short string
	// Usage describes the flag; a word in back quotes names its value.
	Usage string
	// Bool is for flags that need no value.
	Bool bool

	set  func(string) error
	text func() string
	kind string
}

// Set, String and Type are pflag's Value.
func (f *Flag) Set(v string) error { return f.set(v) }

func (f *Flag) String() string { return f.text() }

// Type names the kind of value in the help.
func (f *Flag) Type() string { return f.kind }

// FlagSet is the flags of a command.
type FlagSet struct {
	Flags []*Flag
	// first ends the flags at the first argument; else they may follow it.
	first bool
}

func (s *FlagSet) add(f *Flag, name, short, usage string) {
	f.Name, f.Short, f.Usage = name, short, usage
	s.Flags = append(s.Flags, f)
}

func (s *FlagSet) bool(p *bool, name, short, usage string) {
	s.add(&Flag{
		Bool: true, kind: "bool",
		set: func(v string) (err error) {
			if *p, err = strconv.ParseBool(v); err != nil {
				return errors.New("must be true or false")
			}
			return nil
		},
		text: func() string { return strconv.FormatBool(*p) },
	}, name, short, usage)
}

func (s *FlagSet) string(p *string, name, short, usage string) {
	s.add(&Flag{
		kind: "string",
		set:  func(v string) error { *p = v; return nil },
		text: func() string { return *p },
	}, name, short, usage)
}

func (s *FlagSet) strings(p *[]string, name, short, usage string) {
	s.add(&Flag{
		kind: "stringArray",
		set:  func(v string) error { *p = append(*p, v); return nil },
		text: func() string { return strings.Join(*p, ",") },
	}, name, short, usage)
}

func (s *FlagSet) int(p *int, name, short, usage string) {
	s.add(&Flag{
		kind: "int",
		set: func(v string) (err error) {
			if *p, err = strconv.Atoi(v); err != nil {
				return errors.New("must be a number")
			}
			return nil
		},
		text: func() string { return strconv.Itoa(*p) },
	}, name, short, usage)
}

// number is an optional number; whether it was given shows in p.
func (s *FlagSet) number(p **int64, name, usage string) {
	s.add(&Flag{
		kind: "int",
		set: func(v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return errors.New("must be a number")
			}
			*p = &n
			return nil
		},
		text: func() string { return "" },
	}, name, "", usage)
}

// errHelp is returned for --help, which somebody else prints.
var errHelp = errors.New("help is asked for")

// parse sets the flags in args and returns the arguments.
func (s *FlagSet) parse(args []string) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		switch {
		case arg == "--":
			return append(rest, args[1:]...), nil
		case len(arg) < 2 || arg[0] != '-':
			if s.first {
				return append(rest, args...), nil
			}
			rest, args = append(rest, arg), args[1:]
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "help" || arg == "-h" {
			return nil, errHelp
		}
		f := s.find(name, strings.HasPrefix(arg, "--"))
		if f == nil {
			return nil, fmt.Errorf("unknown flag: %s", arg)
		}
		args = args[1:]
		switch {
		case hasValue:
		case f.Bool:
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("flag needs an argument: %s", arg)
		default:
			value, args = args[0], args[1:]
		}
		if err := f.Set(value); err != nil {
			return nil, fmt.Errorf("invalid argument %q for --%s: %w", value, f.Name, err)
		}
	}
	return rest, nil
}

// find looks a flag up. Like other runtimes, this one takes long names with
// one dash too.
func (s *FlagSet) find(name string, long bool) *Flag {
	for _, f := range s.Flags {
		if f.Name == name || !long && f.Short == name {
			return f
		}
	}
	return nil
}
