//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Processes that share a store, and build the same and different things at the
// same time, all get what they asked for.
func TestProcessesShareStore(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS common
COPY shared /shared
RUN --mount=type=cache,target=/c,sharing=locked \
    n=$(cat /c/n 2>/dev/null || echo 0); usleep 50000; echo $((n+1)) > /c/n; echo common > /common
FROM common AS each
ARG N
RUN --mount=type=cache,target=/c,sharing=locked \
    n=$(cat /c/n); usleep 20000; echo $((n+1)) > /c/n; echo $N > /each; cp /common /copy
FROM common AS count
ARG ROUND
RUN --mount=type=cache,target=/c cp /c/n /n
-- shared --
shared
`)
	flag := base(t, "busybox")
	const builds = 6
	var wg sync.WaitGroup
	outs := make([]outcome, builds)
	for i := range builds {
		// Two of each build the same thing.
		wg.Go(func() {
			outs[i] = s.run("build", ".", flag, "--target=each", fmt.Sprintf("--build-arg=N=%d", i/2),
				"-t", fmt.Sprintf("app:%d", i), "-o", "type=image", "-o", fmt.Sprintf("../out%d", i))
		})
	}
	wg.Wait()
	ran := 0
	for i, o := range outs {
		if o.code != 0 {
			t.Fatalf("build %d: %s", i, o.stderr)
		}
		for name, want := range map[string]string{"each": strconv.Itoa(i / 2), "copy": "common", "shared": "shared"} {
			if got := strings.TrimSpace(s.read(fmt.Sprintf("out%d/%s", i, name))); got != want {
				t.Errorf("build %d: %s holds %q, want %q", i, name, got, want)
			}
		}
		for _, step := range o.executed() {
			if strings.Contains(step, "RUN") {
				ran++
			}
		}
		imagesOf(t, s.root, fmt.Sprintf("app:%d", i))
	}
	s.build(flag, "--target=count", "-o", "../count", "--build-arg=ROUND=1")
	if got := strings.TrimSpace(s.read("count/n")); got != strconv.Itoa(ran) {
		t.Errorf("%d steps counted %s in a locked cache mount", ran, got)
	}
	s.verify()
	again := s.build(flag, "--target=each", "--build-arg=N=1", "-t", "app:again")
	if steps := again.executed(); len(steps) > 0 {
		t.Errorf("ran again: %q", steps)
	}
}

// The collector waits for builds, and builds that begin meanwhile are not
// harmed.
func TestPruneBesideBuilds(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
ARG N
RUN sleep 0.2; echo $N > /n
COPY --from=busybox /bin/busybox /copy
RUN cat /n > /m
`)
	flag := base(t, "busybox")
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for j := range 3 {
				n := fmt.Sprint(i*10 + j)
				o := s.run("build", ".", flag, "--build-arg=N="+n, "-t", "app:"+n)
				if o.code != 0 {
					t.Errorf("build %s: %s", n, o.stderr)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for pruned := 0; ; pruned++ {
		select {
		case <-done:
			if pruned == 0 {
				t.Error("nothing was pruned beside the builds")
			}
			s.must("cache", "prune")
			s.verify()
			for _, n := range []string{"0", "11", "22"} {
				imagesOf(t, s.root, "app:"+n)
			}
			return
		case <-time.After(50 * time.Millisecond):
			s.must("cache", "prune")
		}
	}
}
