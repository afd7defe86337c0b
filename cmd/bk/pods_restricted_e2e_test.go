//go:build linux

package main

import (
	"strings"
	"testing"

	"bk.build/bk/hack/pods"
)

// In a pod of the restricted profile, whose process may change nothing, a step is
// root in a directory of its own, and the image is the one that root builds.
func TestPodRestricted(t *testing.T) {
	needContainers(t)
	p := newPod(t, pods.Restricted, true, `
-- Dockerfile --
FROM busybox AS build
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/src \
	cp /src/app /app; chmod 751 /app; chown 0:0 /app; echo x > /cache/n; mkdir -m 1777 /shared
RUN ln /app /hard; ln -s /app /soft; test -L /soft && /soft > /said; mv /srv /moved; echo x > /dev/null; cat /proc/self/status | grep -c TracerPid > /n
FROM busybox
COPY --from=build /app /hard /usr/local/bin/
COPY --from=build /said /n /
RUN touch /other && chown 5:6 /other && mkdir /locked && chmod 0 /locked && chown 7 /locked && echo x > /locked/file && chmod 0400 /locked/file
RUN id -u > /id; stat -c '%u:%g %a' /usr/local/bin/app > /stat; cat /id /stat /said
-- app --
#!/bin/sh
echo app $0
`)
	out, got := p.build("--build-context", "busybox=oci-layout:///bases/busybox")
	if want := p.outside("--build-context", "busybox=oci-layout://"+repository(t)+"/.cache/bases/busybox"); got != want {
		t.Errorf("the pod's image is %s, and root's %s\n%s", got, want, out)
	}
	for _, want := range []string{"isolation: chroot", "0:0 751", "app /soft"} {
		if !strings.Contains(out, want) {
			t.Errorf("the build doesn't say %q:\n%s", want, out)
		}
	}
}

// Debian's dynamic programs and scripts run in such a pod.
func TestPodRestrictedDebian(t *testing.T) {
	needContainers(t)
	base(t, "debian")
	p := newPod(t, pods.Restricted, true, `
-- Dockerfile --
FROM debian
RUN perl -e 'print "perl says $<\n"' && dpkg-query -W bash && apt-get --version | head -1 && tar -C /etc -cf /etc.tar passwd group && tar -tvf /etc.tar
RUN --mount=type=secret,id=s,mode=0444 cat /run/secrets/s; useradd -m someone && su someone -c 'id -un'
-- secret --
the secret
`)
	out, _ := p.build("--build-context", "debian=oci-layout:///bases/debian", "--secret", "id=s,src=/data/ctx/secret")
	for _, want := range []string{"perl says 0", "bash", "root/root", "the secret", "someone"} {
		if !strings.Contains(out, want) {
			t.Errorf("the build doesn't say %q:\n%s", want, out)
		}
	}
}
