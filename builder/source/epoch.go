package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// gitTimeout bounds how long the git program may take to show a commit.
	gitTimeout = 10 * time.Second
	// maxCommit bounds the bytes that are read of a commit object.
	maxCommit = 1 << 20
)

// Epoch returns the commit time of HEAD when dir is inside of a git work tree.
// It returns nil when it isn't, when there is no commit yet, and when there is
// no git program or it cannot say.
func Epoch(dir string) *time.Time {
	git := gitDir(dir)
	if git == "" {
		return nil
	}
	program, err := exec.LookPath("git")
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), gitTimeout)
	defer cancel()
	out, err := catHead(ctx, program, git)
	if err != nil {
		return nil
	}
	return committed(out)
}

// gitDir returns the ".git" of the directory or of the nearest one above it.
func gitDir(dir string) string {
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) //nolint:forbidigo // the user's own directory, as git finds it
	}
	if err != nil {
		return ""
	}
	for {
		git := filepath.Join(dir, ".git")
		if _, err := os.Lstat(git); err == nil {
			return git
		} else if !errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// catHead prints the commit at HEAD. The repository may be hostile: git gets an
// environment of its own, and runs nothing that the repository configures.
func catHead(ctx context.Context, program, git string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program,
		"-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath="+os.DevNull,
		"--no-pager", "--git-dir="+git, "cat-file", "commit", "HEAD")
	cmd.Dir = filepath.Dir(git)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_NO_LAZY_FETCH=1", "GIT_OPTIONAL_LOCKS=0",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_ALLOW_PROTOCOL=",
	}
	out := &head{}
	cmd.Stdout = out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.data, err
}

// head keeps the beginning of what is written to it.
type head struct{ data []byte }

func (h *head) Write(p []byte) (int, error) {
	if len(h.data)+len(p) > maxCommit {
		return 0, io.ErrShortWrite
	}
	h.data = append(h.data, p...)
	return len(p), nil
}

// committed returns the time of the commit's "committer" line, whose last two
// words are the seconds since 1970 and the time zone.
func committed(commit []byte) *time.Time {
	header, _, _ := bytes.Cut(commit, []byte("\n\n"))
	for line := range bytes.Lines(header) {
		rest, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			continue
		}
		words := bytes.Fields(rest[bytes.LastIndexByte(rest, '>')+1:])
		if len(words) == 0 {
			return nil
		}
		sec, err := strconv.ParseInt(string(words[0]), 10, 64)
		if err != nil || sec < 0 || sec > maxSeconds {
			return nil
		}
		t := time.Unix(sec, 0).UTC()
		return &t
	}
	return nil
}

// maxSeconds is the end of the year 9999, the last that formats can write.
const maxSeconds = 253402300799
