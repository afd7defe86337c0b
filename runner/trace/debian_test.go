//go:build linux && (amd64 || arm64)

package trace

import (
	"os"
	"strings"
	"testing"
)

// Debian's package manager works as root's does: dynamic programs, scripts of
// packages, owners, its own users.
func TestDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	root := debian(t)
	o := options(t, root, `
ls -ld /var/mail /bin/su /proc/self/exe | awk '{print $1, $3, $4, $NF}'
perl -e 'print "perl $0 $> $)\n"'
useradd -m -s /bin/bash someone && stat -c '%U:%G %a' /home/someone && su someone -c 'id -un; touch ~/file; stat -c %U ~/file'
groupadd -g 4321 crew && chgrp crew /srv && chmod 2775 /srv && touch /srv/x && stat -c %G /srv/x
find / -xdev -type f -perm -4000 | sort | head -3
dpkg --verify base-files && dpkg-query -W -f '${Package}\n' bash
`)
	const want = `-rwsr-xr-x root root /bin/su
lrwxrwxrwx root root /usr/bin/ls
drwxrwsr-x root root /var/mail
perl -e 0 0 0
someone:someone 755
someone
someone
crew
/usr/bin/chfn
/usr/bin/chsh
/usr/bin/gpasswd
bash
`
	if got := output(t, o); got != want {
		t.Errorf("prints\n%s\nwant\n%s", got, want)
	}
}

// Packages are installed from Debian's servers. It needs a network, and says so
// when there is none.
func TestAptGet(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	o := options(t, debian(t), `
apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends openssh-client tree >/tmp/log 2>&1 || { tail -50 /tmp/log; exit 1; }
tree --version; stat -c '%U:%G %a' /usr/bin/ssh-agent; ls /tmp`)
	o.Binds = []Bind{{"/etc/resolv.conf", "/etc/resolv.conf", true}, {"/etc/hosts", "/etc/hosts", true}}
	out, code := run(t, o)
	if strings.Contains(out, "Failed to fetch") || strings.Contains(out, "Could not resolve") {
		t.Skip("Debian's servers aren't reachable: ", out)
	}
	if code != 0 || !strings.Contains(out, "tree v") || !strings.Contains(out, "root:_ssh 2755") {
		t.Errorf("apt-get: code %d\n%s", code, out)
	}
}

// A 32-bit program is refused with a clear code, not executed without a tracer.
func TestForeignProgram(t *testing.T) {
	root := busybox(t)
	head := make([]byte, 128)
	copy(head, "\x7fELF\x01\x01\x01")
	head[18] = 3
	if err := os.WriteFile(root+"/bin/old", head, 0o755); err != nil {
		t.Fatal(err)
	}
	o := options(t, root, "")
	o.Paths = []string{"/bin/old"}
	if out, code := run(t, o); code != 127 || !strings.Contains(out, "exec format error") {
		t.Errorf("code %d: %s", code, out)
	}
}
