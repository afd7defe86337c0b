package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// resctrlRoot is where Linux's interface to Intel RDT is mounted.
const resctrlRoot = "/sys/fs/resctrl"

// resctrl is the specification's linux.intelRdt: a class of service of the
// processor's caches and memory bandwidth, below root.
type resctrl struct {
	root string
	want *specs.LinuxIntelRdt
	id   string // the container's
}

// check refuses what is not valid, or what this machine doesn't have.
func (r resctrl) check() error {
	w := r.want
	switch {
	case len(w.Schemata) > 0 && (w.L3CacheSchema != "" || w.MemBwSchema != ""):
		return errors.New("spec: linux.intelRdt: schemata exclude l3CacheSchema and memBwSchema")
	case !classOfService(r.class()):
		return fmt.Errorf("spec: linux.intelRdt: closID %q is not a name", r.class())
	case slices.ContainsFunc(r.schemata(), func(line string) bool { return strings.Contains(line, "\n") }):
		return errors.New("spec: linux.intelRdt: a schema is more than one line")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.root, &fs); err != nil || r.root == resctrlRoot && fs.Type != unix.RDTGROUP_SUPER_MAGIC {
		return fmt.Errorf("spec: linux.intelRdt: no resctrl file system is mounted on %s", r.root)
	}
	return nil
}

// class is the name of the class of service.
func (r resctrl) class() string {
	if r.want.ClosID != "" {
		return r.want.ClosID
	}
	return r.id
}

// classOfService reports whether a name is one directory's, and none of the
// file system's own.
func classOfService(name string) bool {
	switch name {
	case "", ".", "..", "info", "mon_groups", "mon_data":
		return false
	}
	return !strings.ContainsAny(name, "/\x00\n")
}

// schemata are the lines that the class has to have.
func (r resctrl) schemata() []string {
	lines := slices.Clone(r.want.Schemata)
	for _, line := range []string{r.want.L3CacheSchema, r.want.MemBwSchema} {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// apply puts the process into its class of service, which is made when there are
// schemata for it, and returns the directories that it made, the last first. The
// caller removes them when the container is gone.
func (r resctrl) apply(pid int) (made []string, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("intelRdt: %w", err), removeAll(made))
			made = nil
		}
	}()
	dir, lines := filepath.Join(r.root, r.class()), r.schemata()
	if r.want.ClosID != "" || len(lines) > 0 {
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil:
			made = append(made, dir)
			if len(lines) == 0 {
				return made, fmt.Errorf("the class of service %s is not there, and there are no schemata for it", dir)
			}
			if err := writeLines(filepath.Join(dir, "schemata"), lines); err != nil {
				return made, err
			}
		case !errors.Is(err, os.ErrExist):
			return made, err
		default:
			if err := sameSchemata(dir, lines); err != nil {
				return made, err
			}
		}
		if err := writeLines(filepath.Join(dir, "tasks"), []string{strconv.Itoa(pid)}); err != nil {
			return made, err
		}
	} else {
		dir = r.root
	}
	if !r.want.EnableMonitoring {
		return made, nil
	}
	group := filepath.Join(dir, "mon_groups", r.id)
	if err := os.Mkdir(group, 0o755); err != nil {
		return made, err
	}
	made = append([]string{group}, made...)
	return made, writeLines(filepath.Join(group, "tasks"), []string{strconv.Itoa(pid)})
}

func removeAll(dirs []string) (err error) {
	for _, dir := range dirs {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}

// writeLines writes each line by itself, as the kernel wants to have them.
func writeLines(name string, lines []string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, line := range lines {
		if _, err := f.WriteString(line + "\n"); err != nil {
			return fmt.Errorf("write %q: %w", line, err)
		}
	}
	return nil
}

// maxSchemata bounds a schemata file.
const maxSchemata = 64 << 10

// sameSchemata demands that a class that others made has the wanted lines.
func sameSchemata(dir string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "schemata"))
	if err != nil {
		return err
	}
	var have []string
	for line := range strings.Lines(string(text[:min(len(text), maxSchemata)])) {
		have = append(have, strings.TrimSpace(line))
	}
	for _, line := range lines {
		if !slices.Contains(have, strings.TrimSpace(line)) {
			return fmt.Errorf("the class of service %s is there already, without %q", dir, line)
		}
	}
	return nil
}
