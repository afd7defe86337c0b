//go:build linux

package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/spec"
)

// foreignProgram reports what it sees, executes itself by /proc/self/exe, as
// busybox does, and reports again.
const foreignProgram = `package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	fmt.Println(runtime.GOARCH, strings.Join(os.Args, " "), os.Getuid(), os.Getgid())
	if len(os.Args) > 1 && os.Args[1] == "again" {
		return
	}
	for _, f := range []string{"/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/binfmt_misc/bk-aarch64"} {
		if err := os.WriteFile(f, []byte("0"), 0); err == nil {
			fmt.Println("wrote", f)
		}
	}
	if err := os.Chown("/owned", 1234, 5678); err != nil {
		fmt.Println(err)
	}
	err := syscall.Exec("/proc/self/exe", []string{"other name", "again"}, os.Environ())
	fmt.Println(err)
}
`

// foreign builds the program for arm64, or for amd64 on arm64.
func foreign(t *testing.T) (path string, p ocispecs.Platform) {
	t.Helper()
	p = ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	if runtime.GOARCH == "arm64" {
		p.Architecture = "amd64"
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/main.go", []byte(foreignProgram), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", "program", "main.go")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOARCH="+p.Architecture, "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("needs the Go command to build a foreign program: %v: %s", err, out)
	}
	return dir + "/program", p
}

// privateEmulator finds an emulator as on a host without handlers.
func privateEmulator(t *testing.T, p ocispecs.Platform) *emulate.Emulator {
	t.Helper()
	e, err := emulate.Find(p, emulate.Dirs{Emulators: []string{"/usr/bin"}, Handlers: t.TempDir()})
	if err != nil {
		t.Skip(err)
	}
	return e
}

// A foreign program runs without any set-up of the host: its re-execution by
// /proc/self/exe too, its arguments are its own, it owns what root owns, and
// it can't change the registration.
func TestEmulation(t *testing.T) {
	needRoot(t)
	program, platform := foreign(t)
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	files := layer(t, map[string]string{"bin/program": string(data), "owned": ""})
	arch := platform.Architecture
	for _, test := range []struct {
		user spec.User
		want string
	}{
		{spec.User{}, arch + " program one 0 0\n" + arch + " other name again 0 0"},
		{spec.User{UID: 1000, GID: 50}, arch + " program one 1000 50\nchown /owned: operation not permitted\n" + arch + " other name again 1000 50"},
	} {
		o := step("program", "one")
		o.User = test.user
		c := container(t, o, files)
		c.Emulator = privateEmulator(t, platform)
		want(t, c, test.want)
		if test.user.UID != 0 {
			continue
		}
		if out, err := exec.Command("stat", "-c", "%u:%g", c.Root.Upper+"/owned").Output(); err != nil || string(out) != "1234:5678\n" {
			t.Errorf("owner %s, %v; want that on the host too", out, err)
		}
	}
	if entries, _ := filepath.Glob("/proc/sys/fs/binfmt_misc/bk-*"); len(entries) > 0 {
		t.Errorf("the host has handlers %v", entries)
	}
}

// Without an emulator the error says that the program is for another platform.
func TestNoEmulator(t *testing.T) {
	needRoot(t)
	program, platform := foreign(t)
	if e, err := emulate.Find(platform, emulate.Dirs{}); err == nil && e == nil {
		t.Skip("this host runs foreign programs")
	}
	c := container(t, step("/program"), filepath.Dir(program))
	if _, status, err := try(t, c); status.Code != 126 || err == nil || !strings.Contains(err.Error(), "exec format error") {
		t.Errorf("%+v, %v; want 126 and an explanation", status, err)
	}
}

// The emulated step is as confined as any other: in its user namespace it has
// the spec's capabilities, and deletes and renames in the overlay.
func TestEmulatedIsolation(t *testing.T) {
	needRoot(t)
	e := privateEmulator(t, ocispecs.Platform{OS: "linux", Architecture: map[bool]string{true: "amd64", false: "arm64"}[runtime.GOARCH == "arm64"]})
	status := "grep -E '^(CapInh|CapEff|CapBnd|Seccomp:)' /proc/self/status | tr '\\t' ' '; "
	c := container(t, shell(status+"cat /proc/self/uid_map | tr -s ' '; rm -r /dir && mkdir /dir && mv /from /to && ls /; umount /proc/sys/fs/binfmt_misc || unshare -m true || mount -t proc x /proc || echo refused"),
		layer(t, map[string]string{"dir/x": "", "from/y": ""}))
	c.Emulator = e
	out := output(t, c)
	for _, want := range []string{"CapInh: 0000000000000000\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nSeccomp: 2\n 0 0 4294967295\n", "refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("output %q lacks %q", out, want)
		}
	}
	if _, err := os.Stat(c.Root.Upper + "/to/y"); err != nil {
		t.Error(err)
	}
}

// A registration that the kernel refuses is an error with its cause.
func TestBadRegistration(t *testing.T) {
	c := container(t, step("true"))
	c.Emulator = &emulate.Emulator{Path: "/bin/busybox", Registration: "nonsense"}
	if _, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "register the emulator: invalid argument") {
		t.Errorf("error %v", err)
	}
	c = container(t, step("true"))
	c.Emulator = &emulate.Emulator{Path: "/no/such/qemu", Registration: "x"}
	if _, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "open the emulator") {
		t.Errorf("error %v", err)
	}
	c = container(t, step("true"))
	c.Emulator = &emulate.Emulator{Path: "/bin/busybox", Registration: "x"}
	c.Spec.Mounts = []specs.Mount{}
	if _, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "needs proc") {
		t.Errorf("error %v", err)
	}
}

// A foreign busybox, whose shell executes itself for its applets, works when
// one is given in BK_TEST_BUSYBOX_ARM64.
func TestForeignBusybox(t *testing.T) {
	path := os.Getenv("BK_TEST_BUSYBOX_ARM64")
	if path == "" {
		t.Skip("BK_TEST_BUSYBOX_ARM64 is not set to a static busybox for arm64")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root := layer(t, map[string]string{"bin/busybox": string(data), "bin/sh": "->busybox", "proc/": "", "dev/": "", "sys/": "", "tmp/": ""})
	c := container(t, step("sh", "-c", "uname -m; echo a b | wc -w; ls / | head -1; for i in 1 2 3; do echo $i; done | sort -r | head -1; awk 'BEGIN{print 6*7}'"))
	c.Root = over(t, root)
	c.Emulator = privateEmulator(t, ocispecs.Platform{OS: "linux", Architecture: "arm64"})
	if got := output(t, c); got != "aarch64\n2\nbin\n3\n42" {
		t.Errorf("got %q", got)
	}
}
