//go:build linux

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const accepted = `
-- Dockerfile --
FROM busybox
COPY --chown=1000:1000 --chmod=0640 f /data/f
RUN chmod 755 /data && ln /data/f /data/hard && ln -s f /data/soft && mkdir /data/d && chmod 1777 /data/d && rm -r /home && \
    chmod 4755 /bin/busybox || true; echo run > /data/run
WORKDIR /data
ENV A="b c"
LABEL l=v
USER app
EXPOSE 80/tcp
VOLUME /vol
ENTRYPOINT ["cat"]
CMD ["/data/run"]
-- f --
f
`

// run runs a program that must succeed, and returns what it prints.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := command(name, args...)
	cmd.Dir = t.TempDir()
	o := wait(t, cmd)
	if o.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", name, strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// skopeo reads what every image output wrote, and finds the same image.
func TestSkopeoReadsOutputs(t *testing.T) {
	needContainers(t)
	need(t, "skopeo")
	s := newSite(t, accepted)
	s.build(base(t, "busybox"), "-t", "app:1", "-o", "type=oci,dest=../oci,tar=false", "-o", "type=oci,dest=../oci.tar",
		"-o", "type=docker,dest=../docker.tar", "-o", "type=oci,dest=../zstd,tar=false,compression=zstd,force-compression=true",
		"-o", "type=oci,dest=../plain,tar=false,compression=uncompressed,force-compression=true")
	for _, from := range []string{
		"oci:oci:1", "oci-archive:oci.tar:1", "docker-archive:docker.tar", "oci:plain:1", "oci:zstd:1",
	} {
		kind, path, _ := strings.Cut(from, ":")
		var info struct {
			Labels       map[string]string
			Os           string
			Architecture string
			Layers       []string
			Env          []string
		}
		text := program(t, "skopeo", "inspect", kind+":"+s.path(path))
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if info.Labels["l"] != "v" || info.Os != "linux" || len(info.Layers) != 5 || info.Env[len(info.Env)-1] != "A=b c" {
			t.Errorf("%s: %+v", from, info)
		}
		// A copy reads and checks every byte.
		program(t, "skopeo", "copy", "-q", kind+":"+s.path(path), "dir:"+filepath.Join(t.TempDir(), "copy"))
	}
	theImage(t, s.path("oci"))
	theImage(t, s.path("zstd"))
	theImage(t, s.path("plain"))
}

// umoci unpacks what bk packed, to the files that bk writes itself.
func TestUmociUnpacks(t *testing.T) {
	needContainers(t)
	need(t, "umoci")
	s := newSite(t, accepted)
	s.build(base(t, "busybox"), "-t", "app:1", "-o", "type=oci,dest=../oci,tar=false", "-o", "type=tar,dest=../tree.tar")
	program(t, "umoci", "unpack", "--image", s.path("oci:1"), s.path("bundle"))
	if err := os.Mkdir(s.path("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	program(t, "tar", "--numeric-owner", "-xpf", s.path("tree.tar"), "-C", s.path("tree"))
	list := func(dir string) string {
		cmd := command("sh", "-c", "find . -mindepth 1 -printf '%P %y %m %U %G %n %l %T@\\n' | sed 's/[.]0*$//' | grep -v ' d ' | sort; find . -mindepth 1 -type d -printf '%P %m %U %G\\n' | sort")
		cmd.Dir = dir
		return wait(t, cmd).stdout
	}
	a, b := list(s.path("bundle/rootfs")), list(s.path("tree"))
	if a != b || !strings.Contains(a, "data/hard f 640 1000 1000 2") {
		t.Errorf("umoci unpacked\n%s\nbk wrote\n%s", a, b)
	}
}

// podman loads an image and runs it.
func TestPodmanRuns(t *testing.T) {
	needContainers(t)
	need(t, "podman", "crun")
	s := newSite(t, accepted)
	s.build(base(t, "busybox"), "-t", "localhost/app:1", "-o", "type=oci,dest=../oci.tar", "-o", "type=docker,dest=../docker.tar")
	storage := t.TempDir()
	podman := []string{
		"--storage-driver=vfs", "--root=" + filepath.Join(storage, "root"), "--runroot=" + filepath.Join(storage, "run"),
		"--tmpdir=" + filepath.Join(storage, "tmp"), "--cgroup-manager=cgroupfs", "--events-backend=none",
	}
	for _, archive := range []string{"docker.tar", "oci.tar"} {
		loaded := program(t, "podman", append(podman, "load", "-q", "-i", s.path(archive))...)
		name := strings.TrimSpace(strings.TrimPrefix(loaded, "Loaded image: "))
		if name != "localhost/app:1" {
			t.Errorf("podman loaded %q from %s", name, archive)
		}
		// crun refuses a cgroup2 mount beside those of version 1, even unused.
		const alone = `umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"`
		out := program(t, "unshare", append(append([]string{"-m", "sh", "-c", alone, "podman"}, podman...), "run", "--rm", "--network=none", "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--runtime=crun", name)...)
		if out != "run\n" {
			t.Errorf("%s printed %q", archive, out)
		}
		program(t, "podman", append(podman, "rmi", "-f", name)...)
	}
}
