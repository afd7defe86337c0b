package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/runner/host"
)

// A person reads what there is, what is used, and what to do for more.
func TestDoctorTable(t *testing.T) {
	r := &host.Report{
		Isolation: host.SingleID,
		Checks: []host.Check{
			{ID: "mounts", Title: "root's mounts", Detail: "CAP_SYS_ADMIN is missing", Fix: []string{"sudo bk build"}},
			{ID: "subordinate-ids", Title: "subordinate ids", Detail: "/etc/subuid: no range for user joe", Fix: []string{"usermod ...", "ask"}},
			{ID: "overlay", Title: "overlay in the store", OK: true, Detail: "in a user namespace"},
			{ID: "reflinks", Title: "reflinks in the store", Detail: "not supported"},
		},
		Modes: []host.Mode{
			{Isolation: host.Root, Missing: []string{"mounts"}},
			{Isolation: host.Rootless, Missing: []string{"subordinate-ids"}},
			{Isolation: host.SingleID, OK: true},
			{Isolation: host.Chroot, OK: true},
		},
	}
	const want = `
CHECK                   ALLOWED   DETAIL
root's mounts           no        CAP_SYS_ADMIN is missing
subordinate ids         no        /etc/subuid: no range for user joe
overlay in the store    yes       in a user namespace
reflinks in the store   no        not supported

ISOLATION               ALLOWED   DETAIL
root                    no        needs mounts
rootless                no        needs subordinate-ids
single-id               yes       used
chroot                  yes

RUN steps run with isolation single-id.

For root's mounts, one of:
  sudo bk build

For subordinate ids, one of:
  usermod ...
  ask
`
	var b strings.Builder
	if err := doctorTable(&b, r); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(b.String()) {
		got.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	if d := cmp.Diff(want[1:], got.String()); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}
