package host

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/docker/go-units"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"bk.build/bk/runner/cgroup"
	"bk.build/bk/runner/emulate"
	"bk.build/bk/runner/userns"
)

// Probe finds out what the machine allows to this process: by trying, in
// processes and directories that go at once. It takes some ten milliseconds. A
// build doesn't need it.
func Probe(o Options) *Report {
	p := &prober{place: findPlace(), opts: o}
	p.all()
	p.report.settle()
	return &p.report
}

type prober struct {
	place  place
	opts   Options
	report Report
	ids    userns.Mapping // of the process itself
	nested bool           // user namespaces can be made
}

func (p *prober) all() {
	p.ids = userns.Single(os.Geteuid(), os.Getegid())
	p.add(Check{ID: "process", Title: "this process", OK: true, Detail: p.place.String()})
	p.add(p.mounts())
	p.add(p.ownIDs())
	p.add(p.namespaces())
	p.add(p.subordinate())
	p.add(p.proc())
	p.add(p.sysfs())
	p.add(p.newAPI())
	p.add(p.overlay())
	p.add(p.binfmt())
	p.add(p.emulators())
	p.add(cgroups())
	p.add(p.filters())
	p.add(p.notification())
	p.add(landlock())
	p.add(p.changeRoot())
	p.add(p.idmap())
	p.add(p.reflink())
	p.add(p.disk())
}

func (p *prober) add(c Check) { p.report.Checks = append(p.report.Checks, c) }

// found completes a check by the outcome of a try.
func found(c Check, err error, detail string, fix ...string) Check {
	c.OK, c.Detail = err == nil, detail
	if err != nil {
		c.Detail, c.Fix = strings.ReplaceAll(err.Error(), "\n", "; "), fix
	}
	return c
}

// tried is found for a try in a process of base: without such a process there is
// nothing to say.
func (p *prober) tried(c Check, err error, detail string, fix ...string) Check {
	if err != nil && !p.place.admin && !p.nested {
		c.Detail = "needs user namespaces"
		return c
	}
	return found(c, err, detail, fix...)
}

const newUser = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS

// base returns the flags of a process with rights over its mounts, and its ids.
func (p *prober) base() (uintptr, *userns.Mapping) {
	if p.place.admin {
		return syscall.CLONE_NEWNS, nil
	}
	return newUser, &p.ids
}

// mounts tries what a container of root needs.
func (p *prober) mounts() Check {
	c := Check{ID: "mounts", Title: "root's mounts"}
	if !p.place.admin {
		sudo := ""
		if p.place.uid != 0 && !p.place.noNewPriv {
			sudo = "sudo bk build"
		}
		return found(c, errors.New("CAP_SYS_ADMIN is missing"), "", p.fixes(fix{
			command: sudo,
			pod:     "hostUsers: false with securityContext.capabilities.add: [SYS_ADMIN], or securityContext.privileged: true",
			docker:  "--privileged"})...)
	}
	err := userns.NewTrial(syscall.CLONE_NEWNS|syscall.CLONE_NEWPID).Private().Mount("tmpfs", "/", "").Run(nil)
	return found(c, err, "", p.fixes(fix{
		command: "", pod: "securityContext.appArmorProfile.type: Unconfined", docker: "--security-opt apparmor=unconfined"})...)
}

// ownIDs counts the ids that this process can give to files.
func (p *prober) ownIDs() Check {
	m, err := userns.Whole()
	n := userns.Size(m.UIDs)
	if err == nil && n <= 1 {
		err = errors.New("this process has no id but its own")
	}
	return found(Check{ID: "ids", Title: "ids of its own"}, err, fmt.Sprint(n), p.fixes(fix{pod: "hostUsers: false", docker: "leave out --userns"})...)
}

// namespaces tries a user namespace.
func (p *prober) namespaces() Check {
	c := Check{ID: "user-namespaces", Title: "user namespaces"}
	err := userns.NewTrial(newUser).Private().Run(&p.ids)
	p.nested = err == nil
	detail := ""
	if limit := number("/proc/sys/user/max_user_namespaces"); limit >= 0 {
		detail = fmt.Sprintf("at most %d", limit)
	}
	return found(c, p.whyNoNamespace(err), detail, p.namespaceFix(err)...)
}

const (
	maxNamespaces = "/proc/sys/user/max_user_namespaces"
	debianSwitch  = "/proc/sys/kernel/unprivileged_userns_clone"
	ubuntuSwitch  = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
)

// whyNoNamespace adds to a refusal what is behind it.
func (p *prober) whyNoNamespace(err error) error {
	f := new(userns.Failure)
	if !errors.As(err, &f) {
		return err
	}
	switch {
	case f.Errno == unix.ENOSPC:
		return fmt.Errorf("%w: sysctl user.max_user_namespaces is %d", err, number(maxNamespaces))
	case number(debianSwitch) == 0:
		return fmt.Errorf("%w: sysctl kernel.unprivileged_userns_clone is 0", err)
	case number(ubuntuSwitch) == 1:
		return fmt.Errorf("%w: sysctl kernel.apparmor_restrict_unprivileged_userns is 1", err)
	case f.Errno == unix.EUSERS:
		return fmt.Errorf("%w: user namespaces are nested too deeply", err)
	case f.Errno == unix.EINVAL || f.Errno == unix.ENOSYS:
		return fmt.Errorf("%w: the kernel has none (CONFIG_USER_NS)", err)
	case p.place.filtered:
		return fmt.Errorf("%w: a seccomp profile forbids it", err)
	}
	return fmt.Errorf("%w: a security module or a chroot forbids it", err)
}

func (p *prober) namespaceFix(err error) []string {
	f := new(userns.Failure)
	if !errors.As(err, &f) {
		return nil
	}
	switch {
	case f.Errno == unix.ENOSPC:
		return []string{"sysctl -w user.max_user_namespaces=15000"}
	case number(debianSwitch) == 0:
		return []string{"sysctl -w kernel.unprivileged_userns_clone=1"}
	case number(ubuntuSwitch) == 1:
		return []string{"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
			"an AppArmor profile for bk with flags=(unconfined) and the rule userns"}
	}
	return p.fixes(fix{
		pod:    "securityContext.seccompProfile.type: Unconfined (and appArmorProfile.type: Unconfined)",
		docker: "--security-opt seccomp=unconfined --security-opt apparmor=unconfined",
	})
}

// subordinate tries to map the user's subordinate ids.
func (p *prober) subordinate() Check {
	c := Check{ID: "subordinate-ids", Title: "subordinate ids"}
	if p.place.uid == 0 {
		return p.wholeMap(c)
	}
	m, err := userns.Subordinate(os.Geteuid(), os.Getegid(), userns.SystemFiles())
	if err == nil && p.nested {
		err = userns.NewTrial(newUser).Private().Run(&m)
	}
	detail := fmt.Sprintf("%d user ids, %d group ids", userns.Size(m.UIDs)-1, userns.Size(m.GIDs)-1)
	return found(c, p.whyNotMapped(err), detail, p.mappingFix(err)...)
}

// wholeMap tries what root without other rights may do: map all ids.
func (p *prober) wholeMap(c Check) Check {
	m, err := userns.Whole()
	if err == nil && userns.Size(m.UIDs) <= 1 {
		err = errors.New("this process has no id but its own")
	}
	if err == nil && p.nested {
		err = userns.NewTrial(newUser).Private().Run(&m)
	}
	return found(c, err, fmt.Sprintf("all %d of this process", userns.Size(m.UIDs)), p.fixes(fix{
		pod: "securityContext.capabilities.add: [SETUID, SETGID, SETFCAP]", docker: "--cap-add SETUID --cap-add SETGID --cap-add SETFCAP"})...)
}

func (p *prober) whyNotMapped(err error) error {
	if err == nil || errors.As(err, new(*userns.NoSubordinateError)) || errors.As(err, new(*userns.MissingHelperError)) {
		return err
	}
	if p.place.noNewPriv {
		return fmt.Errorf("%w: no_new_privs is set, which makes newuidmap powerless", err)
	}
	return err
}

func (p *prober) mappingFix(err error) []string {
	missing := new(userns.NoSubordinateError)
	switch {
	case errors.As(err, &missing):
		who := missing.User
		if u, err := user.LookupId(strconv.Itoa(p.place.uid)); err == nil {
			who = u.Username
		}
		first := freeRange("/etc/subuid", "/etc/subgid")
		return []string{fmt.Sprintf("usermod --add-subuids %d-%d --add-subgids %[1]d-%[2]d %s", first, first+65535, who)}
	case errors.As(err, new(*userns.MissingHelperError)):
		return []string{"apt-get install uidmap", "dnf install shadow-utils", "apk add shadow-subids"}
	case p.place.noNewPriv:
		return p.fixes(fix{
			command: "run bk without no_new_privs", pod: "securityContext.allowPrivilegeEscalation: true", docker: "leave out --security-opt no-new-privileges"})
	case err != nil && !mayMap():
		return []string{"chmod u+s " + userns.Helper("newuidmap") + " " + userns.Helper("newgidmap")}
	}
	return nil
}

// mayMap reports whether the helpers look able to do their work.
func mayMap() bool {
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path := userns.Helper(name)
		st, err := os.Stat(path)
		if err != nil {
			return false
		}
		if n, err := unix.Getxattr(path, "security.capability", nil); st.Mode()&os.ModeSetuid == 0 && (err != nil || n == 0) {
			return false
		}
	}
	return true
}

// freeRange returns the first of 65536 ids that no range of the files touches.
func freeRange(files ...string) uint64 {
	first := uint64(100000)
	for _, file := range files {
		for line := range strings.Lines(readSmall(file)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) != 3 {
				continue
			}
			start, err1 := strconv.ParseUint(f[1], 10, 32)
			count, err2 := strconv.ParseUint(f[2], 10, 32)
			if err1 == nil && err2 == nil {
				first = max(first, start+count)
			}
		}
	}
	return first
}

// proc tries a new proc, which each container has.
func (p *prober) proc() Check {
	c := Check{ID: "proc", Title: "a new /proc"}
	flags, ids := p.base()
	err := userns.NewTrial(flags|syscall.CLONE_NEWPID).Private().Mount("proc", "/proc", "").Run(ids)
	if err != nil && userns.ProcHidden() {
		err = fmt.Errorf("%w: parts of this process's own /proc are hidden or read-only", err)
	}
	return p.tried(c, err, "", p.fixes(fix{
		pod:    "securityContext.procMount: Unmasked (with hostUsers: false)",
		docker: "--security-opt systempaths=unconfined"})...)
}

func (p *prober) sysfs() Check {
	flags, ids := p.base()
	err := userns.NewTrial(flags|syscall.CLONE_NEWNET).Private().Mount("sysfs", "/sys", "").Run(ids)
	return p.tried(Check{ID: "sysfs", Title: "a new /sys"}, err, "")
}

// newAPI tries fsopen and what follows it.
func (p *prober) newAPI() Check {
	flags, ids := p.base()
	t := userns.NewTrial(flags).Private()
	t.Keep("fsopen", unix.SYS_FSOPEN, t.String("tmpfs"), 0).
		With("fsconfig", unix.SYS_FSCONFIG, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).
		With("fsmount", unix.SYS_FSMOUNT, 0, 0)
	return p.tried(Check{ID: "mount-api", Title: "new mount API"}, t.Run(ids), "", "Linux 5.12 or later, and a seccomp profile that allows fsopen(2)")
}

// binfmt tries a binfmt_misc that belongs to a user namespace.
func (p *prober) binfmt() Check {
	err := userns.NewTrial(newUser).Private().Mount("binfmt_misc", "/", "").Run(&p.ids)
	if err != nil && !p.nested {
		err = errors.New("needs user namespaces")
	}
	return found(Check{ID: "binfmt", Title: "binfmt_misc in a namespace"}, err, "",
		"Linux 6.7 or later; or handlers of the host: apt-get install qemu-user-static binfmt-support")
}

// emulators lists the foreign architectures whose programs can be run.
func (p *prober) emulators() Check {
	c := Check{ID: "emulators", Title: "emulators"}
	var handled, list []string
	for _, arch := range []string{"amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x"} {
		e, err := emulate.Find(ocispecs.Platform{OS: "linux", Architecture: arch}, emulate.Dirs{Emulators: p.opts.Emulators})
		switch {
		case err != nil:
		case e == nil:
			handled = append(handled, arch)
		default:
			list = append(list, arch)
		}
	}
	detail := "by the machine: " + strings.Join(handled, " ")
	if len(list) > 0 {
		detail += "; by qemu: " + strings.Join(list, " ")
	}
	c.OK, c.Detail = len(list) > 0 || len(handled) > 2, detail
	if !c.OK {
		c.Fix = []string{"apt-get install qemu-user-static"}
	}
	return c
}

// cgroups tells which limits could be applied.
func cgroups() Check {
	c := Check{ID: "cgroups", Title: "cgroup delegation"}
	h, err := cgroup.Detect()
	if err != nil {
		return found(c, err, "")
	}
	list, why := h.Usable()
	c.OK = len(list) > 0
	c.Detail = string(h.Mode()) + ": " + strings.Join(list, " ")
	if !c.OK {
		c.Detail = string(h.Mode())
		if why != nil {
			first, _, more := strings.Cut(why.Error(), "\n")
			if c.Detail += ": " + first; more {
				c.Detail += " (and others)"
			}
		}
		c.Fix = []string{"systemd-run --user --scope -p Delegate=yes bk build ..."}
	}
	return c
}

// filters asks for seccomp filters.
func (p *prober) filters() Check {
	return found(Check{ID: "seccomp", Title: "seccomp filters"}, actionAvailable(unix.SECCOMP_RET_ERRNO), "")
}

func (p *prober) notification() Check {
	return found(Check{ID: "user-notification", Title: "seccomp user notification"}, actionAvailable(unix.SECCOMP_RET_USER_NOTIF), "",
		"Linux 5.0 or later, and a seccomp profile that allows seccomp(2)")
}

func actionAvailable(action uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return errno
	}
	return nil
}

func landlock() Check {
	c := Check{ID: "landlock", Title: "Landlock"}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return found(c, errno, "", "a kernel with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list")
	}
	return found(c, nil, fmt.Sprintf("ABI %d", abi))
}

// changeRoot tries what is left without namespaces: chroot(2), or else to trace
// a step.
func (p *prober) changeRoot() Check {
	c := Check{ID: "change-root", Title: "chroot or ptrace"}
	t := userns.NewTrial(0)
	chroot := t.Call("chroot", unix.SYS_CHROOT, t.String("/")).Run(nil)
	if chroot == nil {
		return found(c, nil, "chroot")
	}
	trace := userns.NewTrial(0).Call("ptrace", unix.SYS_PTRACE, unix.PTRACE_TRACEME).Run(nil)
	return found(c, trace, "ptrace", p.fixes(fix{
		command: "", pod: "securityContext.capabilities.add: [SYS_CHROOT]", docker: "--cap-add SYS_CHROOT"})...)
}

func (p *prober) idmap() Check {
	c := Check{ID: "idmapped-mounts", Title: "idmapped mounts"}
	if !p.place.admin {
		return found(c, errors.New("CAP_SYS_ADMIN is missing"), "")
	}
	dir, done, err := p.scratch()
	if err == nil {
		defer done()
		err = userns.IDMap(dir)
	}
	return found(c, err, "")
}

// reflink tries to share the blocks of a file.
func (p *prober) reflink() Check {
	c := Check{ID: "reflinks", Title: "reflinks in the store"}
	dir, done, err := p.scratch()
	if err != nil {
		return found(c, err, "")
	}
	defer done()
	a, errA := os.OpenFile(filepath.Join(dir, "a"), os.O_RDWR|os.O_CREATE, 0o600)
	b, errB := os.OpenFile(filepath.Join(dir, "b"), os.O_RDWR|os.O_CREATE, 0o600)
	if err = errors.Join(errA, errB); err == nil {
		defer a.Close()
		defer b.Close()
		if _, err = a.Write(make([]byte, 4096)); err == nil {
			err = unix.IoctlFileClone(int(b.Fd()), int(a.Fd()))
		}
	}
	return found(c, err, "")
}

// lowDisk is what a store should have free, in bytes.
const lowDisk = 2 << 30

func (p *prober) disk() Check {
	c := Check{ID: "disk", Title: "free disk"}
	var st unix.Statfs_t
	if err := unix.Statfs(p.existing(), &st); err != nil {
		return found(c, err, "")
	}
	free := st.Bavail * uint64(st.Bsize)
	c.OK, c.Detail = free >= lowDisk, units.HumanSizeWithPrecision(float64(free), 3)+" for "+p.opts.Store
	if !c.OK {
		c.Fix = []string{"bk cache prune", "bk --root DIR on a larger disk"}
	}
	return c
}

// existing returns the closest directory to the store that is there.
func (p *prober) existing() string {
	dir := p.opts.Store
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// scratch makes a directory on the store's file system.
func (p *prober) scratch() (dir string, done func(), err error) {
	dir, err = os.MkdirTemp(p.existing(), ".bk-doctor-")
	if err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil // an empty file system's leftovers
}

// fix is what allows something, by where the process runs.
type fix struct{ command, pod, docker string }

func (p *prober) fixes(f fix) []string {
	var list []string
	add := func(prefix, s string) {
		if s != "" {
			list = append(list, prefix+s)
		}
	}
	add("", f.command)
	switch c := p.place.container; c {
	case "kubernetes":
		add("pod: ", f.pod)
	case "docker", "podman":
		add(c+": ", f.docker)
	default:
		if c != "" || p.place.filtered { // a container that left no mark of its own
			add("pod: ", f.pod)
			add("docker: ", f.docker)
		}
	}
	return list
}
