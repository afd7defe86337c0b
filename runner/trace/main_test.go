//go:build linux && (amd64 || arm64)

package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stepUser is who runs the tests' steps: no capability, no new privileges, as in
// a pod of the restricted profile.
const stepUser = 65534

// stepMarker makes the test binary a process that runs one step: its value is
// the name of a file with the options.
const stepMarker = "_BK_TRACE_TEST_STEP"

func TestMain(m *testing.M) {
	if name := os.Getenv(stepMarker); name != "" {
		os.Exit(stepMain(name))
	}
	if secret := os.Getenv(raceMarker); secret != "" {
		os.Exit(raceMain(secret))
	}
	os.Exit(m.Run())
}

// stepMain runs the step of the file and exits with its code.
func stepMain(name string) int {
	text, err := os.ReadFile(name)
	o := Options{}
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	status, err := Run(context.Background(), o)
	if e := new(ExecError); errors.As(err, &e) {
		fmt.Println(e)
		return 127
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return status.Code
}

// dir makes a directory of the steps' user, which nobody else reads.
func dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "bk-trace-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	if os.Geteuid() == 0 {
		if err := os.Chown(d, stepUser, stepUser); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// give hands a tree to the steps' user.
func give(t testing.TB, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	err := filepath.WalkDir(root, func(name string, _ os.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(name, &st)
		}
		if err == nil {
			err = os.Lchown(name, stepUser, stepUser)
		}
		if err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFLNK { // set-id bits are gone
			err = syscall.Chmod(name, st.Mode&0o7777)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// busybox makes a root directory with a static busybox.
func busybox(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("static busybox (apt-get install busybox-static): ", err)
	}
	root := filepath.Join(dir(t), "root")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(names)) {
		if name != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:5:6::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	give(t, root)
	return root
}

// debian unpacks the base image of the tests, as its user.
func debian(t testing.TB) string {
	t.Helper()
	base := filepath.Join("..", "..", ".cache", "bases", "debian")
	blob := baseLayer(t, base)
	root := filepath.Join(dir(t), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", root, "--no-same-owner", "-xpf", blob).CombinedOutput(); err != nil {
		t.Fatalf("unpack the Debian base: %v\n%s", err, out)
	}
	give(t, root)
	return root
}

// baseLayer finds the blob of the one layer for this machine.
func baseLayer(t testing.TB, layout string) string {
	t.Helper()
	type descriptor struct {
		Digest   string
		Platform struct{ Architecture string }
	}
	var index struct{ Manifests, Layers []descriptor }
	read := func(name string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(layout, name))
		if err != nil {
			t.Skip("no base images (go run ./hack/bases): ", err)
		}
		index.Manifests, index.Layers = nil, nil
		if err := json.Unmarshal(text, &index); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d descriptor) string { return filepath.Join("blobs", strings.Replace(d.Digest, ":", "/", 1)) }
	read("index.json")
	for len(index.Layers) == 0 {
		next := index.Manifests[0]
		for _, m := range index.Manifests {
			if m.Platform.Architecture == runtime.GOARCH {
				next = m
			}
		}
		read(blob(next))
	}
	return filepath.Join(layout, blob(index.Layers[0]))
}

// options is a step that runs a script in the root.
func options(t testing.TB, root, script string) Options {
	t.Helper()
	private := dir(t)
	return Options{
		Root: root, Private: private, Paths: []string{"/bin/sh"}, Argv: []string{"sh", "-c", script},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Cwd: "/", Umask: 0o022, Groups: []uint32{0},
	}
}

// run runs the step as the unprivileged user and returns what it printed.
func run(t testing.TB, o Options) (string, int) {
	t.Helper()
	cmd := command(t, o)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if os.Geteuid() == 0 { // who may then open it as /dev/stdout
		err = w.Chown(stepUser, stepUser)
	}
	if err == nil {
		cmd.Stdout, cmd.Stderr = w, w
		err = cmd.Start()
	}
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if e := new(exec.ExitError); err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func command(t testing.TB, o Options) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir(t), "options")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, executable(t))
	cmd.Env = []string{stepMarker + "=" + name}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stepUser, Gid: stepUser}}
	}
	return cmd
}

// executable is this test binary where the steps' user can execute it.
func executable(t testing.TB) string {
	t.Helper()
	name := filepath.Join(dir(t), "test")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(name, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// output runs a step that must succeed.
func output(t testing.TB, o Options) string {
	t.Helper()
	out, code := run(t, o)
	if code != 0 {
		t.Fatalf("the step ended with %d:\n%s", code, out)
	}
	return out
}
