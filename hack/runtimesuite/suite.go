//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	module = "github.com/opencontainers/runtime-tools"
	limit  = time.Minute // of one test

	// notRun makes a container without a mount namespace, and then removes the
	// container's files through what its runtime has mounted on them.
	notRun = "linux_ns_itype"
)

// suite is the built programs.
type suite struct {
	dir    string // of the programs, runtimetest and the root file system
	tests  []string
	serial sync.Mutex // for tests that use the same control group
}

// newSuite builds the programs of hack/runtimetools when they aren't there.
// Root is the directory of bk's module.
func newSuite(ctx context.Context, root string, run *regexp.Regexp) (*suite, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &suite{dir: filepath.Join(root, ".cache/tools/runtimetools")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	tools := filepath.Join(root, "hack/runtimetools")
	if _, err := goTool(ctx, tools, "build", "-trimpath", "-ldflags=-s -w", "-o", s.dir+"/", "tool"); err != nil {
		return nil, err
	}
	source, err := goTool(ctx, tools, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return nil, err
	}
	name := "rootfs-" + runtime.GOARCH + ".tar.gz"
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(source), name))
	if err != nil {
		return nil, fmt.Errorf("the suite has no root file system for this architecture: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o644); err != nil {
		return nil, err
	}
	list, err := goTool(ctx, tools, "list", "tool")
	if err != nil {
		return nil, err
	}
	for _, p := range strings.Fields(list) {
		if test := filepath.Base(p); strings.Contains(p, "/validation/") && run.MatchString(test) {
			s.tests = append(s.tests, test)
		}
	}
	slices.Sort(s.tests)
	return s, nil
}

func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return string(out), nil
}

// outcome is what a test said.
type outcome struct {
	ok, notOK int
	err       error // of the test's program itself
	output    string
}

// passed says whether nothing failed. Some tests of the suite make no assertion
// and print an error only.
func (o outcome) passed() bool {
	return o.err == nil && o.notOK == 0 && (o.ok > 0 || !strings.Contains(o.output, `"error"`))
}

func (o outcome) String() string {
	text := fmt.Sprintf("%d/%d", o.ok, o.notOK)
	switch {
	case o.err != nil:
		return text + " died"
	case o.passed():
		return text
	case o.notOK == 0:
		return text + " error"
	}
	return text + " failed"
}

// count reads TAP. Lines that are indented are the subject's output. A test
// that is skipped or expected to fail counts as ok.
func count(tap string) (ok, notOK int) {
	for line := range strings.Lines(tap) {
		switch {
		case strings.HasPrefix(line, "ok "):
			ok++
		case strings.HasPrefix(line, "not ok ") && strings.Contains(line, "# TODO"):
			ok++
		case strings.HasPrefix(line, "not ok "):
			notOK++
		}
	}
	return ok, notOK
}

// column runs all tests over a runtime. What they leave behind is ended.
func (s *suite) column(ctx context.Context, name, program string, jobs int) (map[string]outcome, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of what the tests leave: %w", err)
	}
	work, err := os.MkdirTemp("", "runtimesuite-")
	if err != nil {
		return nil, err
	}
	command, err := wrapper(work, name, program)
	if err != nil {
		return nil, errors.Join(err, removeWork(work))
	}
	results, next := map[string]outcome{}, make(chan string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range max(1, jobs) {
		wg.Go(func() {
			for test := range next {
				o := s.runTest(ctx, test, command, work)
				mu.Lock()
				results[test] = o
				mu.Unlock()
			}
		})
	}
	for _, test := range s.tests {
		if ctx.Err() == nil && test != notRun {
			next <- test
		}
	}
	close(next)
	wg.Wait()
	return results, errors.Join(ctx.Err(), deleteContainers(command), killChildren(), removeWork(work))
}

// wrapper writes a program that is the runtime with a state directory of its
// own, as the suite passes no options.
func wrapper(work, name, program string) (string, error) {
	if name == "bk" {
		link := filepath.Join(work, "bk-runtime")
		if err := os.Symlink(program, link); err != nil {
			return "", err
		}
		program = link
	}
	for _, dir := range []string{"state", "tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(filepath.Join(work, "tmp"), 0o755); err != nil { // mapped users go through it
		return "", err
	}
	script := "#!/bin/sh\n"
	if name == "crun" {
		// Debian's refuses what is younger than it is, though the suite uses nothing of 1.3.
		script += "[ \"$1 $2\" != 'create --bundle' ] || sed -i 's/\"ociVersion\": *\"1[.]3[.]0\"/\"ociVersion\": \"1.0.2\"/' \"$3/config.json\"\n"
	}
	script += fmt.Sprintf("exec '%s' --root '%s' \"$@\"\n", program, filepath.Join(work, "state"))
	path := filepath.Join(work, "runtime")
	return path, errors.Join(os.WriteFile(path, []byte(script), 0o755), os.Chmod(work, 0o755))
}

// runTest runs one program in a mount namespace of its own, whose mounts go
// nowhere (Unshareflags makes them private).
func (s *suite) runTest(ctx context.Context, test, runtime, work string) outcome {
	if strings.HasPrefix(test, "linux_cgroups_") || strings.HasPrefix(test, "delete_") {
		s.serial.Lock()
		defer s.serial.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.dir, test))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "TMPDIR="+filepath.Join(work, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	o := outcome{err: err, output: stdout.String() + stderr.String()}
	o.ok, o.notOK = count(stdout.String())
	return o
}

// deleteContainers removes the containers that tests have left.
func deleteContainers(runtime string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, runtime, "list", "-q").Output()
	if err != nil {
		return fmt.Errorf("list the containers that are left: %w", err)
	}
	for _, id := range strings.Fields(string(out)) {
		if text, err := exec.CommandContext(ctx, runtime, "delete", "--force", id).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "runtimesuite: delete container %s: %v: %s\n", id, err, text)
		}
	}
	return nil
}

// killChildren ends this process's children, which are orphans of the tests,
// by their numbers, and theirs.
func killChildren() error {
	for range 100 {
		pids, err := children()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}
	return errors.New("processes of the tests don't end")
}

func children() (pids []int, err error) {
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		} else if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// removeWork removes a working directory unless something is mounted there.
func removeWork(work string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte(" "+work)) {
		return fmt.Errorf("something is mounted below %s: it is left there", work)
	}
	if out, err := exec.Command("rm", "-rf", "--one-file-system", work).CombinedOutput(); err != nil {
		return fmt.Errorf("remove %s: %w: %s", work, err, out)
	}
	return nil
}

// writeColumn records outcomes, and readColumn returns which tests passed.
func writeColumn(file string, column map[string]outcome) error {
	var lines []string
	for test, o := range column {
		lines = append(lines, test+" "+o.String()+"\n")
	}
	slices.Sort(lines)
	return os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644)
}

func readColumn(file string) (map[string]bool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	passed := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		test, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		passed[test] = !strings.Contains(result, " ")
	}
	return passed, nil
}
