package source

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_COMMITTER_DATE=1700000000 +0200", "GIT_AUTHOR_DATE=1600000000 +0000",
		"GIT_AUTHOR_NAME=committer 5 <x>", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@d")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

// The time is that of the commit at HEAD, from anywhere in the work tree; a
// directory outside of a repository, and one without commits, has none.
func TestEpoch(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs the git program")
	}
	dir := t.TempDir()
	sub := filepath.Join(dir, "a", "b")
	must(t, os.MkdirAll(sub, 0o755))
	if got := Epoch(sub); got != nil {
		t.Errorf("no repository: %v", got)
	}
	git(t, dir, "init", "-q")
	if got := Epoch(sub); got != nil {
		t.Errorf("no commit: %v", got)
	}
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "x\n\ncommitter a <b> 5 +0000")
	want := time.Unix(1700000000, 0)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(sub, link))
	other := filepath.Join(t.TempDir(), "worktree")
	git(t, dir, "worktree", "add", "-q", other)
	for _, d := range []string{dir, sub, link, other} {
		if got := Epoch(d); got == nil || !got.Equal(want) {
			t.Errorf("%s: %v", d, got)
		}
	}
	if got := Epoch(filepath.Join(dir, "none")); got != nil {
		t.Errorf("no directory: %v", got)
	}
}

// Nothing that the repository or the environment configures is run or asked.
func TestEpochHostile(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs the git program")
	}
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "x")
	trap := filepath.Join(t.TempDir(), "trap")
	script := filepath.Join(t.TempDir(), "run")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\ntouch "+trap+"\n"), 0o755))
	for _, key := range []string{"core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "pager.cat-file", "diff.external", "core.gitProxy", "credential.helper", "alias.cat-file"} {
		git(t, dir, "config", key, script)
	}
	git(t, dir, "config", "core.hooksPath", filepath.Dir(script))
	t.Setenv("GIT_DIR", "/nowhere")
	t.Setenv("GIT_TRACE", trap)
	t.Setenv("GIT_PAGER", script)
	if got := Epoch(dir); got == nil || got.Unix() != 1700000000 {
		t.Errorf("got %v", got)
	}
	if _, err := os.Lstat(trap); err == nil {
		t.Error("something of the repository was run")
	}
}

// A commit that says no usable time has none.
func TestCommitted(t *testing.T) {
	for text, want := range map[string]int64{
		"tree x\nauthor a <b> 1 +0000\ncommitter c <d> 2 +0100\n\ntext": 2,
		"committer c > <d> 3 -0700\n":                                   3,
		"committer c <d> 2":                                             2,
		"author a <b> 1 +0000\n\ncommitter c <d> 2 +0000":               -1,
		"committer c <d> -2 +0000\n":                                    -1,
		"committer c <d> 99999999999999999999 +0000\n":                  -1,
		"committer c <d> 253402300800 +0000\n":                          -1,
		"committer c <d>\n":                                             -1,
		"committer\n":                                                   -1,
		"":                                                              -1,
	} {
		got := committed([]byte(text))
		if (got == nil) != (want < 0) || got != nil && got.Unix() != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
