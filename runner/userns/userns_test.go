package userns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A user's ranges follow each other from 1 on, those of the name and those of
// the number, and what is no range is left out.
func TestSubordinate(t *testing.T) {
	tests := []struct {
		name, subuid string
		want         []Extent
	}{
		{"by name", "a:1:2\njoe:100000:65536\n", []Extent{{0, 1000, 1}, {1, 100000, 65536}}},
		{"by number", "1000:7:3", []Extent{{0, 1000, 1}, {1, 7, 3}}},
		{"two", "joe:10:5\n\njoe:100:5\n", []Extent{{0, 1000, 1}, {1, 10, 5}, {6, 100, 5}}},
		{"damaged", "joe:x:5\njoe:10\njoe:10:0\njoe:10:99999999999\njoe:20:1\n", []Extent{{0, 1000, 1}, {1, 20, 1}}},
		{"all", "joe:1:4294967295\n", []Extent{{0, 1000, 1}, {1, 1, 4294967294}}},
		{"none", "joey:1:2\nroot:1:2\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string) string {
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil { //nolint:forbidigo // a test's own file
					t.Fatal(err)
				}
				return file
			}
			files := Files{
				UID: write("subuid", tt.subuid), GID: write("subgid", "joe:1:1\n"),
				Passwd: write("passwd", "root:x:0:0::/:\njoe:x:1000:1000::/:\n"),
			}
			m, err := Subordinate(1000, 1000, files)
			if tt.want == nil {
				if e := new(NoSubordinateError); !errors.As(err, &e) || e.User != "joe" || e.File != files.UID {
					t.Errorf("error %v, want none for joe", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, m.UIDs); d != "" {
				t.Errorf("ids (-want +got):\n%s", d)
			}
		})
	}
}

// What the kernel prints is read, anything else is refused.
func FuzzParseMap(f *testing.F) {
	f.Add("         0       1000          1\n         1     100000      65536\n")
	f.Add("0 0 4294967295")
	f.Add("0 0")
	f.Add("0 0 4294967296")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseMap(text)
		if err != nil {
			return
		}
		again, err := ParseMap(lines(list))
		if err != nil || !cmp.Equal(list, again) {
			t.Errorf("%q: %v, again %v, %v", text, list, again, err)
		}
	})
}
