//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const corpusDir = "../../testdata/corpus"

// bk makes of every case of the corpus what BuildKit made of it when the case
// was recorded: config, history and every file.
func TestCorpus(t *testing.T) {
	needCorpus(t)
	(&corpusRun{subject: &bk{exe: buildBK(t), root: t.TempDir()}, temp: (*testing.T).TempDir}).run(t)
}

// Without namespaces and mounts the results are the same, but for what the list
// of differences names.
func TestCorpusChroot(t *testing.T) {
	needCorpus(t)
	(&corpusRun{
		subject: &bk{exe: buildBK(t), root: t.TempDir(), isolation: "chroot"},
		lists:   []string{"differences-chroot"},
		temp:    (*testing.T).TempDir,
	}).run(t)
}

// An ordinary user with subordinate ids gets the same of bk, but for what the
// list of differences names.
func TestCorpusRootless(t *testing.T) {
	needCorpus(t)
	for _, tool := range []string{"useradd", "userdel", "newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: run hack/deps as root", tool)
		}
	}
	home, err := os.MkdirTemp("", "bk-corpus-") // others' test directories are closed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	name := "bk" + filepath.Base(home)[len("bk-corpus-"):]
	if out, err := exec.Command("useradd", "--no-create-home", "--home-dir", home, name).CombinedOutput(); err != nil {
		t.Skipf("users cannot be made here: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("userdel", name).Run() })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	exe := filepath.Join(home, "bk")
	if err := os.Rename(buildBK(t), exe); err != nil {
		t.Fatal(err)
	}
	become := func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "HOME="+home, "USER="+name)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	own := func(t *testing.T, dir string) {
		t.Helper()
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := d.Info()
			if err == nil {
				err = os.Lchown(path, uid, gid)
			}
			if err == nil && st.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				err = os.Chmod(path, st.Mode()) // the change of owner took them away
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	own(t, home)
	(&corpusRun{
		subject: &bk{exe: exe, root: filepath.Join(home, "store"), become: become},
		lists:   []string{"differences-rootless"},
		ready:   own,
		temp: func(t *testing.T) string {
			dir, err := os.MkdirTemp(home, "case-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			own(t, dir)
			return dir
		},
	}).run(t)
}

// corpusRun judges a builder by the corpus.
type corpusRun struct {
	subject builder
	lists   []string // of differences that are meant, beside those of all
	temp    func(*testing.T) string
	ready   func(t *testing.T, dir string) // hands a context over; nil: nothing to do
}

// needCorpus skips a test where the corpus can't be built.
func needCorpus(t *testing.T) {
	t.Helper()
	switch {
	case testing.Short():
		t.Skip("short: builds the whole corpus")
	case os.Geteuid() != 0:
		t.Skip("needs root: cases make devices and files of other users")
	case runtime.GOARCH != "amd64":
		t.Skip("needs amd64: the records are of that platform")
	}
	for _, tool := range []string{"setcap", "setfattr", "xz", "bzip2", "zstd", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: run hack/deps as root", tool)
		}
	}
}

func (r *corpusRun) run(t *testing.T) {
	bases, err := filepath.Abs("../../.cache/bases")
	if err != nil {
		t.Fatal(err)
	}
	known, err := loadBases(bases)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for _, name := range baseNames {
		if _, err := os.Stat(filepath.Join(bases, name)); err != nil {
			t.Skipf("needs the base image %s: run make bases", name)
		}
		named[name] = "oci-layout://" + filepath.Join(bases, name)
	}
	var meant []difference
	for _, list := range append([]string{"differences"}, r.lists...) {
		some, err := loadDifferences(filepath.Join(corpusDir, list))
		if err != nil {
			t.Fatal(err)
		}
		meant = append(meant, some...)
	}
	for _, c := range corpus(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r.test(t, c, named, known, meant)
		})
	}
}

// test builds a case and compares with its record. A build that fails is a
// difference like others.
func (r *corpusRun) test(t *testing.T, c *testCase, named map[string]string, known *baseImages, meant []difference) {
	dir := r.temp(t)
	in, err := c.lay(t.Context(), dir, named)
	if err != nil {
		t.Fatal(err)
	}
	if r.ready != nil {
		r.ready(t, dir)
	}
	in.dest = filepath.Join(r.temp(t), "out")
	output, err := r.subject.build(t.Context(), in)
	got, err := c.outcome(in.dest, output, err, known.content)
	if err != nil {
		unknown, _ := explain(c.name, []string{"build: " + err.Error()}, meant)
		for _, d := range unknown {
			t.Error(d)
		}
		return
	}
	if c.wantError != "" || c.varies {
		return
	}
	want, err := c.recorded(corpusDir, known)
	if err != nil {
		t.Fatal(err)
	}
	differences, _ := explain(c.name, compare(want, got), meant)
	for _, d := range differences {
		t.Error(d)
	}
}

func corpus(t *testing.T) []*testCase {
	t.Helper()
	cases, err := loadCorpus(corpusDir, "")
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func buildBK(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "bk")
	cmd := exec.Command("go", "build", "-o", exe, "bk.build/bk/cmd/bk")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build bk: %v\n%s", err, out)
	}
	return exe
}

// Every case that must build has a record, and every record has a case: else a
// case would be judged by nothing.
func TestRecordsComplete(t *testing.T) {
	want := map[string]bool{}
	for _, c := range corpus(t) {
		if c.wantError != "" || c.varies {
			continue
		}
		want[recordName(corpusDir, c.name)] = true
		if _, err := os.Stat(recordName(corpusDir, c.name)); errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s has no record: run the conformance command with -record -run '^%s$'", c.name, c.name)
		}
	}
	records, err := filepath.Glob(filepath.Join(corpusDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if !want[r] {
			t.Errorf("%s is of no case", r)
		}
	}
}

// The judge itself must be right: whiteouts hide only what is below, wherever
// they stand in the tar, and hard links are one file.
func TestTreeApply(t *testing.T) {
	entry := func(typ byte, name, link string, mode int64) tar.Header {
		return tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: mode}
	}
	dir := func(name string, mode int64) tar.Header { return entry(tar.TypeDir, name, "", mode) }
	file := func(name string) tar.Header { return entry(tar.TypeReg, name, "", 0o644) }
	const f = "- 0644 0:0 0 bytes e3b0c44298fc"
	tests := []struct {
		name   string
		layers [][]tar.Header
		want   map[string]string
	}{
		{"whiteout", [][]tar.Header{{file("a"), file("d/b"), file("d/c")}, {file("d/.wh.b"), file(".wh.a")}},
			map[string]string{"d": "d 0755 0:0", "d/c": f}},
		{"whiteout of a directory", [][]tar.Header{{file("d/b")}, {file(".wh.d")}}, map[string]string{}},
		{"whiteout beside the same name", [][]tar.Header{{dir("d/", 0o700), file("d/b")}, {dir("d/", 0o711), file("d/n"), file(".wh.d")}},
			map[string]string{"d": "d 0711 0:0", "d/n": f}},
		{"opaque after the entries", [][]tar.Header{{file("d/b")}, {dir("d", 0o700), file("d/n"), file("d/.wh..wh..opq")}},
			map[string]string{"d": "d 0700 0:0", "d/n": f}},
		{"directory over directory", [][]tar.Header{{dir("d", 0o700), file("d/b")}, {dir("d", 0o711)}},
			map[string]string{"d": "d 0711 0:0", "d/b": f}},
		{"file over directory", [][]tar.Header{{file("d/b")}, {file("d")}}, map[string]string{"d": f}},
		{"directory over file", [][]tar.Header{{file("d")}, {file("d/b")}}, map[string]string{"d": "d 0755 0:0", "d/b": f}},
		{"hard links", [][]tar.Header{{file("a"), entry(tar.TypeLink, "b", "a", 0), file("c")}, {file(".wh.a"), entry(tar.TypeLink, "d", "c", 0)}},
			map[string]string{"b": f, "c": f + ` linked with "c"`, "d": f + ` linked with "c"`}},
		{"link", [][]tar.Header{{entry(tar.TypeSymlink, "./l", "/x", 0o123)}}, map[string]string{"l": `l 0777 0:0 -> "/x"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := newTree()
			for _, l := range tt.layers {
				if err := tree.apply(bytes.NewReader(pack(t, l))); err != nil {
					t.Fatal(err)
				}
			}
			got := tree.lines(nil)
			delete(got, ".")
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("tree (-want +got):\n%s", d)
			}
		})
	}
}

func pack(t *testing.T, entries []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A difference of any kind must be seen: the comparison is the test of all else.
func TestCompare(t *testing.T) {
	base := func() *result {
		return &result{images: map[string]*image{"": {
			config: map[string]any{"os": "linux", "config": map[string]any{"Env": []any{"A=1"}}},
			layers: 1,
			files:  map[string]string{".": "d", "a": "- 0644"},
		}}}
	}
	tests := []struct {
		name   string
		change func(*result)
		want   []string
	}{
		{"nothing", func(*result) {}, nil},
		{"index", func(r *result) { r.index = true }, []string{"index: want false, got true"}},
		{"platform", func(r *result) { delete(r.images, "") }, []string{"platform : want it true, got it false"}},
		{"config", func(r *result) { r.images[""].config["config"] = map[string]any{} },
			[]string{`config.config.Env: want ["A=1"], got nothing`}},
		{"layers", func(r *result) { r.images[""].layers = 2 }, []string{"layers: want 1, got 2"}},
		{"changed", func(r *result) { r.images[""].files["a"] = "- 0600" }, []string{`file "a": want - 0644, got - 0600`}},
		{"missing", func(r *result) { delete(r.images[""].files, "a") }, []string{`file "a": want - 0644, got nothing`}},
		{"added", func(r *result) { r.images[""].files["b"] = "d" }, []string{`file "b": want nothing, got d`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := base()
			tt.change(got)
			if d := cmp.Diff(tt.want, compare(base(), got)); d != "" {
				t.Errorf("differences (-want +got):\n%s", d)
			}
		})
	}
}
