package runner

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"bk.build/bk/runner/child"
)

// attrOption is what a mount option does to the attributes of a mount.
type attrOption struct{ set, clear uint64 }

// attrOptions are the options of runtime-spec 1.3 for attributes of a mount;
// with an "r" in front they apply to the mounts below too.
func attrOptions() map[string]attrOption {
	const atime = unix.MOUNT_ATTR__ATIME
	return map[string]attrOption{
		"ro":            {set: unix.MOUNT_ATTR_RDONLY},
		"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
		"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
		"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
		"nodev":         {set: unix.MOUNT_ATTR_NODEV},
		"dev":           {clear: unix.MOUNT_ATTR_NODEV},
		"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
		"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
		"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
		"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
		"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
		"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
		"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: atime},
		"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: atime},
		"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: atime},
		"norelatime":    {set: unix.MOUNT_ATTR_STRICTATIME, clear: atime},
		"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: atime},
		"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: atime},
	}
}

func propagationOptions() map[string]uint64 {
	return map[string]uint64{
		"private":     unix.MS_PRIVATE,
		"shared":      unix.MS_SHARED,
		"slave":       unix.MS_SLAVE,
		"unbindable":  unix.MS_UNBINDABLE,
		"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
		"rshared":     unix.MS_SHARED | unix.MS_REC,
		"rslave":      unix.MS_SLAVE | unix.MS_REC,
		"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	}
}

// mountOptions sorts a mount's options into m; those that are not about the
// mount are parameters of the file system. Later options win.
func mountOptions(m *child.Mount, options []string) error {
	attrs, propagations := attrOptions(), propagationOptions()
	for _, o := range options {
		if a, ok := attrs[o]; ok {
			m.Set, m.Clear = m.Set&^a.clear|a.set, m.Clear&^a.set|a.clear
			continue
		}
		if a, ok := attrs[strings.TrimPrefix(o, "r")]; ok {
			m.RecSet, m.RecClear = m.RecSet&^a.clear|a.set, m.RecClear&^a.set|a.clear
			continue
		}
		if p, ok := propagations[o]; ok {
			m.Propagation = p
			continue
		}
		switch o {
		case "bind", "defaults":
		case "rbind":
			m.Recursive = true
		case "remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink":
			return fmt.Errorf("mount option %q is not supported", o)
		default:
			if m.Kind != child.MountFS {
				return fmt.Errorf("mount option %q is unknown", o)
			}
			m.Params = append(m.Params, o)
		}
	}
	const atime = unix.MOUNT_ATTR__ATIME
	if m.Clear&atime != 0 {
		m.Clear |= atime
	}
	if m.RecClear&atime != 0 {
		m.RecClear |= atime
	}
	return nil
}
