//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"bk.build/bk/hack/pods"
)

// podSite is a pod with bk in its image, a context, a store, and the base images
// at /bases.
type podSite struct {
	pods.Pod
	t   *testing.T
	dir string // what the pod sees at /data: ctx, out, and the store unless it's in the image
}

// newPod makes a pod. With a volume its store is on an emptyDir, else on the
// pod's own root, an overlay.
func newPod(t *testing.T, kind pods.Kind, volume bool, archive string) *podSite {
	t.Helper()
	if err := pods.Needs(kind); err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("busybox-static is not installed")
	}
	base(t, "busybox")
	exe, err := exec.LookPath("bk")
	if err != nil {
		t.Fatal(err)
	}
	static(t, exe)
	top := t.TempDir()
	p := &podSite{t: t, dir: filepath.Join(top, "data"), Pod: pods.Pod{Kind: kind, Root: filepath.Join(top, "image"), Cwd: "/data"}}
	if err := pods.Image(p.Root, exe); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(p.dir, "ctx", f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.Volumes = map[string]string{"/data": p.dir}
	p.ReadOnly = map[string]string{"/bases": filepath.Join(repository(t), ".cache", "bases")}
	store := "/data/store"
	if !volume {
		store = "/store"
	}
	p.Env = []string{"BK_ROOT=" + store, "NO_COLOR=1", "BUILDKIT_PROGRESS=plain", "SOURCE_DATE_EPOCH=1700000000"}
	return p
}

// static skips a test whose binary needs the libraries of this machine.
func static(t *testing.T, exe string) {
	t.Helper()
	if out, err := command("go", "version", "-m", exe).CombinedOutput(); err != nil || !strings.Contains(string(out), "CGO_ENABLED=0") {
		t.Skip("the binary needs this machine's libraries: run with CGO_ENABLED=0")
	}
}

// run runs bk in the pod to its end.
func (p *podSite) run(args ...string) outcome {
	p.t.Helper()
	pod := p.Pod
	pod.Args = append([]string{"/usr/local/bin/bk"}, args...)
	cmd, err := pod.Command(context.Background(), p.t.TempDir())
	if err != nil {
		p.t.Fatal(err)
	}
	return wait(p.t, cmd)
}

// build builds the context in the pod, which must succeed, and returns what it
// printed and the digest of the image.
func (p *podSite) build(args ...string) (out, digest string) {
	p.t.Helper()
	o := p.run(append([]string{"build", "ctx", "--metadata-file", "/data/meta", "-o", "type=oci,dest=/data/out.tar"}, args...)...)
	if o.code != 0 {
		p.t.Fatalf("bk build in a pod: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	meta, err := os.ReadFile(filepath.Join(p.dir, "meta"))
	if err != nil {
		p.t.Fatal(err)
	}
	return o.stderr, imageDigest(p.t, meta)
}

func imageDigest(t *testing.T, meta []byte) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(meta), `"containerimage.digest"`)
	if !ok {
		t.Fatalf("no digest in the metadata: %s", meta)
	}
	return strings.Trim(strings.SplitN(rest, ",", 2)[0], " :\"\n}")
}

// outside builds the same context as root, by namespaces, and returns the digest.
func (p *podSite) outside(args ...string) string {
	p.t.Helper()
	s := &site{t: p.t, dir: filepath.Join(p.dir, "ctx"), root: filepath.Join(p.dir, "outside"), env: []string{"SOURCE_DATE_EPOCH=1700000000"}}
	s.must(append([]string{"build", ".", "--metadata-file", s.path("outside-meta"), "-o", "type=oci,dest=" + s.path("outside.tar")}, args...)...)
	return imageDigest(p.t, []byte(s.read("outside-meta")))
}

const busyboxPod = `
-- Dockerfile --
FROM busybox AS build
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/src --mount=type=tmpfs,target=/t \
	cp /src/app /app; chmod 751 /app; chown 1:2 /app; echo $(cat /cache/n 2>/dev/null)x > /cache/n; touch /t/x
RUN rm -r /opt && mkdir /opt && echo user:x:1000:1000::/home/user:/bin/sh >> /etc/passwd; rm -r /home; ln /app /hard; ln -s app /soft; mv /srv /moved; echo x > /dev/null
RUN mkdir -p -m 1777 /shared /home/user && chown 1000:1000 /home/user
USER user
RUN id -un > /shared/me; touch ~/mine; test ! -w /etc
FROM busybox
COPY --from=build --chown=3:4 /app /hard /usr/local/bin/
RUN --mount=from=build,target=/b cmp /app /b/app 2>/dev/null || cp -a /b/shared /shared
-- app --
#!/bin/sh
echo app
`

// A pod that Kubernetes makes by default builds what root builds on a machine of
// its own, bit for bit: with a volume and without.
func TestPodDefault(t *testing.T) {
	needContainers(t)
	for _, volume := range []bool{true, false} {
		t.Run(fmt.Sprintf("volume=%v", volume), func(t *testing.T) {
			p := newPod(t, pods.Default, volume, busyboxPod)
			out, got := p.build("--build-context", "busybox=oci-layout:///bases/busybox")
			if !strings.Contains(out, "isolation: chroot") {
				t.Errorf("the pod doesn't build in the isolation chroot:\n%s", out)
			}
			if want := p.outside(base(t, "busybox")); got != want {
				t.Errorf("image %s, as root %s", got, want)
			}
		})
	}
}

// Other pods build the same, each in the best isolation that it has.
func TestPodKinds(t *testing.T) {
	needContainers(t)
	for kind, isolation := range map[pods.Kind]string{
		pods.Unconfined: "chroot", // a new /proc is refused
		pods.HostUsers:  "chroot",
	} {
		t.Run(string(kind), func(t *testing.T) {
			p := newPod(t, kind, true, busyboxPod)
			out, got := p.build("--build-context", "busybox=oci-layout:///bases/busybox")
			if !strings.Contains(out, "isolation: "+isolation) {
				t.Errorf("the pod doesn't build in the isolation %s:\n%s", isolation, out)
			}
			if want := p.outside(base(t, "busybox")); got != want {
				t.Errorf("image %s, as root %s", got, want)
			}
		})
	}
}

// bk doctor says in such a pod what it will do and how to get better.
func TestPodDoctor(t *testing.T) {
	needContainers(t)
	p := newPod(t, pods.Default, true, "")
	o := p.run("doctor")
	if o.code != 0 || !strings.Contains(o.stdout, "chroot") || !strings.Contains(o.stdout, "hostUsers") {
		t.Errorf("doctor: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// A Debian image with packages that make users and set-id programs, in a pod.
func TestPodDebian(t *testing.T) {
	needContainers(t)
	base(t, "debian")
	repo := debianRepository(t, "hello", "cron", "cron-daemon-common", "sensible-utils")
	p := newPod(t, pods.Default, true, `
-- Dockerfile --
FROM debian
ARG REPO
RUN echo "deb [trusted=yes] $REPO ./" > /etc/apt/sources.list && rm -rf /etc/apt/sources.list.d/* \
	&& apt-get update && apt-get install -y --no-install-recommends hello cron
RUN hello && stat -c '%a %U:%G' /usr/bin/crontab && getent group crontab && useradd -m somebody && su somebody -c id
`)
	p.HostNetwork = true
	out, _ := p.build("--build-context", "debian=oci-layout:///bases/debian", "--build-arg", "REPO="+repo)
	for _, want := range []string{"Hello, world!", "2755 root:crontab", "somebody"} {
		if !strings.Contains(out, want) {
			t.Errorf("the build doesn't say %q:\n%s", want, out)
		}
	}
}

// A multi-stage build of a Go program, in a pod.
func TestPodGo(t *testing.T) {
	needContainers(t)
	p := newPod(t, pods.Default, true, `
-- Dockerfile --
FROM busybox AS build
COPY --from=goroot bin /usr/local/go/bin
COPY --from=goroot pkg /usr/local/go/pkg
COPY --from=goroot src /usr/local/go/src
ENV GOROOT=/usr/local/go
WORKDIR /src
COPY go.mod main.go ./
RUN --mount=type=cache,target=/root/.cache GOFLAGS=-trimpath CGO_ENABLED=0 /usr/local/go/bin/go build -ldflags=-s -o /out/app .
FROM scratch
COPY --from=build /out/app /app
RUN ["/app"]
-- go.mod --
module app

go 1.20
-- main.go --
package main

import "os"

func main() { os.WriteFile("/made", []byte("by app"), 0o644); println("hello from app") }
`)
	p.ReadOnly["/goroot"] = runtime.GOROOT() //nolint:staticcheck // of the toolchain that runs the test
	out, _ := p.build("--build-context", "busybox=oci-layout:///bases/busybox", "--build-context", "goroot=/goroot")
	if !strings.Contains(out, "hello from app") {
		t.Errorf("the program wasn't built:\n%s", out)
	}
}

// debianRepository serves packages of the machine's own Debian on the loopback
// interface, and returns the address for sources.list.
func debianRepository(t *testing.T, packages ...string) string {
	t.Helper()
	need(t, "apt-get", "dpkg-deb")
	dir := t.TempDir()
	cmd := command("apt-get", append([]string{"download", "-q", "-o", "APT::Sandbox::User=root"}, packages...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("packages cannot be downloaded: %v\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	var index strings.Builder
	for _, deb := range debs {
		control, err := command("dpkg-deb", "-f", deb).Output()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(deb), len(text), sha256.Sum256(text))
	}
	if err := os.WriteFile(filepath.Join(dir, "Packages"), []byte(index.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL
}
