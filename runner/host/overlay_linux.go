package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/userns"
)

// overlay tries an overlay where the store is, with the changes that leave marks
// in the upper directory.
func (p *prober) overlay() Check {
	c := Check{ID: "overlay", Title: "overlay in the store"}
	dir, done, err := p.scratch()
	if err != nil {
		return found(c, err, "")
	}
	defer done()
	data, err := overlayDirs(dir)
	if err != nil {
		return found(c, err, "")
	}
	flags, ids := p.base()
	detail := "in root's mounts"
	if !TrustedXattrs() {
		data += ",userxattr"
		detail = "in a user namespace"
	}
	merged := filepath.Join(dir, "lower")
	t := userns.NewTrial(flags).Private().Mount("overlay", merged, data)
	t.Call("remove a file", unix.SYS_UNLINKAT, cwd, t.String(merged+"/file"), 0).
		Call("remove a directory", unix.SYS_UNLINKAT, cwd, t.String(merged+"/dir"), unix.AT_REMOVEDIR).
		Call("replace a directory", unix.SYS_MKDIRAT, cwd, t.String(merged+"/dir"), 0o755)
	return p.tried(c, t.Run(ids), detail, "a store on ext4, XFS or btrfs (--root DIR), such as an emptyDir volume; until then files are copied")
}

// cwd is AT_FDCWD as an argument of a system call.
var cwd = ^uintptr(-unix.AT_FDCWD - 1)

// overlayDirs makes the directories of an overlay and returns its options.
func overlayDirs(dir string) (string, error) {
	for _, name := range []string{"lower/dir", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return "", err
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lower", "file"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), f.Close()
}

// Overlay reports whether this process can mount layers over each other in the
// store, which must exist. On the usual file systems of a machine that is known;
// elsewhere it is tried.
func Overlay(store string) bool {
	var st unix.Statfs_t
	if unix.Statfs(store, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		if TrustedXattrs() {
			return true
		}
	}
	dir, err := os.MkdirTemp(store, ".overlay-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	data, err := overlayDirs(dir)
	if err != nil {
		return false
	}
	return tryOverlay(dir, data) == nil
}

// tryOverlay makes an overlay that is attached nowhere. It needs the rights of
// the mount namespace's root.
func tryOverlay(dir, data string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		if !TrustedXattrs() {
			data += ",userxattr"
		}
		t := userns.NewTrial(unix.CLONE_NEWNS).Private().Mount("overlay", filepath.Join(dir, "lower"), data)
		return t.Run(nil)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"lowerdir", "lower"}, {"upperdir", "upper"}, {"workdir", "work"}} {
		if err := unix.FsconfigSetString(fs, o[0], filepath.Join(dir, o[1])); err != nil {
			return err
		}
	}
	if !TrustedXattrs() {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return err
		}
	}
	return unix.FsconfigCreate(fs)
}
