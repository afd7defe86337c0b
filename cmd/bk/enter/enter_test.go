package enter

import (
	"strings"
	"testing"
)

// The commands that touch layers, and only they, enter a namespace; the flag
// wins over the variable, and the last flag over the first.
func TestWanted(t *testing.T) {
	tests := []struct {
		line, variable string
		want           request
	}{
		{"build .", "", request{ok: true}},
		{"--root /r b .", "", request{ok: true}},
		{"--root=/r cache prune", "", request{ok: true}},
		{"run app", "", request{ok: true}},
		{"image ls", "", request{}},
		{"--root build", "", request{}},
		{"", "", request{}},
		{"build --isolation=root .", "", request{isolation: "root"}},
		{"build --isolation rootless --isolation single-id .", "root", request{isolation: "single-id", ok: true}},
		{"build .", "rootless", request{isolation: "rootless", ok: true}},
		{"build .", "chroot", request{isolation: "chroot"}},
		{"build --isolation auto .", "chroot", request{ok: true}},
		{"build --isolation nonsense .", "", request{isolation: "nonsense"}},
		{"build --isolation", "", request{ok: true}},
		{"build --require-isolation=rootless .", "", request{all: true, ok: true}},
		{"build --require-isolation single-id .", "", request{ok: true}},
		{"run -- app --isolation=root", "", request{ok: true}},
	}
	for _, tt := range tests {
		getenv := func(name string) string { return map[string]string{"BK_ISOLATION": tt.variable}[name] }
		if got := wanted(strings.Fields(tt.line), getenv); got != tt.want {
			t.Errorf("bk %s: %+v, want %+v", tt.line, got, tt.want)
		}
	}
}
