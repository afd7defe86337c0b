//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// everything is a Dockerfile with every kind of step whose result is kept.
const everything = `
-- Dockerfile --
FROM busybox AS tools
RUN echo 'echo tool' > /tool && chmod +x /tool

FROM busybox AS build
WORKDIR /src
COPY go.mod .
RUN --mount=type=cache,target=/cache date +%N > /cache/stamp && cat go.mod > /mod
COPY . .
ARG VERSION=1
RUN --mount=type=secret,id=token --mount=type=bind,from=tools,target=/tools \
    --mount=type=bind,target=/ctx --mount=type=tmpfs,target=/scratch \
    test -s /run/secrets/token && sh /tools/tool > /out && cat /ctx/main.go >> /out && echo $VERSION >> /out

FROM busybox
COPY --from=build /out /mod /app/
COPY --link extra/ /extra/
ADD archive.tar /unpacked/
RUN <<EOF
cat /app/out > /final
EOF
CMD ["cat", "/final"]
-- go.mod --
module a
-- main.go --
package main
-- extra/a --
a
-- extra/b --
b
`

func everythingSite(t *testing.T) *site {
	t.Helper()
	needContainers(t)
	s := newSite(t, everything)
	out := wait(t, command("tar", "-C", s.dir, "-cf", filepath.Join(s.dir, "archive.tar"), "extra"))
	if out.code != 0 {
		t.Fatal(out.stderr)
	}
	s.env = []string{"TOKEN=first"}
	return s
}

// An unchanged build runs no step and writes nothing into its store: no file is
// new, replaced, touched or gone, whatever the output.
func TestUnchangedBuildWritesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"store", []string{"-t", "app"}},
		{"untagged", nil},
		{"oci", []string{"-o", "type=oci,dest=../out,tar=false"}},
		{"oci tar", []string{"-o", "type=oci,dest=../out.tar"}},
		{"docker", []string{"-t", "app", "-o", "type=docker,dest=../out.tar"}},
		{"zstd", []string{"-o", "type=oci,dest=../out.tar,compression=zstd,force-compression=true"}},
		{"local", []string{"-o", "../out"}},
		{"tar", []string{"-o", "type=tar,dest=../out.tar"}},
		{"nothing", []string{"-o", "type=cacheonly"}},
		{"epoch", []string{"-t", "app", "--timestamp", "1000"}},
		{"target", []string{"-t", "app", "--target", "build"}},
		{"build arg", []string{"-t", "app", "--build-arg", "VERSION=2"}},
		{"two platforms", []string{"-t", "app", "--platform", "linux/amd64,linux/arm64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.name, "platforms") {
				need(t, "qemu-aarch64-static")
			}
			s := everythingSite(t)
			args := append([]string{base(t, "busybox"), "--secret", "id=token,env=TOKEN"}, tt.args...)
			first := s.build(args...)
			if len(first.executed()) == 0 {
				t.Fatal("the first build ran no step")
			}
			before := snapshotOf(t, s.root)
			time.Sleep(20 * time.Millisecond) // so that a touch shows
			second := s.build(args...)
			if ran := second.executed(); len(ran) > 0 {
				t.Errorf("ran again: %q", ran)
			}
			// A step that platforms share has the name of one of them.
			if diff := cmp.Diff(withoutPlatforms(first.executed()), withoutPlatforms(second.cached())); diff != "" {
				t.Errorf("steps that ran, and that were cached (-want +got):\n%s", diff)
			}
			for _, c := range changes(before, snapshotOf(t, s.root)) {
				t.Error(c)
			}
			s.verify()
		})
	}
}

// withoutPlatforms drops the platforms from names of steps.
func withoutPlatforms(names []string) []string {
	for i, name := range names {
		names[i] = strings.NewReplacer("linux/amd64 ", "", "linux/arm64 ", "").Replace(name)
	}
	slices.Sort(names)
	return names
}

// What is run after a change is what depends on the change, and nothing else.
func TestWhatRunsAgain(t *testing.T) {
	s := everythingSite(t)
	args := []string{base(t, "busybox"), "--secret", "id=token,env=TOKEN", "-t", "app"}
	s.build(args...)
	edit := func(name, text string) func() {
		return func() { s.write("-- " + name + " --\n" + text + "\n") }
	}
	for _, tt := range []struct {
		name   string
		change func()
		args   []string
		ran    []string // the ends of the names of the steps
	}{
		{name: "nothing"},
		{name: "mtimes", change: func() { touchAll(t, s.dir) }},
		{name: "a file that two steps read", change: edit("main.go", "package other"), ran: []string{
			"COPY . .", "RUN --mount=type=secret", "COPY --from=build", "ADD archive.tar", "RUN <<EOF",
		}},
		{name: "and back", change: edit("main.go", "package main")},
		{name: "a file with a link layer", change: edit("extra/a", "aa"), ran: []string{
			"COPY . .", "RUN --mount=type=secret", "COPY --link extra", "ADD archive.tar", "RUN <<EOF",
		}},
		{name: "a secret", change: func() { s.env = []string{"TOKEN=second"} }},
		{name: "an argument", args: []string{"--build-arg", "VERSION=3"}, ran: []string{
			"RUN --mount=type=secret", "COPY --from=build", "ADD archive.tar", "RUN <<EOF",
		}},
		{name: "an argument that is not used", args: []string{"--build-arg", "OTHER=3"}},
		{name: "a label", args: []string{"--label", "a=b"}},
		{name: "no cache for a stage", args: []string{"--no-cache-filter", "tools"}, ran: []string{"RUN echo 'echo tool'"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := *s
			s.t = t
			if tt.change != nil {
				tt.change()
			}
			s.env = append(s.env[:0:0], s.env...)
			out := s.build(append(args, tt.args...)...)
			checkExecuted(t, out, tt.ran)
		})
	}
	t.Run("no cache", func(t *testing.T) {
		out := s.build(append(args, "--no-cache")...)
		for _, name := range out.cached() {
			if !strings.Contains(name, "] WORKDIR") { // the frontend doesn't ask for it
				t.Errorf("cached: %s", name)
			}
		}
	})
	s.verify()
}

// checkExecuted compares the steps that ran with prefixes of instructions.
func checkExecuted(t *testing.T, out outcome, want []string) {
	t.Helper()
	var got []string
	for _, name := range out.executed() {
		_, instruction, _ := strings.Cut(name, "] ")
		i := slices.IndexFunc(want, func(w string) bool { return strings.HasPrefix(instruction, w) })
		if i < 0 {
			t.Errorf("ran, and need not have: %s", name)
			continue
		}
		got = append(got, want[i])
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("did not run: %s", w)
		}
	}
}

// touchAll sets the times of all files to now.
func touchAll(t *testing.T, dir string) {
	t.Helper()
	now := time.Now()
	err := filepath.Walk(dir, func(name string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, now, now)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A stage that runs again but yields the same bytes leaves what copies from it
// cached, and what only mounts what it reads.
func TestSameBytesStayCached(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS gen
ARG STAMP
RUN mkdir /made && echo constant > /made/file && echo $STAMP > /stamp
FROM busybox
COPY --from=gen /made/file /a
RUN --mount=type=bind,from=gen,source=/made,target=/m cat /m/file > /b
`)
	s.build(base(t, "busybox"), "--build-arg", "STAMP=1")
	out := s.build(base(t, "busybox"), "--build-arg", "STAMP=2")
	checkExecuted(t, out, []string{"RUN mkdir /made"})
}

// A target builds what it needs and no more.
func TestTargetSkipsOthers(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox AS one
RUN echo one > /one
FROM busybox AS two
RUN echo two > /two
FROM one
COPY --from=two /two /
`)
	checkExecuted(t, s.build(base(t, "busybox"), "--target", "one"), []string{"RUN echo one"})
	checkExecuted(t, s.build(base(t, "busybox"), "--target", "two"), []string{"RUN echo two"})
	checkExecuted(t, s.build(base(t, "busybox")), []string{"COPY --from=two"})
}

// The contents of cache mounts persist between builds and stay out of the
// image.
func TestCacheMountPersists(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- Dockerfile --
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /seen
`)
	for _, n := range []string{"1", "2", "3"} {
		s.build(base(t, "busybox"), "--build-arg", "N="+n, "-o", "../out")
	}
	if got, want := s.read("out/seen"), "1\n2\n3\n"; got != want {
		t.Errorf("cache mount held %q, want %q", got, want)
	}
	if list, _ := filepath.Glob(s.path("out/c/*")); len(list) > 0 {
		t.Errorf("in the image: %q", list)
	}
}
