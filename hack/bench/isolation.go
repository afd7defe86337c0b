//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// isolated is bk with another isolation of steps than root's, run by root or by
// an ordinary user.
type isolated struct {
	bk
	isolation string
	user      bool
}

func (i *isolated) name() string   { return "bk " + i.isolation }
func (i *isolated) isolates() bool { return false } // the ratio is to other builders

// start gives the volume to the user.
func (i *isolated) start(_ context.Context, vol string) error {
	if !i.user {
		return nil
	}
	return filepath.WalkDir(vol, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, benchUser, benchUser)
	})
}

func (i *isolated) commands(j *job) [][]string {
	args := i.bk.commands(j)[0]
	args = append(args[:len(args)-1:len(args)-1], "--isolation", i.isolation, j.context)
	if i.user {
		args = append([]string{"setpriv", "--reuid", benchName, "--regid", fmt.Sprint(benchUser), "--clear-groups", "--"}, args...)
	}
	return [][]string{args}
}

// The ordinary user exists in the mount namespace of the measurement only.
const (
	benchName = "bk-bench"
	benchUser = 64123
)

// addUser puts the user and its subordinate ids on top of the machine's own
// files.
func addUser(work string) error {
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("%s:x:%d:%[2]d::/:/bin/sh", benchName, benchUser),
		"group":  fmt.Sprintf("%s:x:%d:", benchName, benchUser),
		"subuid": benchName + ":3000000:65536",
		"subgid": benchName + ":3000000:65536",
	} {
		path := filepath.Join("/etc", name)
		text, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if err != nil { // nobody on this machine has any
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				return err
			}
		}
		own := filepath.Join(work, name)
		if err := os.WriteFile(own, []byte(strings.TrimRight(string(text), "\n")+"\n"+line+"\n"), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(own, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("add an ordinary user: %w", err)
		}
	}
	return os.Chmod(work, 0o755)
}

// isolations measures one RUN step, all included, by building many.
func isolations(n, rounds int) *scenario {
	return &scenario{
		name: "isolation", title: fmt.Sprintf("one `RUN` step, of %d", n), kind: isolating,
		dockerfile: func(registry string) string { return "FROM " + registry + "/busybox\n" + echoes(n) },
		phases:     []*phase{cold(target{})},
		layers:     n, rounds: rounds, parts: n,
	}
}
