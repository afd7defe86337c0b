package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// settleTime is how long the kernel may take to freeze a group, or to end its
// processes.
const settleTime = 10 * time.Second

// Freeze stops all processes of the group and returns when they stand still.
func (g *Group) Freeze() error {
	if dir, _, err := g.dir("freezer"); g.host.legacy("freezer") != nil {
		if err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
		return g.freezeV1(dir)
	}
	dir := g.v2()
	if dir == "" {
		return errors.New("freeze: there is neither a hierarchy with the controller freezer nor one of version 2")
	}
	if err := g.host.write(filepath.Join(dir, "cgroup.freeze"), "1"); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", dir, cause(err))
	}
	return waitFor("freeze cgroup "+dir, func() (bool, error) {
		events, err := readFile(filepath.Join(dir, "cgroup.events"))
		return strings.Contains(string(events), "frozen 1"), err
	})
}

// freezeV1 freezes by the freezer of version 1, which gets stuck when
// processes are forked at the same time: then it's started anew.
func (g *Group) freezeV1(dir string) error {
	file := filepath.Join(dir, "freezer.state")
	tries := 0
	return waitFor("freeze cgroup "+dir, func() (bool, error) {
		if tries++; tries%10 == 0 {
			_ = g.host.write(file, "THAWED")
		}
		if err := g.host.write(file, "FROZEN"); err != nil {
			return false, cause(err)
		}
		state, err := readFile(file)
		return strings.TrimSpace(string(state)) == "FROZEN", err
	})
}

// waitFor polls until ok or an error.
func waitFor(what string, ok func() (bool, error)) error {
	end := time.Now().Add(settleTime)
	for wait := 50 * time.Microsecond; ; wait *= 2 {
		done, err := ok()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if done {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not done after %s", what, settleTime)
		}
		time.Sleep(min(wait, 20*time.Millisecond))
	}
}

// Thaw lets the processes of the group go on.
func (g *Group) Thaw() error {
	for _, d := range g.dirs {
		file, value := "cgroup.freeze", "0"
		if !d.v2 {
			file, value = "freezer.state", "THAWED"
		}
		if err := g.host.write(filepath.Join(d.path, file), value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("thaw cgroup %s: %w", d.path, cause(err))
		}
	}
	return nil
}

// Frozen reports whether the group was frozen, by [Group.Freeze] or by others.
func (g *Group) Frozen() (bool, error) {
	for _, d := range g.dirs {
		file, want := "cgroup.freeze", "1"
		if !d.v2 {
			file, want = "freezer.state", "FROZEN"
		}
		text, err := readFile(filepath.Join(d.path, file))
		if err != nil && !gone(err) {
			return false, err
		}
		if strings.TrimSpace(string(text)) == want {
			return true, nil
		}
	}
	return false, nil
}

// Kill ends all processes of the group and of those below it, and returns when
// they have ended. Processes that fork meanwhile don't escape. It does not end
// this process: that one must not be in the group.
func (g *Group) Kill() error {
	atOnce := false
	if dir := g.v2(); dir != "" {
		err := g.host.write(filepath.Join(dir, "cgroup.kill"), "1") // since Linux 5.14
		if gone(err) && len(g.dirs) == 1 && !exists(dir) {
			return nil
		}
		atOnce = err == nil
	}
	frozen := false
	return waitFor("kill the processes of a cgroup", func() (bool, error) {
		pids, err := g.Procs()
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		if !atOnce {
			// While they are frozen nobody forks; they die when thawed.
			if !frozen {
				frozen = g.Freeze() == nil
			}
			if pids, err = g.Procs(); err != nil {
				return false, err
			}
			for _, pid := range pids {
				if err := kill(pid); err != nil {
					return false, err
				}
			}
			frozen = false
		}
		return false, g.Thaw()
	})
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// kill sends SIGKILL; a process that is gone is no error.
func kill(pid int) error {
	if pid <= 1 || pid == os.Getpid() {
		return fmt.Errorf("kill process %d: it is in a cgroup of a container", pid)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer func() { _ = p.Release() }()
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) && !gone(err) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}
