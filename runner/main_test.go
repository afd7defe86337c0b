//go:build linux

package runner

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bk.build/bk/runner/seccomp"
	"bk.build/bk/runner/spec"
)

// The test binary is re-executed as the container's first process; package
// child takes over before TestMain.
func TestMain(m *testing.M) {
	if os.Getenv(parentMarker) != "" {
		parentMain() // of TestParentKilled
		return
	}
	dir, err := os.MkdirTemp("", "runner-test")
	if err == nil {
		shared.root = filepath.Join(dir, "busybox")
		shared.err = makeBusybox(shared.root)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// shared is made once: a root directory with a static busybox, used as a
// layer that nobody writes to, and the compiled filters.
var shared struct {
	root    string
	err     error
	filters seccomp.Cache
}

func makeBusybox(dir string) error {
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("static busybox (apt-get install busybox-static): %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(names)) {
		os.Symlink("busybox", filepath.Join(dir, "bin", name))
	}
	return nil
}

// needRoot skips a test that makes containers.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making containers needs root")
	}
	if shared.err != nil {
		t.Skip("needs a busybox root: ", shared.err)
	}
}

// over returns a writable tree on top of layers.
func over(t testing.TB, lower ...string) Tree {
	t.Helper()
	dir := t.TempDir()
	tree := Tree{Lower: lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{tree.Upper, tree.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// layer makes a directory with files; names that end in "/" are directories,
// and contents that start with "->" are symbolic links.
func layer(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// step returns the options of an ordinary step.
func step(args ...string) spec.Options {
	return spec.Options{Args: args, Env: []string{"PATH=/bin"}, Network: spec.NetworkHost}
}

// shell is a step that runs a script.
func shell(script string) spec.Options { return step("sh", "-c", script) }

// container returns the container of a step on layers above a busybox root.
func container(t testing.TB, o spec.Options, layers ...string) Container {
	t.Helper()
	needRoot(t)
	s, err := spec.Default(o)
	if err != nil {
		t.Fatal(err)
	}
	return Container{Spec: s, Root: over(t, append(layers, shared.root)...), Filters: &shared.filters}
}

// try runs a container and returns its output and how it ended.
func try(t testing.TB, c Container) (string, Status, error) {
	t.Helper()
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	status, err := Run(context.Background(), c)
	return strings.TrimSpace(b.String()), status, err
}

// output runs a container that must end with code 0 and returns what it
// printed.
func output(t testing.TB, c Container) string {
	t.Helper()
	out, status, err := try(t, c)
	if err != nil || status.Code != 0 {
		t.Fatalf("Run = %+v, %v; output: %s", status, err, out)
	}
	return out
}

// want compares what a container printed.
func want(t testing.TB, c Container, want string) {
	t.Helper()
	if got := output(t, c); got != want {
		t.Errorf("output %q, want %q", got, want)
	}
}
