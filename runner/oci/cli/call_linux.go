package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"bk.build/bk/runner/oci"
)

// call is one invocation.
type call struct {
	global         global
	command        string
	stdout, stderr io.Writer
	log            *os.File
	rt             *oci.Runtime
}

// open checks the global flags and opens what they name.
func (c *call) open() error {
	g := &c.global
	if g.systemdCgroup {
		return fmt.Errorf("--systemd-cgroup: this runtime makes control groups itself and doesn't ask systemd; use the cgroupfs driver (podman: --cgroup-manager=cgroupfs; containerd: SystemdCgroup = false; kubelet: cgroupDriver: cgroupfs)")
	}
	if g.logFormat != "text" && g.logFormat != "json" {
		return &usageError{err: fmt.Errorf("--log-format %q: must be text or json", g.logFormat)}
	}
	rootless := os.Geteuid() != 0
	if g.rootless != "auto" {
		var err error
		if rootless, err = strconv.ParseBool(g.rootless); err != nil {
			return &usageError{err: fmt.Errorf("--rootless %q: must be true, false or auto", g.rootless)}
		}
	}
	if g.log != "" {
		f, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		c.log = f
	}
	root := g.root
	if root == "" {
		root = defaultRoot(os.Getenv("XDG_RUNTIME_DIR"), os.Geteuid())
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	c.rt = &oci.Runtime{
		Root: root, Rootless: rootless,
		Warn: func(format string, args ...any) { c.say("warning", fmt.Sprintf(format, args...)) },
	}
	c.debug("%s %v", c.command, os.Args)
	return nil
}

// defaultRoot is the directory of the state when no flag says otherwise.
func defaultRoot(runtimeDir string, uid int) string {
	switch {
	case filepath.IsAbs(runtimeDir):
		return filepath.Join(runtimeDir, "bk-runtime")
	case uid == 0:
		return "/run/bk-runtime"
	}
	return filepath.Join("/run/user", strconv.Itoa(uid), "bk-runtime")
}

func (c *call) close() {
	if c.log != nil {
		c.log.Close()
	}
}

// say writes a message for a person to standard error, and to the log.
func (c *call) say(level, message string) {
	label := map[string]string{"error": "ERROR: ", "warning": "WARNING: "}[level]
	fmt.Fprintf(c.stderr, "%s%s\n", label, message)
	c.note(level, message)
}

// debug writes to the log alone, if it's to be that detailed.
func (c *call) debug(format string, args ...any) {
	if c.global.debug {
		c.note("debug", fmt.Sprintf(format, args...))
	}
}

// note appends a line to the log, as container managers parse it.
func (c *call) note(level, message string) {
	if c.log == nil {
		return
	}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	if c.global.logFormat == "json" {
		line, err := json.Marshal(struct {
			Level   string `json:"level"`
			Message string `json:"msg"`
			Time    string `json:"time"`
		}{level, message, now})
		if err == nil {
			_, _ = c.log.Write(append(line, '\n')) // nobody else to tell
		}
		return
	}
	fmt.Fprintf(c.log, "time=%q level=%s msg=%q\n", now, level, message)
}

// printJSON writes a document.
func (c *call) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
