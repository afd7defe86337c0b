//go:build linux

package runner

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// Exit codes and signals arrive as a shell would report them.
func TestStatus(t *testing.T) {
	for script, want := range map[string]Status{
		"exit 0":                      {},
		"exit 7":                      {Code: 7},
		"exit 255":                    {Code: 255},
		"kill -9 $$":                  {Code: 137, Signal: 9},
		"kill -TERM $$":               {Code: 143, Signal: 15},
		"trap 'exit 3' TERM; kill $$": {Code: 3},
	} {
		out, got, err := try(t, container(t, shell(script)))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v; output %s", script, got, err, want, out)
		}
	}
}

// A command that cannot be executed has the codes and the words of other
// runtimes.
func TestExecErrors(t *testing.T) {
	files := layer(t, map[string]string{
		"script":     "#!/no/such/interpreter\n",
		"data":       "neither a script nor a program",
		"plain":      "#!/bin/sh\n",
		"etc/d/":     "",
		"bin/noexec": "#!/bin/sh\n",
	})
	for _, f := range []string{"/plain", "/bin/noexec"} {
		if err := os.Chmod(files+f, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		arg  string
		code int
		want string
		is   error
	}{
		{"foo", 127, `exec: "foo": executable file not found in $PATH`, fs.ErrNotExist},
		{"/foo", 127, `exec: "/foo": no such file or directory`, fs.ErrNotExist},
		{"/plain", 126, `exec: "/plain": permission denied`, fs.ErrPermission},
		{"noexec", 126, `exec: "noexec": permission denied`, fs.ErrPermission},
		{"/etc/d", 126, `exec: "/etc/d": permission denied`, fs.ErrPermission},
		{"/data", 126, `exec: "/data": exec format error: it is neither for this platform`, nil},
		{"/script", 126, `exec: "/script": no such file or directory: the file is there, but not the interpreter`, nil},
	} {
		_, status, err := try(t, container(t, step(test.arg), files))
		var e *ExecError
		if !errors.As(err, &e) || e.Code != test.code || status.Code != test.code || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %+v, %v; want code %d and %q", test.arg, status, err, test.code, test.want)
		}
		if test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v is not %v", test.arg, err, test.is)
		}
	}
}

// The command is looked up in the container's PATH, in its order, and a file
// without the right to execute it is passed over.
func TestPath(t *testing.T) {
	files := layer(t, map[string]string{
		"a/tool": "#!/bin/sh\necho a", "b/tool": "#!/bin/sh\necho b", "c/tool": "#!/bin/sh\necho c",
	})
	os.Chmod(files+"/a/tool", 0o644)
	o := step("tool")
	o.Env = []string{"PATH=/missing:relative::/a:/b:/c:/bin"}
	want(t, container(t, o, files), "b")
	o = step("./tool")
	o.Cwd = "/c"
	want(t, container(t, o, files), "c")
	o = step("sh", "-c", "echo default")
	o.Env = nil
	want(t, container(t, o), "default")
}

// Standard input comes from the reader, is empty without one, and files are
// passed as they are.
func TestStreams(t *testing.T) {
	c := container(t, step("cat"))
	c.Stdin = strings.NewReader(strings.Repeat("x", 200_000))
	if got := output(t, c); len(got) != 200_000 {
		t.Errorf("%d bytes came back, want 200000", len(got))
	}
	want(t, container(t, shell("cat; echo end")), "end")

	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c = container(t, shell("echo to a file; echo to errors >&2"))
	var errs bytes.Buffer
	c.Stdout, c.Stderr = f, &errs
	if _, err := Run(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(f.Name())
	if string(data) != "to a file\n" || errs.String() != "to errors\n" {
		t.Errorf("stdout %q, stderr %q", data, &errs)
	}
}

// A command that does not read its input does not hold anything up.
func TestUnreadInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	c := container(t, step("true"))
	c.Stdin = struct{ *os.File }{r} // a reader that blocks, and isn't a file
	if out, status, err := try(t, c); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v, %s", status, err, out)
	}
}

// failing is a writer on a full disk.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// A failed writer is reported, and the command runs to its end.
func TestFailedWriter(t *testing.T) {
	c := container(t, shell("seq 100000; exit 4"))
	c.Stdout = failing{}
	status, err := Run(context.Background(), c)
	if status.Code != 4 || err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%+v, %v; want code 4 and the writer's error", status, err)
	}
}

// A failed set-up names the operation and its operand.
func TestSetupErrors(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Container)
		want   string
	}{
		"layer":      {func(c *Container) { c.Root.Lower = []string{"/no/such/layer"} }, "overlay layer /no/such/layer: no such file or directory"},
		"relative":   {func(c *Container) { c.Root.Lower = []string{"layer"} }, `layer "layer": path is not absolute`},
		"half":       {func(c *Container) { c.Root.Work = "" }, "one of upper directory"},
		"no root":    {func(c *Container) { c.Root = Tree{} }, "tree has no layers"},
		"bind":       {func(c *Container) { c.Spec.Mounts[0] = bind("/no/such", "/proc") }, "mount /no/such on /proc: no such file or directory"},
		"option":     {func(c *Container) { c.Spec.Mounts = append(c.Spec.Mounts, bind("/", "/tmp", "context=x")) }, `mount option "context=x" is unknown`},
		"type":       {func(c *Container) { c.Spec.Mounts[0].Type = "ext4" }, `file system type "ext4" is not supported`},
		"fs option":  {func(c *Container) { c.Spec.Mounts[1].Options = []string{"size=many"} }, "mount tmpfs on /dev: option size=many"},
		"unused":     {func(c *Container) { c.Trees = map[string]Tree{"/x": {Upper: "/tmp"}} }, "1 trees and files were given for 0 of the mounts"},
		"capability": {func(c *Container) { c.Spec.Process.Capabilities.Bounding = []string{"CAP_FLY"} }, `unknown capability "CAP_FLY"`},
		"sysctl":     {func(c *Container) { c.Spec.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} }, "is not the container's own"},
		"no spec":    {func(c *Container) { c.Spec = nil }, "spec:"},
	} {
		c := container(t, step("true"))
		c.ID = "box"
		test.change(&c)
		_, status, err := try(t, c)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "container box: ") || status.Code != 0 {
			t.Errorf("%s: %+v, %v; want %q", name, status, err, test.want)
		}
	}
}
