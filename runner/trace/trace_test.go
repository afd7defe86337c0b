//go:build linux && (amd64 || arm64)

package trace

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inChroot runs the script where all is allowed: root, a changed root directory
// and mounts.
func inChroot(t *testing.T, root, script string) string {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--fork", "sh", "-ec", `
		mount --make-rprivate /
		mount -t proc proc "$1/proc"
		mount -t sysfs sysfs "$1/sys"
		mount -t tmpfs tmpfs "$1/dev"
		mkdir -m 1777 "$1/dev/shm"
		mkdir "$1/dev/pts" "$1/dev/mqueue"
		for d in null zero full random urandom tty; do touch "$1/dev/$d"; mount --bind /dev/$d "$1/dev/$d"; done
		ln -s /proc/self/fd "$1/dev/fd"
		for n in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${n%:*} "$1/dev/${n#*:}"; done
		umask 022
		exec chroot --groups=0 "$1" sh -c "$2"`, "sh", root, script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out) + "exit: " + err.Error()
	}
	return string(out)
}

// rooted skips a test that compares with what root may do.
func rooted(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a real chroot, to compare with, needs root")
	}
}

// copyRoot copies a root for the other side, as root's.
func copyRoot(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(dir(t), "root")
	if out, err := exec.Command("cp", "-a", root, to).CombinedOutput(); err != nil {
		t.Fatalf("copy the root: %v\n%s", err, out)
	}
	if out, err := exec.Command("chown", "-hR", "0:0", to).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
	return to
}

// A step sees what it would see in a changed root directory, as root.
func TestLikeChroot(t *testing.T) {
	rooted(t)
	root := busybox(t)
	for _, tt := range []struct{ name, script string }{
		{"ids", `id; id -u; su user -c id; stat -c '%u:%g' /etc/passwd`},
		{"absolute links", `ln -s /etc /tmp/e; cat /tmp/e/passwd; ln -s /tmp/e/passwd /tmp/f; readlink /tmp/f; cat /tmp/f; realpath /tmp/f`},
		{"dots", `cd /; cd ..; pwd; ls /../../../etc; cat /etc/../../../etc/passwd; cd /etc/..; pwd; cd /tmp/none/.. || echo refused; cat /etc/passwd/.. || echo not a directory`},
		{"loops", `ln -s b /tmp/a; ln -s a /tmp/b; cat /tmp/a; ls -l /tmp/a | cut -c1-10; mkdir /tmp/a; echo $?`},
		{"dangling", `ln -s /tmp/there /tmp/x; cat /tmp/x; echo hi > /tmp/x; cat /tmp/there; ln -s /none/there /tmp/y; echo hi > /tmp/y`},
		{"cwd", `mkdir -p /tmp/a/b; cd /tmp/a/b; pwd; /bin/pwd; echo x > f; cat ../b/f; mv /tmp/a /tmp/z; /bin/pwd; cat f; rm -r /tmp/z; /bin/pwd; echo $?; cat f`},
		{"proc", `readlink /proc/self/exe; readlink /proc/self/root; cd /etc; readlink /proc/self/cwd; cat /proc/self/cwd/passwd; ls /proc/self/root/; cat /proc/self/root/etc/passwd; cat /proc/self/comm`},
		{"descriptors", `exec 7</etc/passwd; readlink /proc/self/fd/7; cat /proc/self/fd/7; cat /dev/fd/7; cat <&7; echo out > /dev/stdout; echo piped | cat /dev/stdin`},
		{"scripts", `printf '#!/bin/sh -e\necho $0 "$@"; cat /proc/$$/comm\n' > /tmp/s; chmod +x /tmp/s; /tmp/s a 'b c'; cd /tmp; ./s d; printf '#! /tmp/s  two words  \n' > t; chmod +x t; ./t e; printf '#!/none\n' > u; chmod +x u; ./u; printf '#!' > v; chmod +x v; ./v; printf 'echo plain\n' > w; chmod +x w; ./w`},
		{"not executable", `echo > /tmp/n; /tmp/n; echo $?; /tmp; echo $?; /tmp/none; echo $?; /etc/passwd/x; echo $?`},
		{"owners", `touch /tmp/f; chown 5:6 /tmp/f; stat -c '%u:%g %a' /tmp/f; mkdir /tmp/d; chown user /tmp/d; stat -c '%U:%G' /tmp/d; ln -s f /tmp/l; chown -h 7:8 /tmp/l; stat -c '%u:%g' /tmp/l /tmp/f; chown 9 /tmp/l; stat -c '%u:%g' /tmp/l; stat -L -c '%u:%g' /tmp/l; mv /tmp/f /tmp/g; stat -c '%u:%g' /tmp/g; cp -p /tmp/g /tmp/h; stat -c '%u:%g' /tmp/h`},
		{"modes", `touch /tmp/f; chmod 0 /tmp/f; echo x > /tmp/f; cat /tmp/f; stat -c %a /tmp/f; mkdir -m 0 /tmp/d; echo y > /tmp/d/e; cat /tmp/d/e; stat -c %a /tmp/d; chmod 4755 /tmp/f; chown 3 /tmp/f; stat -c %a /tmp/f; chmod 2755 /tmp/d; touch /tmp/d/g; chgrp 6 /tmp/d; touch /tmp/d/h; stat -c %g /tmp/d/g /tmp/d/h; umask 077; touch /tmp/p; stat -c %a /tmp/p; rm -r /tmp/d; ls /tmp`},
		{"devices", `mknod /tmp/n c 1 7; stat -c '%F %t:%T %a' /tmp/n; mknod /tmp/p p; stat -c %F /tmp/p; chmod 600 /tmp/n; chown 1:2 /tmp/n; ls -ln /tmp/n | cut -c1-43; echo x > /dev/null; head -c 3 /dev/zero | od -c; test -c /dev/null && echo c`},
		{"access", `test -r /etc/passwd && echo r; test -x /etc/passwd || echo not x; test -w /etc && echo w; chmod 0 /etc/passwd; test -r /etc/passwd && echo r; su user -c 'test -r /etc/passwd || echo not r' 2>/dev/null; chmod 1 /etc/passwd; test -x /etc/passwd && echo x`},
		{"links", `echo a > /tmp/a; ln /tmp/a /tmp/b; stat -c %h /tmp/a; rm /tmp/a; cat /tmp/b; mkdir /tmp/d; mv /tmp/b /tmp/d/; ls /tmp/d; rmdir /tmp/d; rm -rf /tmp/d; ls /tmp`},
		{"times", `touch -d '2001-02-03 04:05:06' /tmp/t; stat -c %Y /tmp/t; ln -s t /tmp/l; touch -h -d '2002-02-03 04:05:06' /tmp/l; stat -c %Y /tmp/t /tmp/l`},
		{"tar", `mkdir /tmp/d; touch /tmp/d/a; chown 5:6 /tmp/d/a; ln -s a /tmp/d/l; chown -h 7:8 /tmp/d/l; cd /tmp; tar cf x.tar d; tar tvf x.tar | awk '{print $1, $2, $6}'; mkdir y; tar xf x.tar -C y; stat -c '%n %u:%g' y/d/*`},
		{"set ids", `cp /bin/busybox /tmp/b; chown 5:6 /tmp/b; chmod 6755 /tmp/b; /tmp/b id -u; /tmp/b id -g; /tmp/b id; stat -c '%a' /tmp/b`},
		{"new files of others", `chmod 777 /tmp; su user -c 'touch /tmp/f; mkdir /tmp/d; ln -s x /tmp/l; mknod /tmp/p p'; stat -c '%n %u:%g' /tmp/*; su user -c 'chown 0 /tmp/f' || echo refused`},
		{"signals", `sleep 100 & kill $!; wait $!; echo $?; sh -c 'kill -STOP $$; echo on' & sleep 1; kill -CONT $!; wait $!; trap 'echo trapped' USR1; kill -USR1 $$; true`},
		{"background", `for i in 1 2 3 4 5 6 7 8; do (cat /etc/passwd > /tmp/$i; test -s /tmp/$i) & done; wait; cat /tmp/* | sort | uniq -c`},
		{"find", `mkdir -p /tmp/a/b/c; touch /tmp/a/b/c/d; find /tmp | sort; find / -xdev -name passwd; du -s /tmp/none; rm -rf /tmp/a; ls -a /tmp`},
		{"long names", `n=$(printf '%0255d' 0); touch /tmp/$n; ls /tmp | wc -c; touch /tmp/1$n; cd /tmp; for i in 1 2 3; do mkdir $n; cd $n || break; done; pwd | wc -c; echo x > $n; cat $n`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := run(t, options(t, ownCopy(t, root), tt.script))
			want := inChroot(t, copyRoot(t, root), tt.script)
			if i := strings.Index(want, "exit: "); i >= 0 {
				want = want[:i]
			}
			if got != want {
				t.Errorf("%s\nprints\n%s\nin a chroot it is\n%s", tt.script, got, want)
			}
		})
	}
}

// ownCopy copies a root for one step.
func ownCopy(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(dir(t), "root")
	if out, err := exec.Command("cp", "-a", root, to).CombinedOutput(); err != nil {
		t.Fatalf("copy the root: %v\n%s", err, out)
	}
	return to
}

// How a step ends is what Run says.
func TestEnds(t *testing.T) {
	root := busybox(t)
	for script, want := range map[string]int{"exit 7": 7, "true": 0, "kill -9 $$": 137, "exec /none": 127, "exit 125": 125} {
		if out, code := run(t, options(t, root, script)); code != want {
			t.Errorf("%s: code %d, want %d: %s", script, code, want, out)
		}
	}
	o := options(t, root, "")
	o.Paths = []string{"/none", "/bin/none"}
	if out, code := run(t, o); code != 127 || !strings.Contains(out, "no such file") {
		t.Errorf("a command that isn't there: code %d: %s", code, out)
	}
}

// Nothing of a step survives its end, nor that of the tracer.
func TestNoStrays(t *testing.T) {
	root := busybox(t)
	o := options(t, root, "(setsid sleep 31415 &) ; (sleep 31415 & exec sleep 31415 &); echo started; sleep ${LAST}")
	o.Env = append(o.Env, "LAST=0.1")
	output(t, o)
	if left := running(t, "31415"); left != "" {
		t.Errorf("the step left processes %s", left)
	}
	o.Env[len(o.Env)-1] = "LAST=1000"
	o.Private = dir(t)
	cmd := command(t, o)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("the step says %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for range 100 {
		if running(t, "31415") == "" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("processes %s survived the killing of the builder", running(t, "31415"))
}

// running returns the processes with an argument.
func running(t *testing.T, arg string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		text, _ := os.ReadFile(f) // it may have gone
		if strings.Contains(string(text), "\x00"+arg+"\x00") {
			list = append(list, filepath.Base(filepath.Dir(f)))
		}
	}
	return strings.Join(list, " ")
}

// What is bound to a place is seen there, and can't be changed when it is
// read-only.
func TestBinds(t *testing.T) {
	root := busybox(t)
	host := dir(t)
	for _, d := range []string{"ro", "rw"} {
		os.Mkdir(filepath.Join(host, d), 0o755)
		os.WriteFile(filepath.Join(host, d, "file"), []byte(d+"\n"), 0o644)
	}
	os.Symlink("/etc/passwd", filepath.Join(host, "ro", "link"))
	give(t, host)
	o := options(t, root, `
cat /a/b/ro/file /rw/file /one; head -c 4 /a/b/ro/link; echo
for c in 'echo x > /a/b/ro/file' 'touch /a/b/ro/new' 'rm /a/b/ro/file' 'chmod 0 /a/b/ro/file' 'chown 1 /a/b/ro/file' 'mkdir /a/b/ro/d' 'mv /rw/file /a/b/ro/' 'touch -d 2001-01-01 /a/b/ro/file' 'ln -s x /a/b/ro/y'; do sh -c "$c" 2>/dev/null && echo "$c did it"; done
echo more >> /rw/file; cat /rw/file; cd /a/b/ro; pwd; cd ..; ls; ls /rw/..`)
	o.Binds = []Bind{
		{"/a/b/ro", filepath.Join(host, "ro"), true}, {"/rw", filepath.Join(host, "rw"), false},
		{"/one", filepath.Join(host, "ro", "file"), true},
	}
	got := output(t, o)
	const want = "ro\nrw\nro\nroot\nrw\nmore\n/a/b/ro\nro\na\nbin\ndev\netc\none\nproc\nroot\nrw\nsys\ntmp\n"
	if got != want {
		t.Errorf("prints\n%s\nwant\n%s", got, want)
	}
}

// Files of the host are out of reach, by every path and by a race that the
// translation loses. Landlock is the barrier of the latter.
func TestOutside(t *testing.T) {
	root := busybox(t)
	secret := filepath.Join(dir(t), "secret")
	if err := os.WriteFile(secret, []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Lchown(secret, stepUser, stepUser)
	up := strings.Repeat("../", 40)
	o := options(t, root, `
ln -s `+secret+` /tmp/a; ln -s `+up+strings.TrimPrefix(secret, "/")+` /tmp/b; ln -s /proc/self/root`+secret+` /tmp/c
for f in `+secret+` `+up+secret+` /tmp/a /tmp/b /tmp/c /proc/self/cwd/`+up+secret+` /proc/1/root`+secret+` /proc/$PPID/root`+secret+` /dev/fd/`+up+secret+`; do
	{ cat $f; echo x > $f; chmod 777 $f; touch $f; ln $f /tmp/linked; mv $f /tmp/moved; rm $f; } 2>/dev/null
	ls $f/../secret 2>/dev/null
	rm -f /tmp/linked /tmp/moved
done
ls /proc/1/ /proc/$PPID/ 2>/dev/null | head -1; kill -0 `+strconv.Itoa(os.Getpid())+` 2>/dev/null && echo signalled
kill -9 $PPID 2>/dev/null && echo killed; cat /proc/1/cmdline 2>/dev/null; true`)
	if got := output(t, o); got != "" {
		t.Errorf("the step reached out:\n%s", got)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "outside\n" {
		t.Errorf("the file outside is %q, %v", text, err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(secret, &st); err != nil || st.Mode&0o777 != 0o644 {
		t.Errorf("the file outside has mode %o, %v", st.Mode, err)
	}
}
