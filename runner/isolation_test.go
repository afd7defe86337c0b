//go:build linux

package runner

import (
	"os"
	"regexp"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bk.build/bk/runner/spec"
)

// The container's namespace holds the container's mounts and nothing of the
// host's, and no path leads out.
func TestMounts(t *testing.T) {
	got := output(t, container(t, shell("cut -d' ' -f5 /proc/self/mountinfo | sort | uniq -c | grep -v ' 1 ' ; cut -d' ' -f5 /proc/self/mountinfo | grep -v -E '^/(proc|sys|dev)/'; ls -d /../bin /../work /.. 2>&1; true")))
	want := "/\n/proc\n/dev\n/sys\nls: /../work: No such file or directory\n/..\n/../bin"
	if got != want {
		t.Errorf("mounts %q, want %q", got, want)
	}
}

// The mounts of a default container have the file systems and flags that runc
// gives them.
func TestDefaultMounts(t *testing.T) {
	got := output(t, container(t, shell(`awk '{print $2, $3, $4}' /proc/mounts`)))
	for _, re := range []string{
		`^/proc proc rw,nosuid,nodev,noexec,relatime$`,
		`^/dev tmpfs rw,nosuid,size=65536k,mode=755`,
		`^/dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666$`,
		`^/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k`,
		`^/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime$`,
		`^/sys sysfs ro,nosuid,nodev,noexec,relatime$`,
		`^/sys/fs/cgroup (cgroup2|tmpfs) ro,nosuid,nodev,noexec`,
		`^/proc/sys proc ro,nosuid,nodev,noexec,relatime$`,
	} {
		if !regexp.MustCompile("(?m)" + re).MatchString(got) {
			t.Errorf("no mount %s in\n%s", re, got)
		}
	}
}

// Devices are the field's, usable by everyone.
func TestDevices(t *testing.T) {
	o := shell(`cd /dev; stat -c '%n %a %t:%T' full null random tty urandom zero; for l in fd ptmx stderr stdin stdout; do readlink $l; done
		echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c && echo out > /dev/stdout && echo err > /dev/stderr; ls -d /dev/console 2>&1`)
	o.User = spec.User{UID: 1000, GID: 1000}
	got := output(t, container(t, shell(strings.TrimSuffix(o.Args[2], "ls -d /dev/console 2>&1"))))
	want := `full 666 1:7
null 666 1:3
random 666 1:8
tty 666 5:0
urandom 666 1:9
zero 666 1:5
/proc/self/fd
pts/ptmx
/proc/self/fd/2
/proc/self/fd/0
/proc/self/fd/1
3
3
out
err`
	if got != want {
		t.Errorf("as root: %s", got)
	}
	out, _, err := try(t, container(t, o))
	if err != nil || out != want+"\nls: /dev/console: No such file or directory" {
		t.Errorf("as a user: %v: %s", err, out)
	}
}

// The step's rights are exactly docker's, and none is inheritable
// (CVE-2022-27650, CVE-2022-29162).
func TestCapabilities(t *testing.T) {
	status := shell("grep -E '^(Cap|NoNew|Seccomp:|Groups|Umask)' /proc/self/status | tr -s '\t ' ' '")
	want := "Umask: 0022\nGroups: 0\nCapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 0\nSeccomp: 2"
	clean := func(s string) string { return strings.ReplaceAll(s, " \n", "\n") }
	if got := clean(output(t, container(t, status))); got != want {
		t.Errorf("root: %s", got)
	}
	status.User = spec.User{UID: 1000, GID: 1001, Groups: []uint32{5, 7}}
	want = strings.Replace(want, "Groups: 0", "Groups: 5 7 1001", 1)
	want = strings.Replace(want, "CapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb", "CapPrm: 0000000000000000\nCapEff: 0000000000000000", 1)
	if got := clean(output(t, container(t, status))); got != want {
		t.Errorf("user: %s, want %s", got, want)
	}
	c := container(t, status)
	c.Spec.Process.NoNewPrivileges = true
	mask := uint32(0o77)
	c.Spec.Process.User.Umask = &mask
	want = strings.Replace(strings.Replace(want, "NoNewPrivs: 0", "NoNewPrivs: 1", 1), "0022", "0077", 1)
	if got := clean(output(t, c)); got != want {
		t.Errorf("no_new_privs: %s", got)
	}
}

// The insecure entitlement opens everything that this process has itself.
func TestInsecure(t *testing.T) {
	o := shell("grep -E '^(CapEff|CapAmb|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted; echo 0 > /proc/sys/kernel/panic && echo written; ls /dev/loop0 /dev/net/tun; unshare -m true && echo unshared")
	o.Insecure = true
	out := output(t, container(t, o))
	own, _, err := try(t, container(t, shell("true")))
	if err != nil {
		t.Fatal(own, err)
	}
	for _, want := range []string{"Seccomp:\t0", "mounted", "written", "/dev/loop0", "/dev/net/tun", "unshared"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// What a step must not do fails: by its filter, its capabilities, or because
// the place is read-only or hidden.
func TestForbidden(t *testing.T) {
	for _, script := range []string{
		"unshare -m true", "unshare -U true", "unshare -r true", "mount -t tmpfs x /tmp", "mount -o bind /bin /tmp",
		"umount /proc/sys", "umount /dev", "mount -o remount,rw /proc/sys", "mount -o remount,rw /sys",
		"echo x > /proc/sys/kernel/core_pattern", "echo b > /proc/sysrq-trigger", "echo x > /proc/sys/kernel/hostname",
		"hostname other", "chroot /proc/1/root true", "ls /proc/1/root/", "cat /proc/1/environ", "readlink /proc/1/fd/3", "ls /proc/1/fd/9", "ls /proc/1/map_files/*",
		"readlink /proc/1/exe", "cp /proc/1/exe /tmp/x", "echo > /proc/1/mem", "cat /proc/1/maps",
		"echo x > /sys/kernel/uevent_helper", "mkdir /sys/fs/cgroup/x", "nice -n -5 true",
		"mknod /tmp/d b 254 0 && cat /tmp/d", "dmesg", "swapoff -a", "ls /sys/firmware/* 2>/dev/null",
		"pivot_root / /tmp", "test -s /proc/keys", "test -s /proc/timer_list", "test -s /proc/interrupts",
		"echo -1000 > /proc/1/oom_score_adj", "nsenter -t 1 -m true", "reboot -f", "modprobe x",
	} {
		if out, status, err := try(t, container(t, shell(script))); err != nil || status.Code == 0 {
			t.Errorf("%s: %+v, %v: %s; want a failure", script, status, err, out)
		}
	}
}

// Hidden paths are empty and stay so.
func TestMasked(t *testing.T) {
	got := output(t, container(t, shell("stat -c '%t:%T' /proc/keys; cat /proc/keys /proc/timer_list; ls -A /sys/firmware; touch /sys/firmware/x 2>&1; true")))
	if got != "1:3\ntouch: /sys/firmware/x: Read-only file system" {
		t.Errorf("got %q", got)
	}
	c := container(t, shell("cat /secret; ls -A /dir /link; test -e /missing || echo missing"),
		layer(t, map[string]string{"secret": "s", "dir/file": "f", "target": "t", "link": "->/target"}))
	c.Spec.Linux.MaskedPaths = []string{"/secret", "/dir", "/missing", "/link"}
	want(t, c, "/link\n\n/dir:\nmissing")
}

// Paths are made read-only with all that's mounted below.
func TestReadonlyPaths(t *testing.T) {
	c := container(t, shell("touch /ro/file /ro/fs/file 2>&1; touch /rw || echo no"), layer(t, map[string]string{"ro/fs/": ""}))
	c.Spec.Linux.ReadonlyPaths = []string{"/ro", "/missing"}
	c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Destination: "/ro/fs", Type: "tmpfs", Source: "x"})
	want(t, c, "touch: /ro/file: Read-only file system\ntouch: /ro/fs/file: Read-only file system\n"[:len("touch: /ro/file: Read-only file system\ntouch: /ro/fs/file: Read-only file system")])
}

// A read-only root still has its mounts, devices and links.
func TestReadonlyRoot(t *testing.T) {
	o := shell("touch /x 2>&1; touch /dev/shm/x && echo x > /dev/null && echo ok")
	o.ReadonlyRoot = true
	want(t, container(t, o), "touch: /x: Read-only file system\nok")
	c := container(t, shell("touch /dev/x 2>&1; echo x > /dev/null && readlink /dev/fd"))
	c.Spec.Mounts[1].Options = append(c.Spec.Mounts[1].Options, "ro")
	want(t, c, "touch: /dev/x: Read-only file system\n/proc/self/fd")
}

// The other names of the machine are the container's.
func TestNames(t *testing.T) {
	o := shell("hostname; echo $$")
	want(t, container(t, o), "buildkitsandbox\n10")
	o.Hostname = "other"
	c := container(t, o)
	c.Spec.Domainname = "example"
	o.Args[2] = "hostname; cat /proc/sys/kernel/domainname; echo $$"
	want(t, c, "other\nexample\n10")
	if name, _ := os.Hostname(); name == "other" {
		t.Error("the host was renamed")
	}
}

// Without a network there's a working loopback interface and nothing else;
// sysctls of the new namespace are the container's own.
func TestNetworkNone(t *testing.T) {
	o := shell("ls /sys/class/net; cat /sys/class/net/lo/operstate; ping -c1 -W1 127.0.0.1 > /dev/null && echo pong; ping -c1 -W1 1.1.1.1 2>&1 >/dev/null; cat /proc/sys/net/ipv4/ip_default_ttl")
	o.Network = spec.NetworkNone
	c := container(t, o)
	c.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "77"}
	want(t, c, "lo\nunknown\npong\nping: sendto: Network is unreachable\n77")
}

// The file that hides others is the null device whatever the image calls
// /dev/null (CVE-2025-31133), and devices go to the container's own /dev, not
// where a link leads (CVE-2026-41579).
func TestHostileDev(t *testing.T) {
	outside := t.TempDir()
	root := layer(t, map[string]string{"dev": "->" + outside, "proc/": "", "sys/": "", "bin": "->/usr/bin", outside[1:] + "/": ""})
	needRoot(t)
	os.MkdirAll(root+"/usr", 0o755)
	if err := os.Symlink("busybox", root+"/usr/x"); err != nil {
		t.Fatal(err)
	}
	c := container(t, shell("stat -c '%t:%T' /proc/keys /dev/null; readlink /dev"))
	busybox := layer(t, map[string]string{"dev": "->" + outside, "proc/": "", "sys/": "", outside[1:] + "/": ""})
	c.Root = over(t, busybox, shared.root)
	os.RemoveAll(busybox + "/bin")
	want(t, c, "1:3\n1:3\n"+outside)
	if files, _ := os.ReadDir(outside); len(files) > 0 {
		t.Errorf("%v were made outside of the container", files)
	}
	for _, link := range []string{"proc", "sys"} {
		c := container(t, step("true"), layer(t, map[string]string{link: "->/tmp"}))
		if _, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "must not be a symbolic link") {
			t.Errorf("%s as a link: %v", link, err)
		}
	}
}

// The step cannot get hold of the program that started it for writing
// (CVE-2019-5736), even when it executes it.
func TestOwnExecutable(t *testing.T) {
	script := layer(t, map[string]string{"self": "#!/proc/self/exe\n"})
	out, status, err := try(t, container(t, step("/self"), script))
	if err == nil && status.Code == 0 {
		t.Logf("executing /proc/self/exe: %s", out)
	}
	o := shell("(exec 3>>/proc/1/exe) 2>&1; cat /proc/1/exe >/dev/null 2>&1 && mount -o remount,rw /proc/1/exe 2>&1; exit 0")
	o.Insecure = true
	out = output(t, container(t, o))
	if !strings.Contains(out, "Read-only file system") && !strings.Contains(out, "Text file busy") {
		t.Errorf("writing to /proc/1/exe: %q", out)
	}
}

// A working directory is resolved inside of the root, made when it is
// missing, and can't be a descriptor (CVE-2024-21626).
func TestWorkingDirectory(t *testing.T) {
	files := layer(t, map[string]string{"there/": "", "link": "->/there", "up": "->../../../../..", "file": "x"})
	for cwd, dir := range map[string]string{"/there": "/there", "/link/new/deep": "/there/new/deep", "/up": "/", "/a/../b": "/b"} {
		o := shell("/bin/busybox pwd -P")
		o.Cwd = cwd
		want(t, container(t, o, files), dir)
	}
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/cwd", "/file"} {
		c := container(t, shell("pwd"), files)
		c.Spec.Process.Cwd = cwd
		if out, _, err := try(t, c); err == nil || !strings.Contains(err.Error(), "enter the working directory "+cwd) {
			t.Errorf("%s: %v %s; want an error", cwd, err, out)
		}
	}
}

// Limits are the spec's; one that can't be raised is explained.
func TestRlimits(t *testing.T) {
	o := shell("ulimit -n; ulimit -H -n; ulimit -c")
	o.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 500, Hard: 600}, {Type: "RLIMIT_CORE"}}
	want(t, container(t, o), "500\n600\n0")
	o.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 500, Hard: 1 << 40}}
	if _, _, err := try(t, container(t, o)); err == nil || !strings.Contains(err.Error(), "RLIMIT_NOFILE") && !strings.Contains(err.Error(), "resource limit") {
		t.Errorf("too high: %v", err)
	}
	o.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_MOOD"}}
	if _, _, err := try(t, container(t, o)); err == nil {
		t.Error("unknown limit: no error")
	}
}

// The score of the out-of-memory killer is set before the command starts.
func TestOOMScore(t *testing.T) {
	c := container(t, shell("cat /proc/self/oom_score_adj"))
	score := 500
	c.Spec.Process.OOMScoreAdj = &score
	want(t, c, "500")
}

// A custom profile is loaded as it is, also one that kills.
func TestSeccompProfiles(t *testing.T) {
	c := container(t, shell("mkdir /x 2>&1; echo alive"))
	errno := uint(117)
	c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno},
	}}
	want(t, c, "mkdir: can't create directory '/x': Structure needs cleaning\nalive")
	c = container(t, step("mkdir", "/x"))
	c.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActKillProcess},
	}}
	if _, status, err := try(t, c); err != nil || status.Signal != 31 {
		t.Errorf("%+v, %v; want SIGSYS", status, err)
	}
}
