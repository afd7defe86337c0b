//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/rogpeppe/go-internal/txtar"
)

// site is what one test builds in: a context, a store, and room for outputs.
// The builds are processes of their own, as a user starts them.
type site struct {
	t    *testing.T
	dir  string   // the context, and the working directory of bk
	root string   // the store
	env  []string // added to the environment
	user *account // who runs bk; nil: the user of the test
}

// newSite makes a context from a txtar archive.
func newSite(t *testing.T, archive string) *site {
	t.Helper()
	top := t.TempDir()
	s := &site{t: t, dir: filepath.Join(top, "ctx"), root: filepath.Join(top, "store")}
	s.write(archive)
	return s
}

// write puts the files of a txtar archive into the context.
func (s *site) write(archive string) {
	s.t.Helper()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(s.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
}

// in returns the site with another store.
func (s *site) in(root string) *site {
	other := *s
	other.root = filepath.Join(filepath.Dir(s.root), root)
	return &other
}

// path returns a path beside the context.
func (s *site) path(name string) string { return filepath.Join(filepath.Dir(s.dir), name) }

// read returns a file beside the context.
func (s *site) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// command returns bk with arguments, ready to start. A build's progress is
// raw JSON unless the arguments say otherwise.
func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command("bk", args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "BK_ROOT="+s.root, "BUILDKIT_PROGRESS=rawjson", "SOURCE_DATE_EPOCH=", "NO_COLOR=1")
	cmd.Env = append(cmd.Env, s.env...)
	if s.user != nil {
		s.user.become(cmd)
	}
	return cmd
}

// outcome is what a process left.
type outcome struct {
	code           int
	stdout, stderr string
	usage          *syscall.Rusage
	took           time.Duration
	steps          []*client.Vertex // of a build with raw JSON progress, in order
	logs           string
}

// run runs bk to its end.
func (s *site) run(args ...string) outcome {
	s.t.Helper()
	return wait(s.t, s.command(args...))
}

// wait runs a command to its end. A command that hangs is a failure.
func wait(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !stuck.Stop() {
		t.Fatalf("%v hangs; stderr:\n%s", cmd.Args, stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	o := outcome{
		code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), took: time.Since(started),
	}
	o.usage, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
	o.parse()
	return o
}

// parse reads the events of raw JSON progress. A step's last event counts.
func (o *outcome) parse() {
	at := map[string]int{}
	var text strings.Builder
	for line := range strings.Lines(o.stderr) {
		var s client.SolveStatus
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &s) != nil {
			text.WriteString(line)
			continue
		}
		for _, v := range s.Vertexes {
			id := v.Digest.String()
			if i, ok := at[id]; ok {
				o.steps[i] = v
				continue
			}
			at[id] = len(o.steps)
			o.steps = append(o.steps, v)
		}
		for _, l := range s.Logs {
			o.logs += string(l.Data)
		}
	}
	if len(o.steps) > 0 {
		o.stderr = text.String() // the errors
	}
}

// build builds the context and must succeed.
func (s *site) build(args ...string) outcome {
	s.t.Helper()
	return s.must(append([]string{"build", "."}, args...)...)
}

// must runs bk, which must succeed.
func (s *site) must(args ...string) outcome {
	s.t.Helper()
	o := s.run(args...)
	if o.code != 0 {
		s.t.Fatalf("bk %s: exit code %d\n%s\n%s", strings.Join(args, " "), o.code, o.logs, o.stderr)
	}
	return o
}

// verify checks the whole store.
func (s *site) verify() {
	s.t.Helper()
	s.must("cache", "verify")
}

// executed lists the instructions that were run and not found in the cache, by
// name and in order, such as "[build 2/3] RUN make".
func (o *outcome) executed() []string {
	return o.named(func(v *client.Vertex) bool { return !v.Cached })
}

// cached lists the instructions that were found in the cache.
func (o *outcome) cached() []string { return o.named(func(v *client.Vertex) bool { return v.Cached }) }

func (o *outcome) named(want func(*client.Vertex) bool) []string {
	list := []string{}
	for _, v := range o.steps {
		_, instruction, ok := strings.Cut(v.Name, "] ")
		verb, _, _ := strings.Cut(instruction, " ")
		if ok && slices.Contains([]string{"RUN", "COPY", "ADD", "WORKDIR"}, verb) && want(v) {
			list = append(list, v.Name)
		}
	}
	slices.Sort(list)
	return list
}

// fileState is what tells whether a file was written, replaced or touched.
type fileState struct {
	Ino          uint64
	Mode         uint32
	Nlink        uint64
	Size         int64
	Mtime, Ctime syscall.Timespec
}

// snapshotOf returns the state of every file below a directory.
func snapshotOf(t *testing.T, dir string) map[string]fileState {
	t.Helper()
	files := map[string]fileState{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(name, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		files[rel] = fileState{st.Ino, st.Mode, uint64(st.Nlink), st.Size, st.Mtim, st.Ctim}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// changes lists the files that differ between two states.
func changes(before, after map[string]fileState) []string {
	var list []string
	for name, a := range before {
		b, ok := after[name]
		switch {
		case !ok:
			list = append(list, "removed "+name)
		case a != b:
			list = append(list, fmt.Sprintf("changed %s: %+v, was %+v", name, b, a))
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			list = append(list, "added "+name)
		}
	}
	slices.Sort(list)
	return list
}

// needContainers skips a test that has RUN steps where they cannot run.
func needContainers(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("RUN steps need root")
	}
}

// repository is the root of the source tree.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// base returns the flag that gives FROM busybox, or another base that "make
// bases" makes, a meaning.
func base(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(repository(t), ".cache", "bases", name)
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		t.Skipf("base image %s is not there: run make bases", name)
	}
	return "--build-context=" + name + "=oci-layout://" + dir
}

// command returns a program of the system, ready to start.
func command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

// need skips a test when a program is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// randomBytes returns bytes that do not compress; the same each time.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
