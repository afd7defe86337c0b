//go:build linux

package oci

import (
	"strings"
	"testing"
)

// An id is one plain name: it can lead nowhere else than to its own directory.
func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "web-1", "a.b_c+D", "..a", strings.Repeat("x", 255)} {
		if err := CheckID(id); err != nil {
			t.Errorf("CheckID(%q): %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", "/", "a b", "a\n", "a\x00", "ä", strings.Repeat("x", 256)} {
		if CheckID(id) == nil {
			t.Errorf("CheckID(%q) took it", id)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]int{"KILL": 9, "SIGKILL": 9, "sigterm": 15, "9": 9, "64": 64, "RTMIN": 34, "SIGRTMIN+1": 35, "RTMAX-1": 63, "SIGIOT": 6, "WINCH": 28} {
		if n, err := ParseSignal(s); n != want || err != nil {
			t.Errorf("ParseSignal(%q) = %d, %v, want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "0", "-9", "65", "+9", "SIG", "NOPE", "RTMIN+31", "RTMAX-31", "RTMIN+-1", "KILL "} {
		if n, err := ParseSignal(s); err == nil {
			t.Errorf("ParseSignal(%q) = %d", s, n)
		}
	}
}

// What is not a number in range is never taken for one (CVE-2026-30892).
func TestParseUser(t *testing.T) {
	if uid, gid, has, err := ParseUser("1000:100"); uid != 1000 || gid != 100 || !has || err != nil {
		t.Error(uid, gid, has, err)
	}
	if uid, _, has, err := ParseUser("7"); uid != 7 || has || err != nil {
		t.Error(uid, has, err)
	}
	for _, s := range []string{"", ":", "0:", ":0", "root", "-1", "+1", "1:-1", "4294967295", "4294967296", "4294967296:0", "1 ", "0x1", "1:2:3"} {
		if uid, gid, _, err := ParseUser(s); err == nil {
			t.Errorf("ParseUser(%q) = %d:%d", s, uid, gid)
		}
	}
}

func TestVersions(t *testing.T) {
	for v, ok := range map[string]bool{
		"1.0.0": true, "1.0.2-dev": true, "1.3.0": true, "1.9.9+x": true,
		"": false, "1": false, "0.2.0": false, "2.0.0": false, "1.0.x": false, "1.0.-1": false,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("checkVersion(%q): %v", v, err)
		}
	}
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"0", "1:2", "4294967296:0", "root", "1:2:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		uid, gid, has, err := ParseUser(s)
		if err != nil {
			return
		}
		if strings.Trim(s, "0123456789:") != "" || has != strings.Contains(s, ":") || uid == 1<<32-1 || gid == 1<<32-1 {
			t.Errorf("ParseUser(%q) = %d, %d, %t", s, uid, gid, has)
		}
	})
}

func FuzzParseSignal(f *testing.F) {
	for _, s := range []string{"KILL", "SIGRTMIN+3", "9", "RTMAX-30"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSignal(s); err == nil && (n < 1 || n > maxSignal) {
			t.Errorf("ParseSignal(%q) = %d", s, n)
		}
	})
}

// What is accepted has what everybody relies on.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{}}`))
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"linux":{},"hooks":{"poststop":[{"path":"x","timeout":0}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseConfig(b)
		if err == nil && (s.Root == nil || s.Root.Path == "" || s.Linux == nil) {
			t.Errorf("ParseConfig(%q) = %+v", b, s)
		}
	})
}
