//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// A build may have more layers than the kernel takes in one mount option, and
// goes on from such a base.
func TestManyLayers(t *testing.T) {
	needContainers(t)
	const layers = 130
	var steps strings.Builder
	fmt.Fprintf(&steps, "-- Dockerfile --\nFROM busybox\n")
	for i := range layers {
		fmt.Fprintf(&steps, "RUN echo %d > /n%d && test ! -e /n%d\n", i, i, i+1)
	}
	s := newSite(t, steps.String())
	s.build(base(t, "busybox"), "-o", "type=oci,dest=../many,tar=false")
	if image := theImage(t, s.path("many")); len(image.manifest.Layers) != layers+2 {
		t.Errorf("%d layers, want %d on top of 2", len(image.manifest.Layers), layers)
	}
	s.write(`
-- Dockerfile --
FROM many
RUN ls / | grep -c '^n' > /count; cat /n0 /n129 >> /count; rm /n5; mv /n6 /moved
FROM scratch
COPY --from=0 /count /moved /
`)
	s = s.in("second")
	s.build("--build-context=many=oci-layout://"+s.path("many"), "-o", "../out")
	if got, want := s.read("out/count")+s.read("out/moved"), "130\n0\n129\n6\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Stages run side by side; what they share runs once, and cache mounts are
// shared or locked as they say.
func TestManyStages(t *testing.T) {
	needContainers(t)
	const stages = 40
	var file, last strings.Builder
	fmt.Fprintf(&file, "-- Dockerfile --\nFROM busybox AS common\nRUN --mount=type=cache,target=/c echo once >> /c/common\n")
	fmt.Fprintf(&last, "FROM busybox\nARG N\n")
	for i := range stages {
		// A locked mount is a read-modify-write that must not be interleaved.
		fmt.Fprintf(&file, `FROM common AS s%[1]d
RUN --mount=type=cache,target=/l,sharing=locked --mount=type=cache,target=/c,id=shared \
    touch /c/%[1]d; n=$(cat /l/n 2>/dev/null || echo 0); usleep 2000; echo $((n+1)) > /l/n; echo %[1]d > /out
`, i)
		fmt.Fprintf(&last, "COPY --from=s%[1]d /out /out%[1]d\n", i)
	}
	last.WriteString("RUN --mount=type=cache,target=/l --mount=type=cache,target=/s,id=shared --mount=type=cache,target=/c cat /l/n > /locked; ls /s | wc -l > /shared; cat /c/common > /common\n")
	s := newSite(t, file.String()+last.String())
	s.build(base(t, "busybox"), "-o", "../out")
	want := map[string]string{"locked": "40\n", "shared": "40\n", "common": "once\n"}
	for i := range stages {
		want[fmt.Sprintf("out%d", i)] = fmt.Sprintf("%d\n", i)
	}
	for name, text := range want {
		if got := s.read("out/" + name); got != text {
			t.Errorf("%s holds %q, want %q", name, got, text)
		}
	}
}

// Stages without a bound run at the same time: as long as one of them, not as
// long as all. With --jobs 1 they run one by one.
func TestStagesRunSideBySide(t *testing.T) {
	needContainers(t)
	var file, last strings.Builder
	file.WriteString("-- Dockerfile --\n")
	last.WriteString("FROM scratch\n")
	for i := range 8 {
		// Each notes how many run beside it.
		fmt.Fprintf(&file, "FROM busybox AS s%[1]d\nARG ROUND\nRUN --mount=type=cache,target=/c,id=$ROUND touch /c/%[1]d; sleep 0.4; ls /c | wc -l > /out; rm /c/%[1]d\n", i)
		fmt.Fprintf(&last, "COPY --from=s%[1]d /out /%[1]d\n", i)
	}
	s := newSite(t, file.String()+last.String())
	most := func(dir string) string {
		top := ""
		for i := range 8 {
			top = max(top, s.read(fmt.Sprintf("%s/%d", dir, i)))
		}
		return strings.TrimSpace(top)
	}
	s.build(base(t, "busybox"), "--build-arg=ROUND=a", "-o", "../all")
	if n := most("all"); n < "6" {
		t.Errorf("at most %s of 8 stages ran at a time", n)
	}
	s.build(base(t, "busybox"), "--build-arg=ROUND=b", "--jobs=1", "-o", "../one")
	if n := most("one"); n != "1" {
		t.Errorf("with --jobs=1 %s stages ran at a time", n)
	}
}

// A large context is built, is not built again when it did not change, and
// gives one new layer when one file changed.
func TestManyFiles(t *testing.T) {
	files := 50_000
	if testing.Short() {
		files = 2_000
	}
	s := newSite(t, "")
	s.dir = inMemory(t)
	s.write("-- Dockerfile --\nFROM scratch\nCOPY . /src/\n")
	for i := range files {
		dir := filepath.Join(s.dir, fmt.Sprintf("d%d/e%d", i%50, i%7))
		if i < 350 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendln(nil, "file", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cold := s.build("-q", "-t", "app")
	before := snapshotOf(t, s.root)
	again := s.build("-q", "-t", "app")
	if again.stdout != cold.stdout || len(changes(before, snapshotOf(t, s.root))) > 0 {
		t.Errorf("the unchanged context gave %s after %s, and changed the store: %q", again.stdout, cold.stdout, changes(before, snapshotOf(t, s.root)))
	}
	s.write("-- d1/e1/1 --\nchanged\n")
	if changed := s.build("-q", "-t", "app"); changed.stdout == cold.stdout {
		t.Error("a changed file gave the same image")
	}
	tree := filepath.Join(filepath.Dir(s.root), "tree.tar")
	s.build("-o", "type=tar,dest="+tree)
	list := program(t, "tar", "-tf", tree)
	if n := strings.Count(list, "\n") - strings.Count(list, "/\n"); n != files+1 {
		t.Errorf("%d files came out, want %d", n, files+1)
	}
	t.Logf("%d files: cold %v, unchanged %v; %d and %d KB", files, cold.took, again.took, cold.usage.Maxrss, again.usage.Maxrss)
}

// inMemory returns a directory where many files are made and removed fast, if
// the system has one.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "bk-test-")
	if err != nil {
		return filepath.Join(t.TempDir(), "ctx")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Memory does not grow with the size of a file.
func TestLargeFileTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("packs a gigabyte")
	}
	if raceEnabled() {
		t.Skip("the race detector takes memory of its own")
	}
	needContainers(t)
	const size, limit = 1 << 30, 300 << 10 // bytes, KB
	s := newSite(t, `
-- Dockerfile --
FROM busybox
COPY big /big
RUN dd if=/dev/zero of=/made bs=1M count=64
`)
	f, err := os.Create(filepath.Join(s.dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	out := s.build(base(t, "busybox"), "-o", "type=oci,dest=../out,tar=false")
	image := theImage(t, s.path("out"))
	if n := len(image.manifest.Layers); n != 4 {
		t.Errorf("%d layers", n)
	}
	if out.usage.Maxrss > limit {
		t.Errorf("bk took %d KB at its peak, more than %d", out.usage.Maxrss, limit)
	}
	t.Logf("a gigabyte: %v, peak %d KB", out.took, out.usage.Maxrss)
	// And back: as a base that is unpacked.
	s = s.in("second")
	s.write("-- Dockerfile --\nFROM big\nRUN test $(stat -c %s /big) = 1073741824\n")
	out = s.build("--build-context=big=oci-layout://"+s.path("out"), "-o", "type=cacheonly")
	if out.usage.Maxrss > limit {
		t.Errorf("bk took %d KB at its peak to unpack, more than %d", out.usage.Maxrss, limit)
	}
	t.Logf("unpacked: %v, peak %d KB", out.took, out.usage.Maxrss)
}

// raceEnabled reports whether this binary was built with the race detector.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}
