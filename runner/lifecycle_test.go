//go:build linux

package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bk.build/bk/runner/spec"
)

// parentMarker makes the test binary the parent that TestParentKilled kills.
const parentMarker = "RUNNER_TEST_PARENT"

// parentMain runs a container that never ends.
func parentMain() {
	s, err := spec.Default(shell("sleep 1000 & echo ready; sleep 1000"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	dir := os.Getenv(parentMarker)
	root := Tree{Lower: []string{os.Getenv("ROOT")}, Upper: dir + "/upper", Work: dir + "/work"}
	_, err = Run(context.Background(), Container{Spec: s, Root: root, Stdout: os.Stdout})
	fmt.Println(err)
}

// insiders lists processes whose root directory holds the marker file of a
// container's upper directory.
func insiders(t testing.TB, upper string) (pids []string) {
	t.Helper()
	want, err := os.Stat(filepath.Join(upper, "marker"))
	if err != nil {
		t.Fatal(err)
	}
	roots, _ := filepath.Glob("/proc/[0-9]*/root")
	for _, r := range roots {
		got, err := os.Stat(filepath.Join(r, "marker"))
		if err == nil && got.Size() == want.Size() && got.ModTime().Equal(want.ModTime()) && got.Mode() == want.Mode() {
			pids = append(pids, filepath.Base(filepath.Dir(r)))
		}
	}
	return pids
}

func mark(t testing.TB, upper string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(upper, "marker"), []byte(t.Name()+time.Now().String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that other processes bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within ten seconds: %s", what)
}

// When the parent is killed no process of the container stays, and the layers
// are in no mount.
func TestParentKilled(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	os.Mkdir(dir+"/upper", 0o755)
	os.Mkdir(dir+"/work", 0o755)
	mark(t, dir+"/upper")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), parentMarker+"="+dir, "ROOT="+shared.root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("the container said %q", line)
	}
	if n := len(insiders(t, dir+"/upper")); n < 3 {
		t.Fatalf("%d processes in the container, want PID 1, the shell and sleep", n)
	}
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "no process in the container", func() bool { return len(insiders(t, dir+"/upper")) == 0 })
}

// sameProgram counts the other processes that run this test binary.
func sameProgram(t testing.TB) (n int) {
	t.Helper()
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		other, err := os.Stat(exe)
		if err == nil && os.SameFile(self, other) && filepath.Base(filepath.Dir(exe)) != fmt.Sprint(os.Getpid()) {
			n++
		}
	}
	return n
}

// It may be killed at any moment of the container's set-up.
func TestParentKilledEarly(t *testing.T) {
	needRoot(t)
	for i := range 20 {
		dir := t.TempDir()
		os.Mkdir(dir+"/upper", 0o755)
		os.Mkdir(dir+"/work", 0o755)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), parentMarker+"="+dir, "ROOT="+shared.root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	eventually(t, "no process of the containers", func() bool { return sameProgram(t) == 0 })
}

// The end of the context kills everything in the container, also what ignores
// signals and what left its session.
func TestCancel(t *testing.T) {
	c := container(t, shell("trap '' TERM INT HUP; setsid sleep 1000 & echo ready; while :; do sleep 1000; done"))
	mark(t, c.Root.Upper)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the reason")
	c.Stdout = writerFunc(func(p []byte) { cancel(why) })
	start := time.Now()
	status, err := Run(ctx, c)
	if !errors.Is(err, why) || status.Code != 137 {
		t.Errorf("Run = %+v, %v; want 137 and the context's cause", status, err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Run took %v", d)
	}
	if pids := insiders(t, c.Root.Upper); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// With a grace period the command gets SIGTERM first and may end by itself.
func TestGrace(t *testing.T) {
	c := container(t, shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.Stdout = writerFunc(func(p []byte) { cancel() })
	c.Grace = time.Minute
	if status, err := Run(ctx, c); !errors.Is(err, context.Canceled) || status.Code != 9 {
		t.Errorf("Run = %+v, %v; want code 9 and a cancelled context", status, err)
	}
	c = container(t, shell("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	c.Stdout = writerFunc(func(p []byte) { cancel() })
	c.Grace = 200 * time.Millisecond
	if status, err := Run(ctx, c); !errors.Is(err, context.Canceled) || status.Code != 137 {
		t.Errorf("Run = %+v, %v; want code 137 and a cancelled context", status, err)
	}
}

// A context that ended before does not start anything.
func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := container(t, shell("echo ran > /file"))
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(c.Root.Upper + "/file"); err == nil {
		t.Error("the command ran")
	}
}

// Signals reach the command.
func TestSignals(t *testing.T) {
	c := container(t, shell("trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done"))
	signals := make(chan os.Signal, 1)
	c.Signals = signals
	var out strings.Builder
	c.Stdout = writerFunc(func(p []byte) {
		if out.Len() == 0 {
			signals <- syscall.SIGUSR1
		}
		out.Write(p)
	})
	if status, err := Run(context.Background(), c); err != nil || status.Code != 5 {
		t.Errorf("Run = %+v, %v; want code 5", status, err)
	}
	if out.String() != "ready\ngot it\n" {
		t.Errorf("output %q", &out)
	}
}

// Processes that the command leaves behind end with it, and their output is
// not waited for; orphans are reaped while it runs.
func TestOrphans(t *testing.T) {
	start := time.Now()
	want(t, container(t, shell("sleep 1000 & (sleep 0.01 &) ; sleep 0.1; ps -o stat | grep -c Z; true")), "0")
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("Run took %v", d)
	}
}

// What the command was not given it does not have: descriptors, environment,
// blocked or ignored signals.
func TestNothingInherited(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	leak, err := syscall.Dup(int(f.Fd())) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	t.Setenv("SECRET", "x")
	signal.Ignore(syscall.SIGWINCH)
	defer signal.Reset(syscall.SIGWINCH)
	got := output(t, container(t, shell("ls /proc/$$/fd > /tmp/fds; tr '\\n' ' ' < /tmp/fds; env | grep -c SECRET; grep -E 'Sig(Blk|Ign)' /proc/self/status; ulimit -n")))
	want := "0 1 2 10 0\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n1024"
	if strings.Replace(got, " 10", "", 1) != strings.Replace(want, " 10", "", 1) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// No mount of a container is ever seen on the host.
func TestNoMountsOnHost(t *testing.T) {
	c := container(t, shell("echo ready; sleep 0.2"))
	look := func(when string) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), c.Root.Upper) {
			t.Errorf("%s: %v: the layers are mounted on the host:\n%s", when, err, mounts)
		}
	}
	c.Stdout = writerFunc(func([]byte) { look("during") })
	if _, err := Run(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	look("after")
	if err := os.RemoveAll(c.Root.Upper); err != nil {
		t.Errorf("the upper directory is still in use: %v", err)
	}
}

// Containers that run at the same time don't disturb each other.
func TestParallel(t *testing.T) {
	needRoot(t)
	for i := range 12 {
		c := container(t, shell(fmt.Sprintf("echo %d > /f; sleep 0.05; cat /f; hostname", i)))
		c.Spec.Hostname = fmt.Sprint("host", i)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			want(t, c, fmt.Sprintf("%d\nhost%d", i, i))
		})
	}
}
