package host

import (
	"slices"
	"testing"
)

// The strongest isolation whose needs are met is the one, and what stands in the
// way of a stronger one is named.
func TestSettle(t *testing.T) {
	all := []string{"mounts", "ids", "proc", "user-namespaces", "subordinate-ids", "user-notification", "change-root", "overlay"}
	without := func(missing ...string) (r Report) {
		for _, id := range all {
			r.Checks = append(r.Checks, Check{ID: id, OK: !slices.Contains(missing, id), Fix: []string{"fix " + id}})
		}
		r.settle()
		return r
	}
	for _, tt := range []struct {
		missing []string
		want    Isolation
		advice  []string
	}{
		{nil, Root, nil},
		{[]string{"overlay"}, Root, []string{"overlay"}},
		{[]string{"mounts"}, Rootless, nil}, // as strong
		{[]string{"mounts", "subordinate-ids"}, SingleID, []string{"mounts", "subordinate-ids"}},
		{[]string{"ids", "subordinate-ids", "user-namespaces"}, SingleID, []string{"ids", "user-namespaces", "subordinate-ids"}},
		{[]string{"mounts", "user-namespaces"}, Chroot, []string{"mounts", "user-namespaces"}},
		{[]string{"mounts", "proc"}, Chroot, []string{"mounts", "proc"}},
		{[]string{"mounts", "proc", "change-root"}, "", []string{"mounts", "proc", "change-root"}},
	} {
		r := without(tt.missing...)
		if r.Isolation != tt.want {
			t.Errorf("without %q: %q, want %q", tt.missing, r.Isolation, tt.want)
		}
		var advice []string
		for _, c := range r.Advice() {
			advice = append(advice, c.ID)
		}
		if !slices.Equal(advice, tt.advice) {
			t.Errorf("without %q: advice %q, want %q", tt.missing, advice, tt.advice)
		}
	}
}

// A requirement is met by what is as strong, and by nothing unknown.
func TestSatisfies(t *testing.T) {
	order := []Isolation{"", Chroot, SingleID, Rootless}
	for i, is := range order {
		for j, required := range order {
			if got := is.Satisfies(required); got != (i >= j) {
				t.Errorf("%q satisfies %q: %t", is, required, got)
			}
		}
	}
	if !Root.Satisfies(Rootless) || !Rootless.Satisfies(Root) {
		t.Error("root and rootless differ")
	}
}

func TestParseIsolation(t *testing.T) {
	for name, want := range map[string]Isolation{"": "", "auto": "", "root": Root, "rootless": Rootless, "single-id": SingleID, "chroot": Chroot} {
		if got, err := ParseIsolation(name); got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"Root", "none", "container", "auto ", "rootless,chroot"} {
		if _, err := ParseIsolation(name); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
