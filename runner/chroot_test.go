//go:build linux

package runner

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/host"
	"bk.build/bk/runner/spec"
)

// jail returns a container of the isolation chroot with a root of its own.
func jail(t testing.TB, o spec.Options) Container {
	t.Helper()
	needRoot(t)
	s, err := spec.Chroot(o)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("cp", "-a", shared.root, root).CombinedOutput(); err != nil {
		t.Fatalf("copy the root: %v\n%s", err, out)
	}
	if err := unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(root, "dev/null"), 0o666)
	return Container{Isolation: host.Chroot, Spec: s, Root: Tree{Upper: root}, Filters: &shared.filters}
}

// A step without namespaces is an ordinary step: its directory, its user, its
// environment, its exit code.
func TestChroot(t *testing.T) {
	o := shell("pwd; id -u; id -G; echo $HOME; umask; cat <&0; echo made > made; exit 3")
	o.Cwd, o.User = "/work/new", spec.User{UID: 12, GID: 34, Groups: []uint32{56}, Home: "/h"}
	c := jail(t, o)
	os.MkdirAll(filepath.Join(c.Root.Upper, "work"), 0o777)
	os.Chmod(filepath.Join(c.Root.Upper, "work"), 0o777)
	c.Stdin = strings.NewReader("input\n")
	out, status, err := try(t, c)
	if err != nil || status.Code != 3 {
		t.Fatalf("Run = %+v, %v, want code 3", status, err)
	}
	if want := "/work/new\n12\n34 56\n/h\n0022\ninput"; !strings.HasPrefix(out, want) {
		t.Errorf("output %q, want %q", out, want)
	}
	for name, want := range map[string]int{"no-such-program": 127, "/etc": 126} {
		_, status, err := try(t, jail(t, step(name)))
		if !errors.As(err, new(*ExecError)) || status.Code != want {
			t.Errorf("Run of %s = %+v, %v, want an *ExecError and code %d", name, status, err, want)
		}
	}
}

// None of the ways out of a changed root is open.
func TestChrootEscape(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "secret")
	if err := os.WriteFile(outside, []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A descriptor that this process leaks.
	leaked, err := unix.Open(top, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	victim := exec.Command("sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer victim.Wait()
	defer victim.Process.Kill()
	pid := strconv.Itoa(victim.Process.Pid)
	for name, script := range map[string]string{
		"dots":             "cat ../../../../../.." + outside,
		"absolute":         "cat " + outside,
		"chroot":           "mkdir d; chroot d true",
		"chroot to itself": "chroot / true",
		"mount":            "mount -t proc proc /proc",
		"bind":             "mount -o bind / /tmp",
		"unshare":          "unshare -m true",
		"user namespace":   "unshare -Ur true",
		"descriptor":       "cat <&" + strconv.Itoa(leaked),
		"block device":     "mknod /tmp/sda b 8 0",
		"memory device":    "mknod /tmp/mem c 1 1",
		"proc":             "ls /proc/self",
		"insmod":           "insmod /nothing 2>&1 | grep -vi 'operation not permitted\\|not found\\|no such'",
		"host name":        "hostname other",
	} {
		t.Run(name, func(t *testing.T) {
			out, status, err := try(t, jail(t, shell(script)))
			if err != nil || status.Code == 0 || strings.Contains(out, "outside") {
				t.Errorf("%s: Run = %+v, %v; output %q; want a failure", script, status, err, out)
			}
		})
	}
	t.Run("signal", func(t *testing.T) {
		if landlockVersion() < 6 {
			t.Skip("needs Landlock's scopes (Linux 6.12)")
		}
		if _, status, _ := try(t, jail(t, shell("kill -9 "+pid))); status.Code == 0 {
			t.Error("a step killed a process outside")
		}
	})
	t.Run("abstract socket", func(t *testing.T) {
		if landlockVersion() < 6 {
			t.Skip("needs Landlock's scopes (Linux 6.12)")
		}
		ln, err := net.Listen("unix", "@bk-test-"+pid)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		// busybox has no client for abstract sockets: the test binary is one.
		c := jail(t, step("/bin/test", "-test.run=TestChrootDial"))
		c.Spec.Process.Env = append(c.Spec.Process.Env, "BK_DIAL=@bk-test-"+pid)
		exe, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(c.Root.Upper, "bin/test")) // a link to busybox
		if err := os.WriteFile(filepath.Join(c.Root.Upper, "bin/test"), exe, 0o755); err != nil {
			t.Fatal(err)
		}
		out, status, err := try(t, c)
		if err != nil || status.Code == 0 || !strings.Contains(out, "operation not permitted") {
			t.Errorf("Run = %+v, %v; output %q; want: operation not permitted", status, err, out)
		}
	})
}

// TestChrootDial is the step of TestChrootEscape.
func TestChrootDial(t *testing.T) {
	if os.Getenv("BK_DIAL") == "" {
		t.Skip("runs in a container")
	}
	if _, err := net.Dial("unix", os.Getenv("BK_DIAL")); err != nil {
		t.Fatal(err)
	}
}

// Nodes of what Linux has everywhere can be made, as in a container.
func TestChrootDevices(t *testing.T) {
	want(t, jail(t, shell("mknod /tmp/z c 1 5 && mkfifo /tmp/f && ls /tmp")), "f\nz")
}

// Nothing that a step starts outlives it, however it hides, when the step ends,
// when the build does, and when bk is killed.
func TestChrootStrays(t *testing.T) {
	c := jail(t, shell("(setsid sh -c 'sleep 3817 & sleep 3817' &) ; sleep 0.2; echo ok"))
	want(t, c, "ok")
	noProcess(t, "sleep 3817")

	ctx, cancel := context.WithCancel(context.Background())
	c = jail(t, shell("(setsid sh -c 'sleep 3818 & sleep 3818' &) ; sleep 3818"))
	time.AfterFunc(300*time.Millisecond, cancel)
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Run of a cancelled container: %v", err)
	}
	noProcess(t, "sleep 3818")
}

func noProcess(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("pgrep", "-fx", command).Output(); err == nil {
		t.Errorf("%s is still there: %s", command, out)
	}
}

// Without a network there are local sockets only.
func TestChrootNoNetwork(t *testing.T) {
	o := shell("nc -w 1 127.0.0.1 1 2>&1; ping -c 1 127.0.0.1 2>&1; echo done")
	o.Network = spec.NetworkNone
	out := output(t, jail(t, o))
	if strings.Count(strings.ToLower(out), "operation not permitted") < 1 || !strings.HasSuffix(out, "done") {
		t.Errorf("output %q, want that sockets are not permitted", out)
	}
}

// A read-only root takes no write.
func TestChrootReadOnly(t *testing.T) {
	if landlockVersion() < 2 {
		t.Skip("needs Landlock")
	}
	o := shell("cat /etc/f; echo x > /etc/f || mkdir /d || rm /etc/f || echo refused")
	o.ReadonlyRoot = true
	c := jail(t, o)
	os.WriteFile(filepath.Join(c.Root.Upper, "etc/f"), []byte("old\n"), 0o644)
	if out := output(t, c); !strings.HasPrefix(out, "old\n") || !strings.HasSuffix(out, "refused") {
		t.Errorf("output %q", out)
	}
}

// What needs a namespace or a mount is refused, not left out.
func TestChrootRefused(t *testing.T) {
	for name, change := range map[string]func(*Container){
		"layers":    func(c *Container) { c.Root.Lower = []string{"/"} },
		"trees":     func(c *Container) { c.Trees = map[string]Tree{"/x": {Upper: "/"}} },
		"files":     func(c *Container) { c.Files = map[string]File{"/x": {}} },
		"emulator":  func(c *Container) { c.Emulator = &emulate.Emulator{} },
		"mounts":    func(c *Container) { s, _ := spec.Default(step("true")); c.Spec.Mounts = s.Mounts },
		"host name": func(c *Container) { c.Spec.Hostname = "x" },
		"relative":  func(c *Container) { c.Root.Upper = "root" },
	} {
		c := jail(t, step("true"))
		change(&c)
		if _, err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: Run started a container", name)
		}
	}
}

func BenchmarkChroot(b *testing.B) {
	c := jail(b, step("true"))
	for b.Loop() {
		if _, err := Run(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
