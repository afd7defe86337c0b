//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hostileSite is a site beside a directory that images and contexts have no
// business with. Its path stands for HOST in the archive.
func hostileSite(t *testing.T, archive string) (s *site, host string) {
	t.Helper()
	needContainers(t)
	host = t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "private"), []byte("private"), 0o644); err != nil {
		t.Fatal(err)
	}
	return newSite(t, strings.ReplaceAll(archive, "HOST", host)), host
}

// checkUntouched makes sure that nothing happened to the host's directory.
func checkUntouched(t *testing.T, host string, before map[string]fileState) {
	t.Helper()
	for _, c := range changes(before, snapshotOf(t, host)) {
		t.Errorf("on the host: %s", c)
	}
}

// Links in images lead nowhere but into the image, whatever instruction goes
// through them: nothing of the host is read, and nothing is written there.
func TestLinksStayInside(t *testing.T) {
	for _, tt := range []struct{ name, file, refused string }{
		{"bind source", `
FROM busybox AS evil
RUN mkdir -p /x && ln -s / /root-link && ln -s HOST /host-link && ln -s ../../../../../../../../..HOST /up-link && mkdir -p /HOST
FROM busybox
RUN --mount=type=bind,from=evil,source=/root-link,target=/m,rw test ! -e /mHOST/private && test -L /m/host-link && touch /m/made
RUN --mount=type=bind,from=evil,source=/host-link,target=/m,rw test ! -e /m/private && touch /m/made
RUN --mount=type=bind,from=evil,source=/up-link,target=/m,rw test ! -e /m/private && touch /m/made
`, ""}, {"cache source and id", `
FROM busybox AS evil
RUN mkdir -p /HOST && ln -s HOST /host-link
FROM busybox
RUN --mount=type=cache,from=evil,source=/host-link,target=/m test ! -e /m/private && touch /m/made
RUN --mount=type=cache,id=../../../../../../../../..HOST,target=/m test ! -e /m/private && touch /m/made
RUN --mount=type=cache,id=HOST,target=/m test ! -e /m/private && touch /m/made
`, ""}, {"mount target", `
FROM busybox
RUN ln -s HOST /a && ln -s ../../../../../..HOST /b && rm -rf /mnt && ln -s HOST /mnt
RUN --mount=type=tmpfs,target=/a/one --mount=type=cache,target=/b/two/three \
    --mount=type=secret,id=s,target=/a/secret,env=S touch /a/one/x /b/two/three/x
RUN --mount=type=bind,target=/mnt,rw touch /mnt/x
`, ""}, {"host files", `
FROM busybox AS links
RUN mkdir -p /e/etc && ln -s HOST/resolv /e/etc/resolv.conf && ln -s HOST/private /e/etc/hosts && mkdir /d && ln -s HOST /d/etc
FROM scratch AS one
COPY --from=busybox /bin /bin
COPY --from=links /e /
RUN cat /etc/resolv.conf > /dev/null; grep -q localhost /etc/hosts
FROM scratch
COPY --from=busybox /bin /bin
COPY --from=links /d /
RUN grep -q localhost /etc/hosts
COPY --from=one /bin/sh /x
`, ""}, {"dev and run", `
FROM busybox AS links
RUN mkdir /d && ln -s HOST /d/dev && ln -s HOST /d/run
FROM scratch
COPY --from=busybox /bin /bin
COPY --from=links /d /
RUN --mount=type=secret,id=s true
`, ""}, {"proc", `
FROM busybox AS links
RUN mkdir /d && ln -s HOST /d/proc
FROM scratch
COPY --from=busybox /bin /bin
COPY --from=links /d /
RUN --mount=type=secret,id=s true
`, "must not be a symbolic link"}, {"sys", `
FROM busybox AS links
RUN mkdir /d && ln -s HOST /d/sys
FROM scratch
COPY --from=busybox /bin /bin
COPY --from=links /d /
RUN --mount=type=secret,id=s true
`, "must not be a symbolic link"}, {"workdir", `
FROM busybox
RUN ln -s HOST /w
WORKDIR /w/sub/dir
RUN test "$(pwd -P)" = HOST/sub/dir && touch f
COPY f /w/copied/
COPY --link f /w/linked/
ADD f /w/sub/f2
`, ""}, {"user", `
FROM busybox
RUN rm /etc/passwd && ln -s HOST/private /etc/passwd
RUN id -u
`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, host := hostileSite(t, "-- Dockerfile --"+tt.file+"-- f --\nf\n")
			before := snapshotOf(t, host)
			s.env = []string{"S=s"}
			out := s.run("build", ".", base(t, "busybox"), "--secret=id=s,env=S")
			if refused := tt.refused != ""; refused != (out.code == 1) || !strings.Contains(out.stderr, tt.refused) {
				t.Errorf("exit code %d\n%s%s", out.code, out.logs, out.stderr)
			}
			checkUntouched(t, host, before)
			s.verify()
		})
	}
}

// What is not in an image or a context is not found through a link either.
func TestLinksReadNothing(t *testing.T) {
	for _, tt := range []struct{ name, file string }{
		{"copy through a link of a stage", "FROM busybox AS evil\nRUN ln -s HOST /l\nFROM busybox\nCOPY --from=evil /l/private /x\n"},
		{"copy of a link", "FROM busybox AS evil\nRUN ln -s HOST/private /l\nFROM busybox\nCOPY --from=evil /l /x\nRUN test -e /x\n"},
		{"copy through a link of the context", "FROM busybox\nCOPY link/private /x\n"},
		{"bind mount of the context", "FROM busybox\nRUN --mount=type=bind,target=/c,source=link test -e /c/private\n"},
		{"copy of a path with dots", "FROM busybox\nCOPY ../../../../../../../../..HOST/private /x\n"},
		{"a named context", "FROM busybox\nCOPY --from=other link/private /x\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, host := hostileSite(t, "-- Dockerfile --\n"+tt.file)
			if err := os.Symlink(host, filepath.Join(s.dir, "link")); err != nil {
				t.Fatal(err)
			}
			out := s.run("build", ".", base(t, "busybox"), "--build-context=other=.")
			if out.code != 1 || strings.Contains(out.logs+out.stderr, "goroutine") {
				t.Errorf("exit code %d: %s", out.code, out.stderr)
			}
		})
	}
}

// A Dockerfile behind a link is read, a context is not left by it.
func TestArchivesStayInside(t *testing.T) {
	s, host := hostileSite(t, "-- Dockerfile --\nFROM busybox\nADD evil.tar /d/\nADD --link evil.tar /e/\n")
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: host},
		{Name: "a/through", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "../../../../../../.." + host + "/dots", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: host + "/absolute", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "a/private"},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "evil.tar"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	before := snapshotOf(t, host)
	out := s.run("build", ".", base(t, "busybox"), "-o", "../out")
	if out.code > 1 { // refused or kept inside: both are right
		t.Error(out.stderr)
	}
	checkUntouched(t, host, before)
	if found := filesWith(t, s.root, "private"); len(found) > 0 {
		t.Errorf("a file of the host is in the store: %q", found)
	}
	s.verify()
}

// What a step tries with its own program, its descriptors and its user leads
// nowhere.
func TestStepIsConfined(t *testing.T) {
	s, host := hostileSite(t, `
-- fds.Dockerfile --
FROM busybox
RUN test "$(ls /proc/self/fd | tr '\n' ' ')" = "0 1 2 3 "
RUN for i in 3 4 5 6 7 8 9 10 11 12; do test ! -e /proc/self/fd/$i/private || exit 9; test ! -e /proc/1/fd/$i/. || exit 8; done
RUN env | grep -i -e MARK -e BK_ -e TOKEN && exit 7 || true
RUN test $(grep CapInh /proc/self/status | cut -f2) = 0000000000000000
RUN test "$(id -G)" = 0
RUN for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/1/oom_score_adj; do ! (echo x > $f) 2>/dev/null || exit 6; done
RUN ! unshare -U true 2>/dev/null
RUN ! ls HOST 2>/dev/null
-- cwd.Dockerfile --
FROM busybox
WORKDIR /proc/self/fd/8
RUN ls ../../../../..HOST/private
-- exe.Dockerfile --
FROM busybox
RUN cp /proc/self/exe /x; printf '#!/proc/self/exe\n' > /y; chmod +x /y
RUN ["/y"]
-- self.Dockerfile --
FROM busybox
RUN ["/proc/self/exe", "build"]
-- insecure.Dockerfile --
FROM busybox
RUN --security=insecure echo insecure
-- huge-user.Dockerfile --
FROM busybox
USER 4294967296:0
RUN echo uid $(id -u)
-- negative-user.Dockerfile --
FROM busybox
USER -1
RUN echo uid $(id -u)
-- fifo.Dockerfile --
FROM busybox
RUN rm /etc/passwd; mkfifo /etc/passwd
USER app
RUN true
-- giant.Dockerfile --
FROM busybox
RUN truncate -s 3G /etc/passwd
USER app
RUN true
`)
	before := snapshotOf(t, host)
	bk, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	s.env = []string{"TOKEN=1"}
	s.build(base(t, "busybox"), "-f", "fds.Dockerfile")
	for name, want := range map[string]string{
		"cwd":           "",
		"exe":           "",
		"self":          "",
		"insecure":      "insecure",
		"huge-user":     "4294967296",
		"negative-user": "-1",
		"fifo":          "passwd",
		"giant":         "passwd",
	} {
		out := s.run("build", ".", base(t, "busybox"), "-f", name+".Dockerfile")
		if out.code != 1 || !strings.Contains(out.stderr, want) || strings.Contains(out.logs, "uid") {
			t.Errorf("%s: exit code %d, printed %s\n%s", name, out.code, out.logs, out.stderr)
		}
		if out.usage.Maxrss > 300<<10 {
			t.Errorf("%s took %d KB", name, out.usage.Maxrss)
		}
	}
	if now, err := os.ReadFile("/proc/self/exe"); err != nil || !bytes.Equal(now, bk) {
		t.Error("the program was changed")
	}
	checkUntouched(t, host, before)
}

// Names that mean something in a layer are not written as names.
func TestWhiteoutNames(t *testing.T) {
	s, _ := hostileSite(t, "-- Dockerfile --\nFROM busybox\nRUN touch /bin/.wh.busybox /etc/.wh..wh..opq && ls -a /etc\n")
	out := s.run("build", ".", base(t, "busybox"), "-o", "type=oci,dest=../out,tar=false")
	if out.code == 1 {
		if !strings.Contains(out.stderr, ".wh.") {
			t.Errorf("the error doesn't name the file: %s", out.stderr)
		}
		return
	}
	for _, name := range theImage(t, s.path("out")).files(t, 0) {
		if strings.Contains(name, ".wh.") {
			t.Errorf("a step's file became a whiteout: %s", name)
		}
	}
}

// Hostile text in an image does not reach the terminal as control characters.
func TestHostileLabels(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nLABEL a=\"\x1b]0;title\a\x1b[2J\"\nCOPY Dockerfile /\n")
	s.build("-t", "app")
	for _, args := range [][]string{{"image", "inspect", "app"}, {"image", "ls"}} {
		if out := s.must(args...); strings.ContainsAny(out.stdout, "\x1b\a") {
			t.Errorf("bk %s printed %q", strings.Join(args, " "), out.stdout)
		}
	}
}

// A mount point that another step swaps for a link while it is mounted leads
// nowhere.
func TestMountPointRace(t *testing.T) {
	s, host := hostileSite(t, `
-- Dockerfile --
FROM busybox AS swap
RUN --mount=type=cache,id=c,target=/c for i in $(seq 300); do rm -rf /c/x; ln -s HOST /c/x; rm -f /c/x; mkdir -p /c/x; done
FROM busybox AS m0
RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/x/y touch /c/x/y/made || true
FROM busybox AS m1
RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/x/z touch /c/x/z/made || true
FROM busybox
COPY --from=swap /etc/group /0
COPY --from=m0 /etc/group /1
COPY --from=m1 /etc/group /2
`)
	before := snapshotOf(t, host)
	for range 2 {
		s.run("build", ".", base(t, "busybox"), "--no-cache") // a step may fail: its mount point went away
		checkUntouched(t, host, before)
	}
}
