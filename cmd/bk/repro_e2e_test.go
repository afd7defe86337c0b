//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const reproducible = `
-- Dockerfile --
# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM busybox AS one
RUN mkdir -p /o/x /o/a && echo 1 > /o/x/1 && ln /o/x/1 /o/a/2 && ln -s 1 /o/x/3 && chmod 4755 /o/a/2
FROM busybox AS two
RUN rm -r /home && mkdir /home && touch /z /a /m && chown 5:6 /m
FROM busybox
COPY . /src/
COPY --from=one /o /o/
COPY --link --from=two --chmod=0700 /m /m
WORKDIR /new/dir
RUN touch -d '2001-01-01 00:00:00' old; touch new; mkfifo pipe; date > /dev/null
ADD https-not-needed/* /add/
LABEL b=2 a=1
ENV X=y
-- https-not-needed/x --
x
-- sub/dir/file --
file
-- run.sh --
#!/bin/sh
`

// The same inputs give the same digest: in another directory, into another
// store, with other times, in another order, on fewer cores, with files that
// were made in another order, from the cache or not.
func TestReproducible(t *testing.T) {
	needContainers(t)
	flag := base(t, "busybox")
	epoch := []string{"SOURCE_DATE_EPOCH=1000000000"}
	for _, tt := range []struct {
		name string
		args []string
		env  []string // of all builds
	}{
		{"one platform", nil, epoch},
		{"zstd", []string{"-o", "type=image,compression=zstd,force-compression=true"}, epoch},
		{"uncompressed", []string{"-o", "type=image,compression=uncompressed,force-compression=true"}, epoch},
		{"two platforms", []string{"--platform", "linux/amd64,linux/arm64"}, epoch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.name, "two") {
				need(t, "qemu-aarch64-static")
			}
			args := append([]string{flag, "-q"}, tt.args...)
			a, b := newSite(t, reproducible), newSite(t, reproducible)
			a.env, b.env = tt.env, append([]string{"GOMAXPROCS=1", "TZ=Asia/Tokyo", "LANG=C"}, tt.env...)
			touchAll(t, b.dir)
			digest := a.build(args...).stdout
			if !strings.HasPrefix(digest, "sha256:") {
				t.Fatalf("printed %q", digest)
			}
			b.dir = filepath.Dir(b.dir)
			args = append(args, "--jobs=1")
			if got := b.must(append([]string{"build", "ctx"}, args...)...).stdout; got != digest {
				t.Errorf("built again: %s, was %s", got, digest)
			}
			if got := b.must(append([]string{"build", "ctx", "--no-cache"}, args...)...).stdout; got != digest {
				t.Errorf("without the cache: %s, was %s", got, digest)
			}
			if got := b.must(append([]string{"build", "ctx"}, args...)...).stdout; got != digest {
				t.Errorf("from the cache: %s, was %s", got, digest)
			}
		})
	}
}

// Without SOURCE_DATE_EPOCH the time is that of the commit, so that clones of
// a repository give the same image.
func TestReproducibleFromGit(t *testing.T) {
	needContainers(t)
	need(t, "git")
	flag := base(t, "busybox")
	s := newSite(t, reproducible+"-- .dockerignore --\n.git\n")
	git := func(args ...string) {
		t.Helper()
		cmd := command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_COMMITTER_DATE=2001-02-03T04:05:06Z")
		if o := wait(t, cmd); o.code != 0 {
			t.Fatal(o.stderr)
		}
	}
	git("-C", s.dir, "init", "-q")
	git("-C", s.dir, "add", ".")
	git("-C", s.dir, "commit", "-q", "-m", "first")
	git("clone", "-q", s.dir, s.path("clone"))
	first := s.build(flag, "-q").stdout
	other := s.in("other")
	other.dir = s.path("clone")
	if got := other.build(flag, "-q").stdout; got != first {
		t.Errorf("a clone gives %s, not %s", got, first)
	}
	image := imagesOf(t, s.root, strings.TrimSpace(first))[0]
	if got := image.config.Created.UTC().Format("2006-01-02 15:04:05"); got != "2001-02-03 04:05:06" {
		t.Errorf("created %s", got)
	}
	if got := s.in("third").build(flag, "-q", "--timestamp=5").stdout; got == first {
		t.Error("another time gives the same image")
	}
}
