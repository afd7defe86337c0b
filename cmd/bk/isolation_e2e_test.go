//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/hack/pods"
	"bk.build/bk/runner/host"
)

// account is an ordinary user of the machine, for one test.
type account struct {
	name     string
	uid, gid int
	home     string
	exe      string // bk, where the user can execute it
}

// newAccount makes a user, with subordinate ids or without.
func newAccount(t *testing.T, subordinate bool) *account {
	t.Helper()
	needContainers(t)
	need(t, "useradd", "userdel", "newuidmap", "newgidmap")
	a := &account{name: marker()[:16], home: t.TempDir()}
	open(t, a.home)
	args := []string{"--no-create-home", "--home-dir", a.home, "--shell", "/bin/sh"}
	if !subordinate {
		args = append(args, "-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0")
	}
	if out, err := command("useradd", append(args, a.name)...).CombinedOutput(); err != nil {
		t.Skipf("users cannot be made here: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = command("userdel", a.name).Run() })
	u, err := user.Lookup(a.name)
	if err != nil {
		t.Fatal(err)
	}
	a.uid, _ = strconv.Atoi(u.Uid)
	a.gid, _ = strconv.Atoi(u.Gid)
	if err := os.Chown(a.home, a.uid, a.gid); err != nil {
		t.Fatal(err)
	}
	from, err := exec.LookPath("bk")
	if err != nil {
		t.Fatal(err)
	}
	a.exe = filepath.Join(a.home, "bk")
	if out, err := command("cp", "-L", from, a.exe).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return a
}

// open lets everybody enter a directory of the test.
func open(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// site makes a site that belongs to the user, with a copy of a base image.
func (a *account) site(t *testing.T, archive string, bases ...string) *site {
	t.Helper()
	s := newSite(t, archive)
	top := filepath.Dir(s.dir)
	open(t, top)
	for _, name := range bases {
		if out, err := command("cp", "-rL", basePath(t, name), s.path(name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	err := filepath.WalkDir(top, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, a.uid, a.gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.user = a
	return s
}

// become makes a command the user's.
func (a *account) become(cmd *exec.Cmd) {
	cmd.Path = a.exe
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	cmd.Env = append(cmd.Env, "HOME="+a.home, "USER="+a.name)
}

const manyOwners = `
-- Dockerfile --
FROM busybox AS one
RUN mkdir -p /a/b/c /a/d && touch /a/b/c/f /a/g && chown 1000:2000 /a/b/c/f && chmod 4755 /a/b/c/f && ln /a/b/c/f /a/hard && ln -s /x /a/soft && chown -h 33:33 /a/soft && chmod 1777 /a/b
RUN rm -rf /a/b && mkdir /a/b && echo new >/a/b/n && rm /a/hard && chown 65534:65534 /a && chmod 2755 /a/d
COPY --chown=7:8 Dockerfile /c/
RUN --mount=type=cache,target=/cache echo x >>/cache/x && chown 5:5 /cache/x && cp -p /cache/x /cached
USER 1234:4321
RUN echo mine >/tmp/mine && umask >>/tmp/mine
FROM busybox
COPY --from=one /a /a
RUN ls -lnR /a >/list
RUN rm -r /a/b && mkdir /a/b
COPY --from=one /tmp/mine /
`

// What an ordinary user builds is bit for bit what root builds, and the build
// says how its steps were isolated.
func TestRootlessIsTheSame(t *testing.T) {
	a := newAccount(t, true)
	s := a.site(t, manyOwners, "busybox")
	want, isolation := newSite(t, manyOwners).isolated(base(t, "busybox"), "--isolation=root")
	if isolation != host.Root {
		t.Errorf("root's isolation is %q", isolation)
	}
	got, isolation := s.isolated("--build-context=busybox=oci-layout://" + s.path("busybox"))
	if isolation != host.Rootless || got != want {
		t.Errorf("isolation %q, digest %s, want %s", isolation, got, want)
	}
	s.verify()
	// Root may read the user's store: files that the user unpacked mean something
	// else to it, and are not taken for its own.
	asRoot := *s
	asRoot.user = nil
	if got, _ := asRoot.isolated("--build-context=busybox=oci-layout://" + s.path("busybox")); got != want {
		t.Errorf("root, in the user's store: %s, want %s", got, want)
	}
}

// A file capability that a step sets in a user namespace, which the kernel keeps
// together with the namespace's root, is in the layer as root sets it.
func TestRootlessFileCapabilities(t *testing.T) {
	need(t, "setcap", "ldd")
	a := newAccount(t, true)
	setcap, err := exec.LookPath("setcap")
	if err != nil {
		t.Fatal(err)
	}
	text := "-- Dockerfile --\nFROM debian AS one\nCOPY --chmod=755 tool /tool/\n" +
		"RUN LD_LIBRARY_PATH=/tool /tool/setcap cap_net_raw,cap_setuid=ep /bin/cat && chown 5:5 /bin/ls && LD_LIBRARY_PATH=/tool /tool/setcap cap_kill+i /bin/ls\n" +
		"FROM debian\nCOPY --from=one /bin/cat /bin/ls /copied/\nRUN cp -p --preserve=xattr /copied/cat /again\n"
	prepare := func(s *site) *site {
		script := `mkdir tool; cp "$1" tool/setcap; for l in $(ldd "$1" | grep -o '/[^ ]*libcap[^ ]*'); do cp -L "$l" tool/; done`
		cmd := command("sh", "-ec", script, "sh", setcap)
		cmd.Dir = s.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return s
	}
	s := prepare(a.site(t, text, "debian"))
	want, _ := prepare(newSite(t, text)).isolated(base(t, "debian"))
	if got, _ := s.isolated("--build-context=debian=oci-layout://" + s.path("debian")); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

// isolated builds and returns the digest, and how steps were isolated.
func (s *site) isolated(args ...string) (digest string, isolation host.Isolation) {
	s.t.Helper()
	s.build(append(args, "--timestamp=1000000000", "--metadata-file=../meta.json")...)
	var meta struct {
		Digest    string         `json:"containerimage.digest"`
		Isolation host.Isolation `json:"bk.isolation"`
	}
	if err := json.Unmarshal([]byte(s.read("meta.json")), &meta); err != nil {
		s.t.Fatal(err)
	}
	return meta.Digest, meta.Isolation
}

// Programs of another architecture run in a user's own namespace too, and leave
// what they leave as root.
func TestRootlessEmulated(t *testing.T) {
	need(t, "qemu-aarch64-static")
	a := newAccount(t, true)
	text := "-- Dockerfile --\nFROM busybox\nRUN uname -m >/m && chown 1000:2000 /m && sh -c 'echo again >/n' && rm -r /home\n"
	s := a.site(t, text, "busybox")
	platforms := "--platform=linux/arm64,linux/amd64"
	want, _ := newSite(t, text).isolated(base(t, "busybox"), platforms)
	got, isolation := s.isolated("--build-context=busybox=oci-layout://"+s.path("busybox"), platforms)
	if isolation != host.Rootless || got != want {
		t.Errorf("isolation %q, digest %s, want %s", isolation, got, want)
	}
}

// Where no overlay can be mounted, such as on an overlay, steps run in copies of
// their files, and leave the same.
func TestRootlessWithoutOverlay(t *testing.T) {
	a := newAccount(t, true)
	s := a.site(t, manyOwners, "busybox")
	dir := func(name string) string {
		if err := os.Mkdir(s.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
		return s.path(name)
	}
	s.root = dir("root")
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir("lower"), dir("upper"), dir("work"))
	if err := syscall.Mount("overlay", s.root, "overlay", 0, data); err != nil {
		t.Skipf("no overlay here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.root, syscall.MNT_DETACH) })
	if err := os.Chown(s.root, a.uid, a.gid); err != nil {
		t.Fatal(err)
	}
	want, _ := newSite(t, manyOwners).isolated(base(t, "busybox"))
	if got, isolation := s.isolated("--build-context=busybox=oci-layout://" + s.path("busybox")); got != want || isolation != host.Rootless {
		t.Errorf("isolation %q, digest %s, want %s", isolation, got, want)
	}
}

// Root of a user namespace with many ids, as in a pod with hostUsers: false, is
// root: it builds the same, for other architectures too.
func TestRootOfUserNamespace(t *testing.T) {
	need(t, "qemu-aarch64-static")
	needContainers(t)
	platforms := "--platform=linux/amd64,linux/arm64"
	want, _ := newSite(t, manyOwners).isolated(base(t, "busybox"), platforms)
	s := newSite(t, manyOwners)
	top := filepath.Dir(s.dir)
	open(t, top)
	const first = 300000
	for _, name := range []string{top, s.dir, s.root} {
		if err := errors.Join(os.MkdirAll(name, 0o755), os.Chown(name, first, first)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := s.command("build", ".", base(t, "busybox"), platforms, "--timestamp=1000000000", "--metadata-file=../meta.json")
	exe := filepath.Join(top, "bk")
	if out, err := command("cp", "-L", cmd.Path, exe).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd.Args = append([]string{"sh", "-c", `mount -t proc proc /proc && exec "$@"`, "sh", exe}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	if o := wait(t, cmd); o.code != 0 {
		t.Fatalf("exit code %d: %s%s", o.code, o.logs, o.stderr)
	}
	if text := s.read("meta.json"); !strings.Contains(text, `"containerimage.digest": "`+want) || !strings.Contains(text, `"bk.isolation": "root"`) {
		t.Errorf("metadata: %s\nwant %s", text, want)
	}
}

// A user without subordinate ids gets a namespace of one id.
func TestSingleIDIsEntered(t *testing.T) {
	a := newAccount(t, false)
	s := a.site(t, "-- Dockerfile --\nFROM scratch\nCOPY Dockerfile /\n")
	o := s.build("--metadata-file=../meta.json", "--progress=plain")
	if text := s.read("meta.json"); !strings.Contains(text, `"bk.isolation": "single-id"`) {
		t.Errorf("metadata: %s", text)
	}
	if !strings.Contains(o.stderr, "[internal] isolation: single-id") {
		t.Errorf("progress: %s", o.stderr)
	}
	o = s.run("build", ".", "--require-isolation=rootless")
	if o.code != 1 || !strings.Contains(o.stderr, "usermod --add-subuids") || !strings.Contains(o.stderr, "single-id") {
		t.Errorf("a requirement that is not met: exit code %d, %s", o.code, o.stderr)
	}
	if o = s.run("build", ".", "--isolation=rootless"); o.code != 1 || !strings.Contains(o.stderr, "usermod --add-subuids") {
		t.Errorf("an isolation that cannot be had: exit code %d, %s", o.code, o.stderr)
	}
}

// Signals reach the inner process, whose end is the outer one's; a killed outer
// process takes all along.
func TestKillRootless(t *testing.T) {
	a := newAccount(t, true)
	s := a.site(t, interrupted, "busybox")
	from := "--build-context=busybox=oci-layout://" + s.path("busybox")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := *s
			s.t = t
			mark := marker()
			b := s.start("build", ".", from, "--target=sleeper", "--build-arg=MARK="+mark)
			eventually(t, "the step", func() bool { return sleepers(mark) >= 3 })
			code := b.stop(sig)
			if want := map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGINT: 130, syscall.SIGTERM: 143}[sig]; code != want {
				t.Errorf("exit code %d, want %d", code, want)
			}
			s.checkGone(b, mark)
			s.build(from, "--target=good", "-o", "../good")
			if got := s.read("good/good"); got != "good\n" {
				t.Errorf("built %q", got)
			}
			s.verify()
		})
	}
}

// The store of a user is the user's own place, wherever bk runs, and what it
// writes belongs to the user.
func TestRootlessPlaces(t *testing.T) {
	a := newAccount(t, true)
	s := a.site(t, "-- Dockerfile --\nFROM busybox\nRUN mkdir -m 700 /out && echo x >/out/x && chown -R 77:77 /out\n", "busybox")
	s.env = append(s.env, "BK_ROOT=", "XDG_DATA_HOME="+a.home+"/data")
	s.build("--build-context=busybox=oci-layout://"+s.path("busybox"), "-t", "app", "-o", "type=image", "-o", "type=local,dest=../out")
	for _, name := range []string{a.home + "/data/bk/index.json", s.path("out/out/x"), s.path("out/out")} {
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil || int(st.Uid) != a.uid || int(st.Gid) != a.gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d: %v", name, st.Uid, st.Gid, a.uid, a.gid, err)
		}
	}
	o := s.must("image", "ls", "--format={{.Name}}")
	if !strings.Contains(o.stdout, "app") {
		t.Errorf("images: %q", o.stdout)
	}
	s.must("cache", "prune")
	s.must("image", "rm", "app")
	s.must("cache", "prune")
	if left, _ := filepath.Glob(a.home + "/data/bk/snapshots/*"); len(left) > 0 {
		t.Errorf("pruning left %q", left)
	}
}

// doctor says in each place what can be had there, and why not more.
func TestDoctor(t *testing.T) {
	a, poor := newAccount(t, true), newAccount(t, false)
	need(t, "setpriv", "unshare")
	none := "exec unshare -Ur sh -c 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set -all --inh-caps=-all \"$@\"' sh \"$@\""
	for _, tt := range []struct {
		name  string
		user  *account
		shell string // runs "$@"
		want  host.Isolation
		fails []string // checks
		fix   string
	}{
		{"root", nil, `exec "$@"`, host.Root, nil, ""},
		{"user", a, `exec "$@"`, host.Rootless, []string{"mounts"}, ""},
		{"user without subordinate ids", poor, `exec "$@"`, host.SingleID, []string{"mounts", "subordinate-ids"}, "usermod --add-subuids "},
		{"no_new_privs", a, `exec setpriv --no-new-privs "$@"`, host.SingleID, []string{"mounts", "subordinate-ids"}, "no_new_privs"},
		{"namespace of one id", a, `exec unshare -Ur "$@"`, host.SingleID, []string{"ids", "subordinate-ids"}, ""},
		{"no namespaces", a, none, host.Chroot, []string{"mounts", "user-namespaces", "proc"}, "sysctl -w user.max_user_namespaces="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, "-- Dockerfile --\nFROM scratch\n")
			open(t, filepath.Dir(s.dir))
			s.root = filepath.Join(a.home, "store") // of a user, or not there
			cmd := s.command("doctor", "--format=json")
			exe := cmd.Path
			if tt.user != nil {
				tt.user.become(cmd)
				exe, s.root = tt.user.exe, filepath.Join(tt.user.home, "store")
				cmd.Env = append(cmd.Env, "BK_ROOT="+s.root)
			}
			cmd.Path, _ = exec.LookPath("sh")
			cmd.Args = append([]string{"sh", "-c", tt.shell, "sh", exe}, cmd.Args[1:]...)
			o := wait(t, cmd)
			var r host.Report
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || o.code != 0 {
				t.Fatalf("exit code %d, %v: %s%s", o.code, err, o.stdout, o.stderr)
			}
			if r.Isolation != tt.want {
				t.Errorf("isolation %q, want %q", r.Isolation, tt.want)
			}
			fixes := ""
			for _, c := range r.Checks {
				if slices.Contains(tt.fails, c.ID) && c.OK {
					t.Errorf("%s is allowed: %s", c.ID, c.Detail)
				}
				fixes += strings.Join(c.Fix, "\n") + "\n"
			}
			if !strings.Contains(fixes, tt.fix) {
				t.Errorf("%q is not among what would help:\n%s", tt.fix, fixes)
			}
		})
	}
}

// In a pod doctor names the fields that would allow more.
func TestDoctorInPods(t *testing.T) {
	exe, err := exec.LookPath("bk")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	open(t, bin)
	if out, err := command("cp", "-L", exe, filepath.Join(bin, "bk")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tt := range []struct {
		kind  pods.Kind
		want  host.Isolation
		fails []string
		fix   []string
	}{
		{pods.Default, host.Chroot, []string{"user-namespaces", "mounts"}, []string{"seccompProfile.type: Unconfined", "privileged: true"}},
		{pods.Unconfined, host.Chroot, []string{"proc", "mounts"}, []string{"procMount: Unmasked"}},
		{pods.Restricted, host.Chroot, []string{"user-namespaces", "subordinate-ids"}, []string{"seccompProfile.type: Unconfined"}},
		{pods.HostUsers, host.Chroot, []string{"user-namespaces", "mounts"}, []string{"seccompProfile.type: Unconfined"}},
		{pods.Podman, host.Chroot, []string{"proc"}, []string{"systempaths=unconfined"}},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			if err := pods.Needs(tt.kind); err != nil {
				t.Skip(err)
			}
			store, image := t.TempDir(), t.TempDir()
			if err := pods.Image(image); err != nil {
				t.Fatal(err)
			}
			pod := pods.Pod{
				Kind: tt.kind, Root: image, Volumes: map[string]string{"/store": store}, ReadOnly: map[string]string{"/opt": bin},
				Args: []string{"/opt/bk", "--root=/store", "doctor", "--format=json"},
			}
			cmd, err := pod.Command(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			o := wait(t, cmd)
			var r host.Report
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || o.code != 0 {
				t.Fatalf("exit code %d, %v: %s%s", o.code, err, o.stdout, o.stderr)
			}
			if r.Isolation != tt.want {
				t.Errorf("isolation %q, want %q", r.Isolation, tt.want)
			}
			fixes := ""
			for _, c := range r.Checks {
				if slices.Contains(tt.fails, c.ID) && c.OK {
					t.Errorf("%s is allowed: %s", c.ID, c.Detail)
				}
				fixes += strings.Join(c.Fix, "\n") + "\n"
			}
			for _, fix := range tt.fix {
				if !strings.Contains(fixes, fix) {
					t.Errorf("%q is not among what would help:\n%s", fix, fixes)
				}
			}
		})
	}
}

// The JSON of doctor has the fields that scripts go by.
func TestDoctorJSON(t *testing.T) {
	s := newSite(t, "-- x --\n")
	o := s.run("doctor", "--format=json")
	var r struct {
		Isolation *string
		Overlay   *bool
		Checks    []map[string]any
		Modes     []map[string]any
	}
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || r.Isolation == nil || r.Overlay == nil {
		t.Fatalf("%v: %s", err, o.stdout)
	}
	var ids, modes []string
	for _, c := range r.Checks {
		ids = append(ids, fmt.Sprint(c["id"]))
		if c["title"] == "" || c["ok"] == nil {
			t.Errorf("check %v", c)
		}
	}
	for _, m := range r.Modes {
		modes = append(modes, fmt.Sprint(m["isolation"]))
	}
	want := []string{
		"process", "mounts", "ids", "user-namespaces", "subordinate-ids", "proc", "sysfs", "mount-api", "overlay", "binfmt",
		"emulators", "cgroups", "seccomp", "user-notification", "landlock", "change-root", "idmapped-mounts", "reflinks", "disk",
	}
	if d := cmp.Diff(want, ids); d != "" {
		t.Errorf("checks (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"root", "rootless", "single-id", "chroot"}, modes); d != "" {
		t.Errorf("modes (-want +got):\n%s", d)
	}
}

const rememberedOwners = `
-- Dockerfile --
FROM busybox AS one
RUN mkdir -p /a/b/c /a/d && touch /a/b/c/f /a/g && chown 1000:2000 /a/b/c/f && chmod 4755 /a/b/c/f && ln /a/b/c/f /a/hard && ln -s /x /a/soft && chown -h 33:33 /a/soft
RUN test "$(stat -c %u:%g:%a /a/hard)" = 1000:2000:4755 && test "$(stat -c %u /a/soft)" = 33 && rm -rf /a/b && mkdir /a/b && chown 65534:65534 /a && chmod 2755 /a/d
COPY --chown=7:8 Dockerfile /c/
RUN mknod /nul c 1 3 && mknod /blk b 7 1 && mkfifo /ff && chown 3:4 /ff && chmod 600 /nul && test "$(stat -c %t:%T /nul)" = 1:3
RUN chown 9:9 /bin/busybox && chmod u+s /bin/busybox && chown 0:0 /bin/busybox && test "$(stat -c %a:%u /bin/busybox)" = 755:0
RUN echo foo:x:78:77::/home/foo:/bin/sh >>/etc/passwd && echo foo:x:77: >>/etc/group && mkdir -p /home/foo && chown 78:77 /home/foo && \
	busybox su foo -c 'id >~/id; echo hi >~/x; (set -C; echo excl >~/y); mkdir ~/d; ln -s q ~/l; chown 0 ~/x 2>/dev/null && exit 1; (sleep 0.1; id >~/d/orphan) & exit 0' && sleep 0.3
RUN mkdir /sg && chown 0:55 /sg && chmod 2775 /sg && echo x >/sg/x && mkdir /sg/d && chown -h 44:45 /lib64 && cp -a /a /copy && tar cf - a | tar xf - -C /sg
RUN ls -lnR /a /copy /sg /home /lib64 | grep -v total >/list
USER 1234:4321
RUN id >/tmp/mine; mkdir /tmp/mydir
FROM busybox
COPY --from=one / /all
`

// Where one id is all that there is, owners, devices and the ids of processes are
// what they are in a build by root, and so is the image.
func TestSingleIDIsTheSame(t *testing.T) {
	a := newAccount(t, false)
	s := a.site(t, rememberedOwners, "busybox")
	want, _ := newSite(t, rememberedOwners).isolated(base(t, "busybox"))
	got, isolation := s.isolated("--build-context=busybox=oci-layout://" + s.path("busybox"))
	if isolation != host.SingleID || got != want {
		t.Errorf("isolation %q, digest %s, want %s", isolation, got, want)
	}
	s.verify()
}
