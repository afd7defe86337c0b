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
		isolation      string
		ok             bool
	}{
		{"build .", "", "", true},
		{"--root /r b .", "", "", true},
		{"--root=/r cache prune", "", "", true},
		{"run app", "", "", true},
		{"image ls", "", "", false},
		{"--root build", "", "", false},
		{"", "", "", false},
		{"build --isolation=root .", "", "root", false},
		{"build --isolation rootless --isolation single-id .", "root", "single-id", true},
		{"build .", "rootless", "rootless", true},
		{"build .", "chroot", "chroot", false},
		{"build --isolation auto .", "chroot", "", true},
		{"build --isolation nonsense .", "", "nonsense", false},
		{"build --isolation", "", "", true},
		{"run -- app --isolation=root", "", "", true},
	}
	for _, tt := range tests {
		getenv := func(name string) string { return map[string]string{"BK_ISOLATION": tt.variable}[name] }
		if isolation, ok := wanted(strings.Fields(tt.line), getenv); isolation != tt.isolation || ok != tt.ok {
			t.Errorf("bk %s: %q, %t; want %q, %t", tt.line, isolation, ok, tt.isolation, tt.ok)
		}
	}
}
