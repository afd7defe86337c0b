//go:build linux

package main

import (
	"os"
	"strings"
	"testing"
)

// What a step asks for beyond the default is refused before anything runs,
// with the flag that would allow it; and it is given when it was allowed.
func TestEntitlements(t *testing.T) {
	needContainers(t)
	s := newSite(t, `
-- insecure.Dockerfile --
FROM busybox
RUN echo first > /first
RUN --security=insecure mount -t tmpfs none /mnt && ls /dev/kmsg && echo "caps $(grep CapEff /proc/self/status)"
-- host.Dockerfile --
FROM busybox
RUN --network=host ls /sys/class/net > /net; cat /net
-- device.Dockerfile --
FROM busybox
RUN --device=vendor.com/class=zero env | grep GIVEN && stat -c %t,%T /dev/given && cat /opt/notes
-- required.Dockerfile --
FROM busybox
RUN --device=vendor.com/class=absent,required true
-- optional.Dockerfile --
FROM busybox
RUN --device=vendor.com/class=absent true
-- alias.Dockerfile --
FROM busybox
RUN --device=card env | grep GIVEN
-- auto.Dockerfile --
FROM busybox
RUN --device=vendor.com/free env | grep FREE
-- cdi/a.yaml --
cdiVersion: "0.6.0"
kind: vendor.com/class
devices:
- name: zero
  containerEdits:
    env: ["GIVEN=yes"]
    deviceNodes:
    - {path: /dev/given, hostPath: /dev/zero}
    mounts:
    - {hostPath: NOTES, containerPath: /opt/notes, options: [ro, bind]}
-- cdi/b.yaml --
cdiVersion: "0.6.0"
kind: vendor.com/free
annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
devices:
- name: any
  containerEdits: {env: ["FREE=yes"]}
-- notes --
a file of the host
`)
	description := s.dir + "/cdi/a.yaml"
	text, err := os.ReadFile(description)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), "NOTES", s.dir+"/notes"))
	if err := os.WriteFile(description, text, 0o644); err != nil {
		t.Fatal(err)
	}
	devices := "--cdi-spec-dir=" + s.dir + "/cdi"
	for _, c := range []struct {
		name, file string
		args       []string
		want       string // in the errors; empty: it builds
		logs       string // in the output of steps
	}{
		{"insecure refused", "insecure", nil, "--allow security.insecure", ""},
		{"insecure allowed", "insecure", []string{"--allow", "security.insecure"}, "", "/dev/kmsg"},
		{"host refused", "host", nil, "--allow network.host", ""},
		{"host allowed", "host", []string{"--allow=network.host"}, "", "lo"},
		{"host by the build's network", "host", []string{"--network=host"}, "", ""},
		{"another right is not enough", "host", []string{"--allow=security.insecure"}, "--allow network.host", ""},
		{"device refused", "device", []string{devices}, "--allow device=vendor.com/class=zero", ""},
		{"device allowed", "device", []string{devices, "--allow=device=vendor.com/class=zero"}, "", "a file of the host"},
		{"its kind allowed", "device", []string{devices, "--allow=device=vendor.com/class", "--no-cache"}, "", "GIVEN=yes"},
		{"all devices allowed", "device", []string{devices, "--allow=device", "--no-cache"}, "", "1,5"},
		{"device by another name", "alias", []string{devices, "--allow=device=vendor.com/class=zero,alias=card"}, "", "GIVEN=yes"},
		{"a name that nobody gave", "alias", []string{devices, "--allow=device=vendor.com/class=zero", "--no-cache"}, "GIVEN", ""},
		{"required and not there", "required", []string{devices, "--allow=device"}, "none is described in " + s.dir + "/cdi", ""},
		{"optional and not there", "optional", []string{devices}, "", ""},
		{"allowed by its description", "auto", []string{devices}, "", "FREE=yes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			on := *s
			on.t = t
			o := on.run(append([]string{"build", ".", "-f", c.file + ".Dockerfile", base(t, "busybox")}, c.args...)...)
			if c.want == "" {
				if o.code != 0 || !strings.Contains(o.logs, c.logs) {
					t.Fatalf("code %d, logs %q, stderr:\n%s", o.code, o.logs, o.stderr)
				}
				return
			}
			if o.code != 1 || !strings.Contains(o.stderr, c.want) {
				t.Fatalf("code %d, stderr without %q:\n%s", o.code, c.want, o.stderr)
			}
			if strings.Contains(o.logs, "caps") {
				t.Error("the step ran")
			}
		})
	}
}
