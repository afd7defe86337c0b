//go:build linux

package main

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/faults"
	"bk.build/bk/hack/images"
	"bk.build/bk/hack/registry"
	"bk.build/bk/layout"
)

// largeBlob is the size of the only layer of the images that are killed.
const largeBlob = 200_000_000 / 512 * 512

// largeLayout is a layout with the image "large", of one layer.
func largeLayout(t *testing.T) (*layout.Dir, ocispecs.Descriptor) {
	t.Helper()
	d, err := layout.Create(filepath.Join(t.TempDir(), "large"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := images.Large(d, "large", largeBlob)
	if err != nil {
		t.Fatal(err)
	}
	return d, desc
}

// whole checks every byte of an image of a layout.
func whole(t *testing.T, path, ref string, want ocispecs.Descriptor) {
	t.Helper()
	d, err := layout.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Resolve(ref)
	if err != nil || got.Digest != want.Digest {
		t.Fatalf("%s leads to %s, %v; want %s", ref, got.Digest, err, want.Digest)
	}
	if err := layout.Validate(t.Context(), d, got); err != nil {
		t.Error(err)
	}
}

// killAtStall runs a command until the proxy has stopped it, and kills it there.
func killAtStall(t *testing.T, cmd *exec.Cmd, proxy *faults.Proxy) {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stall", func() bool { return proxy.Stats().Stalled > 0 })
	moved := int64(-1)
	eventually(t, "the end of what moves", func() bool { // until the stall nothing is held back
		s := proxy.Stats()
		time.Sleep(200 * time.Millisecond)
		done := s.Up+s.Down == moved
		moved = s.Up + s.Down
		return done
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if cmd.ProcessState.Exited() {
		t.Fatalf("bk ended by itself: %s", stderr.String())
	}
}

// A pull that was killed at nine tenths of a large layer goes on there: the
// second process moves what the first had not.
func TestMoveKilledPull(t *testing.T) {
	src, want := largeLayout(t)
	addr := registry.Start(t)
	s := newSite(t, noContext)
	s.must("copy", "-q", "oci:"+src.Path()+":large", addr+"/app:v1")

	config := configOf(t, src, want)
	proxy := faults.Start(t, addr, 21)
	proxy.Inject(faults.Fault{Kind: faults.Stall, At: largeBlob * 9 / 10, Times: 1, Pause: time.Minute, On: func(r *http.Request) bool {
		return faults.OnBlob(r) && !strings.HasSuffix(r.URL.Path, config)
	}})
	out := s.path("out")
	killAtStall(t, s.command("copy", "-q", proxy.Addr+"/app:v1", "oci:"+out+":v1"), proxy)
	if _, err := layout.Open(out); err == nil {
		if o := s.run("image", "inspect", "oci:"+out+":v1"); o.code == 0 {
			t.Error("a name leads to half an image")
		}
	}
	first := proxy.Stats().Down
	s.must("copy", "-q", proxy.Addr+"/app:v1", "oci:"+out+":v1")
	again := proxy.Stats().Down - first
	t.Logf("the first process moved %d bytes, the second %d of %d", first, again, largeBlob)
	if again > largeBlob/5 {
		t.Errorf("the second process moved %d bytes, want about %d", again, largeBlob/10)
	}
	whole(t, out, "v1", want)
}

// configOf is the digest of an image's configuration.
func configOf(t *testing.T, d *layout.Dir, desc ocispecs.Descriptor) string {
	t.Helper()
	var m ocispecs.Manifest
	readDocument(t, d, desc, &m)
	return m.Config.Digest.String()
}

// A push that was killed far into a large layer goes on with what the registry
// has. Debian's server is killed off between two requests: in the middle of one
// it forgets the whole upload.
func TestMoveKilledPush(t *testing.T) {
	src, want := largeLayout(t)
	for name, tt := range map[string]struct {
		program string
		at      int64
	}{"distribution": {"", 1 << 20}, "debian": {"docker-registry", -1}} {
		t.Run(name, func(t *testing.T) {
			addr := registry.StartWith(t, registry.Options{Program: tt.program})
			s := newSite(t, noContext)
			proxy := faults.Start(t, addr, 22)
			// The request in which nine tenths are reached is stopped there.
			var sent atomic.Int64
			const limit = largeBlob * 9 / 10
			proxy.Inject(faults.Fault{Kind: faults.Stall, At: tt.at, Times: 1, Pause: 3 * time.Second, On: func(r *http.Request) bool {
				return faults.OnUpload(r) && r.ContentLength > 1<<20 && sent.Add(r.ContentLength) > limit
			}})
			killAtStall(t, s.command("copy", "-q", "oci:"+src.Path()+":large", proxy.Addr+"/app:v1"), proxy)
			first := proxy.Stats().Up
			if o := s.run("image", "inspect", addr+"/app:v1"); o.code == 0 {
				t.Error("a name leads to half an image")
			}
			s.must("copy", "-q", "oci:"+src.Path()+":large", proxy.Addr+"/app:v1")
			again := proxy.Stats().Up - first
			t.Logf("the first process moved %d bytes, the second %d of %d", first, again, largeBlob)
			if first < 64<<20 || again > largeBlob-first+(2<<20) {
				t.Errorf("the first process moved %d bytes and the second %d, want no more than %d together", first, again, largeBlob)
			}
			out := s.path("out")
			s.must("copy", "-q", addr+"/app:v1", "oci:"+out+":v1")
			whole(t, out, "v1", want)
		})
	}
}

// bk's own verbs get over faults that end, and say what they try again.
func TestMoveFaults(t *testing.T) {
	src, made := corpus(t)
	addr := registry.Start(t)
	var passing []faults.Fault
	for _, f := range faults.Passing(0.1, 3, 0) {
		if f.Kind != faults.Stall && f.Kind != faults.Slow { // bk waits a minute for what is silent
			passing = append(passing, f)
		}
	}
	proxy := faults.Start(t, addr, 23, passing...)
	s := newSite(t, noContext)
	said := ""
	for _, kind := range images.Names {
		said += s.must("copy", "--progress=plain", "oci:"+src.Path()+":"+kind, proxy.Addr+"/app:"+kind).stderr
		out := s.path("out")
		said += s.must("copy", "--progress=plain", proxy.Addr+"/app:"+kind, "oci:"+out+":"+kind).stderr
		whole(t, out, kind, made[kind])
	}
	s.must("copy", "-q", "oci:"+s.path("out")+":oci", "store:"+proxy.Addr+"/app:push")
	s.must("push", "-q", proxy.Addr+"/app:push")
	s.in("other").must("pull", "-q", proxy.Addr+"/app:push")
	if n := proxy.Stats().Total(); n < 10 || !strings.Contains(said, "again") {
		t.Errorf("%d faults; bk says:\n%s", n, said)
	}
}

// bk refuses what a registry lies about with one line that says so, and leaves
// nothing in place.
func TestMoveLies(t *testing.T) {
	src, _ := corpus(t)
	addr := registry.Start(t)
	s := newSite(t, noContext)
	s.must("copy", "-q", "oci:"+src.Path()+":oci", addr+"/app:v1")
	for _, f := range []faults.Fault{
		{Kind: faults.Flip},
		{Kind: faults.Flip, On: faults.OnManifest},
		{Kind: faults.Length, At: -1},
		{Kind: faults.Digest},
		{Kind: faults.Type},
		{Kind: faults.Realm},
	} {
		proxy := faults.Start(t, addr, 24, f)
		out := s.path("out-" + string(f.Kind))
		o := s.run("copy", "-q", proxy.Addr+"/app:v1", "oci:"+out+":v1")
		if o.code != 1 || strings.Count(strings.TrimSpace(o.stderr), "\n") > 1 || !strings.Contains(o.stderr, proxy.Addr) {
			t.Errorf("%s: exit code %d: %s", f.Kind, o.code, o.stderr)
		}
		t.Logf("%s: %s", f.Kind, o.stderr)
		if o := s.run("image", "inspect", "oci:"+out+":v1"); o.code == 0 {
			t.Errorf("%s: the image is in place", f.Kind)
		}
	}
}
