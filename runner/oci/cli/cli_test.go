//go:build linux

package cli

import (
	"slices"
	"testing"
)

// A process is a runtime by its name or its first argument, and only then.
func TestArguments(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want []string
		ok   bool
	}{
		{[]string{"/usr/bin/bk-runtime", "state", "x"}, []string{"state", "x"}, true},
		{[]string{"bk", "runtime", "state", "x"}, []string{"state", "x"}, true},
		{[]string{"bk", "build", "runtime"}, nil, false},
		{[]string{"bk"}, nil, false},
		{nil, nil, false},
	} {
		got, ok := Arguments(c.argv)
		if ok != c.ok || !slices.Equal(got, c.want) {
			t.Errorf("Arguments(%q) = %q, %t", c.argv, got, ok)
		}
	}
}

// Help, the version, and what needs images are left to the rest of the program.
func TestComplete(t *testing.T) {
	for line, want := range map[string]bool{
		"create --bundle b x": true, "--root r --log l list": true, "kill x KILL": true, "exec x ls --help": true,
		"create --nonsense x": true,
		"":                    false, "--help": false, "-h": false, "create --help": false, "--version": false, "-v": false,
		"spec": false, "spec image": false, "nonsense": false, "exec --help x": false,
	} {
		if got := Complete(fields(line)); got != want {
			t.Errorf("Complete(%q) = %t, want %t", line, got, want)
		}
	}
}

func fields(s string) (list []string) {
	for len(s) > 0 {
		i := slices.Index([]byte(s), ' ')
		if i < 0 {
			return append(list, s)
		}
		list, s = append(list, s[:i]), s[i+1:]
	}
	return list
}

// Flags are understood as runc understands them.
func TestParse(t *testing.T) {
	l := New()
	cmd, rest, err := l.parse(fields("--root /r -debug exec -e A=1 --env=B=2 -t --user 1:2 -d=false id cmd -x --flag"))
	if err != nil || cmd.Name() != "exec" || !slices.Equal(rest, []string{"id", "cmd", "-x", "--flag"}) {
		t.Fatalf("parse = %v, %q, %v", cmd, rest, err)
	}
	if l.global.root != "/r" || !l.global.debug {
		t.Errorf("global flags: %+v", l.global)
	}
	if _, rest, err = New().parse(fields("kill x --all KILL")); err != nil || !slices.Equal(rest, []string{"x", "KILL"}) {
		t.Errorf("parse = %q, %v", rest, err)
	}
	for _, bad := range []string{"create --bundle", "create --preserve-fds x y", "run -d=maybe x", "create -x y"} {
		if _, _, err := New().parse(fields(bad)); err == nil {
			t.Errorf("parse(%q) took it", bad)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "-1": -1, "4k": 4096, "512M": 512 << 20, "2gb": 2 << 30, "0": 0} {
		if n, err := parseBytes(s); n != want || err != nil {
			t.Errorf("parseBytes(%q) = %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "k", "-2", "1x", "9223372036854775807k", "b", "1.5g"} {
		if n, err := parseBytes(s); err == nil {
			t.Errorf("parseBytes(%q) = %d", s, n)
		}
	}
}
