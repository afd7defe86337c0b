//go:build linux && (amd64 || arm64)

package trace

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestX(t *testing.T) {
	root := busybox(t)
	if os.Getenv("D") != "" {
		root = debian(t)
	}
	o := options(t, root, os.Getenv("S"))
	o.Binds = []Bind{{"/etc/resolv.conf", "/etc/resolv.conf", false}, {"/etc/hosts", "/etc/hosts", true}}
	if os.Getenv("GO") != "" {
		exec.Command("cp", "-a", "/usr/local/go", root+"/usr/local/").Run()
	}
	for range 3 {
		start := time.Now()
		out, st := run(t, o)
		t.Log(out, st, time.Since(start))
		o.Private = dir(t)
		if os.Getenv("ONCE") != "" {
			break
		}
	}
	start := time.Now()
	own := inChroot(t, copyRoot(t, root), os.Getenv("S"))
	t.Log("own", own, time.Since(start))
}
