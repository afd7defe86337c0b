//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout"
)

// marker returns a string that is nowhere else on the machine.
func marker() string {
	var b [8]byte
	rand.Read(b[:])
	return "bk-test-" + hex.EncodeToString(b[:])
}

// processesWith lists the processes whose arguments or environment hold text.
func processesWith(text string) []string {
	var list []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil && bytes.Contains(b, []byte(text)) {
				args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
				list = append(list, filepath.Base(dir)+" "+strings.ReplaceAll(string(args), "\x00", " "))
				break
			}
		}
	}
	return list
}

// mountsBelow lists the mounts, in any process's namespace, that have to do
// with a directory.
func mountsBelow(dir string) []string {
	var list []string
	files, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, dir) {
				list = append(list, name+" "+line)
			}
		}
	}
	return list
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited too long for: %s", what)
		}
	}
}

// started is a bk that runs beside the test.
type started struct {
	*exec.Cmd
	log  string // what it prints, in a file
	mark string // in its environment
}

func (s *site) start(args ...string) *started {
	s.t.Helper()
	b := &started{Cmd: s.command(args...), mark: marker()}
	b.log = s.path(b.mark + ".log")
	b.Env = append(b.Env, "MARK="+b.mark)
	log, err := os.Create(b.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	b.Stderr = log
	if err := b.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = b.Process.Kill() })
	return b
}

// output is what it has printed so far.
func (b *started) output() string {
	text, _ := os.ReadFile(b.log)
	return string(text)
}

// stop sends a signal and waits for the end.
func (b *started) stop(sig syscall.Signal) int {
	_ = b.Process.Signal(sig)
	_ = b.Wait()
	return b.ProcessState.ExitCode()
}

// checkGone makes sure that a build left nothing but its store.
func (s *site) checkGone(b *started, more ...string) {
	s.t.Helper()
	for _, text := range append(more, b.mark) {
		eventually(s.t, "the end of processes", func() bool { return len(processesWith(text)) == 0 })
	}
	eventually(s.t, "the end of mounts", func() bool { return len(mountsBelow(s.root)) == 0 })
}

// registryOf serves a layout as repository "base", pausing between pieces of
// blobs. It counts the bytes of blobs that it sent.
func registryOf(t *testing.T, path string, pause time.Duration) (host string, sent *atomic.Int64) {
	t.Helper()
	dir, err := layout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	sent = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ref := filepath.Split(strings.TrimPrefix(r.URL.Path, "/v2/base/"))
		if ref == "" || name != "manifests/" && name != "blobs/" {
			w.WriteHeader(http.StatusOK) // /v2/
			return
		}
		serveRegistry(w, r, dir, name == "blobs/", ref, pause, sent)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return strings.TrimPrefix(server.URL, "http://"), sent
}

func serveRegistry(w http.ResponseWriter, r *http.Request, dir *layout.Dir, blob bool, ref string, pause time.Duration, sent *atomic.Int64) {
	dg := digest.Digest(ref)
	if !strings.Contains(ref, ":") {
		desc, err := dir.Resolve(ref)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		dg = desc.Digest
	}
	path, err := dir.BlobPath(dg)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Docker-Content-Digest", dg.String())
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if mediaType, err := layout.DetectMediaType(b); err == nil && !blob {
		w.Header().Set("Content-Type", mediaType)
	}
	if r.Method == http.MethodHead {
		return
	}
	for piece := range slices.Chunk(b, 32<<10) {
		if _, err := w.Write(piece); err != nil {
			return
		}
		if !blob || pause == 0 {
			continue
		}
		sent.Add(int64(len(piece)))
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		time.Sleep(pause)
	}
}

// basePath is where a base image is.
func basePath(t *testing.T, name string) string {
	return strings.SplitN(base(t, name), "oci-layout://", 2)[1]
}

const interrupted = `
-- Dockerfile --
FROM busybox AS sleeper
ARG MARK
RUN if [ -e /dev/null ]; then (sleep 1000 &) ; setsid sleep 1000 & sleep 1000; fi

FROM busybox AS writer
RUN dd if=/dev/zero bs=1M count=200 of=/big 2>/dev/null

FROM busybox AS good
RUN echo good > /good
`

// Killing bk at any moment ends every process of the build and undoes every
// mount; the next build goes on with the store as it is.
func TestKillDuringRun(t *testing.T) {
	needContainers(t)
	s := newSite(t, interrupted)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := *s
			s.t = t
			mark := marker()
			b := s.start("build", ".", base(t, "busybox"), "--target=sleeper", "--build-arg=MARK="+mark, "-o", "type=oci,dest=../out.tar")
			// The step, the two that it put into the background, and bk itself.
			eventually(t, "the step", func() bool { return sleepers(mark) >= 3 })
			code := b.stop(sig)
			if want := map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGINT: 130, syscall.SIGTERM: 143}[sig]; code != want {
				t.Errorf("exit code %d, want %d", code, want)
			}
			s.checkGone(b, mark)
			if _, err := os.Lstat(s.path("out.tar")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an output is there: %v", err)
			}
			s.checkUsable()
		})
	}
}

// sleepers counts the processes of a step.
func sleepers(mark string) int {
	n := 0
	for _, p := range processesWith(mark) {
		if strings.Contains(p, " sleep 1000") {
			n++
		}
	}
	return n
}

// checkUsable builds something else with the store, which then is in order and
// has no temporary files.
func (s *site) checkUsable() {
	s.t.Helper()
	s.build(base(s.t, "busybox"), "--target=good", "-o", "../good")
	if got := s.read("good/good"); got != "good\n" {
		s.t.Errorf("built %q", got)
	}
	s.verify()
	if left, _ := filepath.Glob(filepath.Join(s.root, "tmp", "run-*")); len(left) > 0 {
		s.t.Errorf("left in the store: %q", left)
	}
}

// A second signal does not wait for anything.
func TestSignalTwice(t *testing.T) {
	needContainers(t)
	s := newSite(t, interrupted)
	mark := marker()
	b := s.start("build", ".", base(t, "busybox"), "--target=sleeper", "--build-arg=MARK="+mark)
	eventually(t, "the step", func() bool { return sleepers(mark) >= 3 })
	_ = b.Process.Signal(syscall.SIGINT)
	if code := b.stop(syscall.SIGINT); code != 130 {
		t.Errorf("exit code %d", code)
	}
	s.checkGone(b, mark)
	s.checkUsable()
}

// Killing bk while it pulls leaves nothing that a later build trips over.
func TestKillDuringPull(t *testing.T) {
	needContainers(t)
	host, sent := registryOf(t, basePath(t, "busybox"), 20*time.Millisecond)
	s := newSite(t, "-- Dockerfile --\nFROM "+host+"/base:latest AS good\nRUN echo good > /good\n")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		sent.Store(0)
		b := s.start("build", ".", "-t", "app")
		eventually(t, "the pull", func() bool { return sent.Load() > 300<<10 })
		if code := b.stop(sig); code == 0 {
			t.Fatal("the pull was over too soon")
		}
		s.checkGone(b)
	}
	s.build("-t", "app")
	s.checkUsable()
	if images := imagesOf(t, s.root, "app"); len(images) != 1 {
		t.Errorf("%d images", len(images))
	}
}

// Killing bk while it unpacks a base leaves no half of a layer that a later
// build takes for a whole one.
func TestKillDuringUnpack(t *testing.T) {
	needContainers(t)
	s := newSite(t, "-- Dockerfile --\nFROM busybox\nCOPY . /usr/\n")
	const files = 300
	content := randomBytes(128 << 10)
	for i := range files {
		if err := os.WriteFile(filepath.Join(s.dir, fmt.Sprintf("file%d", i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.build(base(t, "busybox"), "-o", "type=oci,dest=../base,tar=false")
	s = s.in("second")
	s.write("-- Dockerfile --\nFROM base AS all\nRUN ls /usr | grep -c ^file > /good\nFROM scratch\nCOPY --from=all /good /\n")
	flag := "--build-context=base=oci-layout://" + s.path("base")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		b := s.start("build", ".", flag)
		eventually(t, "files of the base", func() bool {
			list, _ := filepath.Glob(filepath.Join(s.root, "tmp", "run-*", "layer-*", "fs", "usr", "file*"))
			return len(list) > 1
		})
		if code := b.stop(sig); code == 0 {
			t.Fatal("unpacking was over too soon")
		}
		s.checkGone(b)
		if list, _ := filepath.Glob(filepath.Join(s.root, "snapshots", "*", "fs", "usr", "file*")); len(list) > 0 {
			t.Errorf("%v left a part of a layer: %q", sig, list)
		}
	}
	s.build(flag, "-o", "../out")
	if got, want := s.read("out/good"), fmt.Sprintln(files); got != want {
		t.Errorf("the base has %s files, want %s", got, want)
	}
	s.verify()
	if left, _ := filepath.Glob(filepath.Join(s.root, "tmp", "run-*")); len(left) > 0 {
		t.Errorf("left in the store: %q", left)
	}
}

// Killing bk at many moments of a build with pulls, unpacking, steps, packing
// and outputs never leaves a store that is not in order, or a part of an
// output.
func TestKillAnytime(t *testing.T) {
	needContainers(t)
	host, _ := registryOf(t, basePath(t, "busybox"), 0)
	s := newSite(t, `
-- Dockerfile --
FROM `+host+`/base:latest AS good
RUN echo good > /good
FROM good
COPY . /src
RUN dd if=/dev/urandom bs=1M count=30 of=/big 2>/dev/null; ln /big /link; rm -r /home
RUN --mount=type=cache,target=/c date > /c/date; cat /src/a > /b
-- a --
a
`)
	args := []string{"build", ".", "-t", "app", "-o", "type=image", "-o", "type=oci,dest=../out.tar", "-o", "type=local,dest=../out"}
	reference := s.in("reference")
	whole := reference.must(args...).took
	moments := 12
	if testing.Short() {
		moments = 4
	}
	killed := 0
	for i := range moments {
		_ = os.Remove(s.path("out.tar"))
		b := s.start(args...)
		time.Sleep(whole * time.Duration(i+1) / time.Duration(moments+1))
		if b.stop(syscall.SIGKILL) == -1 {
			killed++
		}
		s.checkGone(b)
		if f, err := os.Open(s.path("out.tar")); err == nil {
			f.Close()
			if out := wait(t, command("tar", "-tf", s.path("out.tar"))); out.code != 0 {
				t.Errorf("killed after %d/%d: a part of an output is in place: %s", i+1, moments+1, out.stderr)
			}
		}
		if i%3 == 2 {
			s.verify()
			s = s.in(fmt.Sprint("store", i)) // begin again
		}
	}
	if killed < moments/2 {
		t.Errorf("only %d of %d builds were killed in time", killed, moments)
	}
	s.must(args...)
	s.checkUsable()
	imagesOf(t, s.root, "app")
}

// Killing bk while it writes an output leaves the file that was there.
func TestKillDuringExport(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY big /\n")
	f, err := os.Create(filepath.Join(s.dir, "big"))
	if err == nil {
		_, err = io.CopyN(f, rand.Reader, 100<<20)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.build("-o", "type=cacheonly", "-o", "type=oci,dest=../warm.tar")
	if err := os.WriteFile(s.path("out.tar"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	others := func() []string {
		list, _ := filepath.Glob(s.path("*out.tar*"))
		return slices.DeleteFunc(list, func(n string) bool { return n == s.path("out.tar") })
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		b := s.start("build", ".", "-o", "type=oci,dest=../out.tar")
		eventually(t, "the output", func() bool { return len(others()) > 0 || b.Process.Signal(syscall.Signal(0)) != nil })
		b.stop(sig)
		if got := s.read("out.tar"); got != "old" && len(got) < 100<<20 {
			t.Errorf("%v: a part of an output is in place: %d bytes", sig, len(got))
		}
		if sig == syscall.SIGINT && len(others()) > 0 {
			t.Errorf("%v left %q", sig, others())
		}
		for _, name := range others() {
			_ = os.Remove(name)
		}
	}
	s.build("-o", "type=oci,dest=../out.tar")
	if out := wait(t, command("tar", "-tf", s.path("out.tar"))); out.code != 0 {
		t.Error(out.stderr)
	}
	s.verify()
}
