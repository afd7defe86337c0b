package notify

import (
	"slices"
	"testing"
)

// Ids change as setuid(2), setreuid(2), setresuid(2) and setfsuid(2) say, for
// root and for others: programs that drop their rights check that they can't get
// them back.
func TestIDs(t *testing.T) {
	user := IDs{1000, 1000, 1000, 1000}
	setUID := IDs{1000, 0, 0, 0} // in a set-user-id program of root's
	for _, tt := range []struct {
		name   string
		start  IDs
		change func(*IDs, bool) bool
		want   IDs
		ok     bool
	}{
		{"root becomes a user", IDs{}, func(i *IDs, r bool) bool { return i.set(33, r) }, IDs{33, 33, 33, 33}, true},
		{"a user stays", user, func(i *IDs, r bool) bool { return i.set(1000, r) }, user, true},
		{"a user can't become root", user, func(i *IDs, r bool) bool { return i.set(0, r) }, user, false},
		{"no id", IDs{}, func(i *IDs, r bool) bool { return i.set(keep, r) }, IDs{}, false},
		{"seteuid", IDs{}, func(i *IDs, r bool) bool { return i.setRES(keep, 33, keep, r) }, IDs{0, 33, 0, 33}, true},
		{"seteuid back", IDs{0, 33, 0, 33}, func(i *IDs, r bool) bool { return i.setRES(keep, 0, keep, r) }, IDs{}, true},
		{"setresuid is for good", user, func(i *IDs, r bool) bool { return i.setRES(keep, 0, keep, r) }, user, false},
		{"setreuid saves", IDs{}, func(i *IDs, r bool) bool { return i.setRE(33, 34, r) }, IDs{33, 34, 34, 34}, true},
		{"setreuid swaps", IDs{33, 34, 34, 34}, func(i *IDs, r bool) bool { return i.setRE(34, 33, r) }, IDs{34, 33, 33, 33}, true},
		{"setreuid refuses all or nothing", user, func(i *IDs, r bool) bool { return i.setRE(1000, 0, r) }, user, false},
		{"set-id program drops", setUID, func(i *IDs, r bool) bool { return i.setRES(1000, 1000, 1000, r) }, user, true},
		{"setfsuid", IDs{}, func(i *IDs, r bool) bool { return i.setFS(5, r) == 0 }, IDs{0, 0, 0, 5}, true},
		{"setfsuid refuses silently", user, func(i *IDs, r bool) bool { return i.setFS(5, r) == 1000 }, user, true},
	} {
		got := tt.start
		if ok := tt.change(&got, tt.start.Effective == 0); ok != tt.ok || got != tt.want {
			t.Errorf("%s: %v %+v, want %v %+v", tt.name, ok, got, tt.ok, tt.want)
		}
	}
}

// A number stands for the same credentials for ever, every other one for root,
// and a step can't make the table grow without end.
func TestCredentials(t *testing.T) {
	var table credentials
	c := User(1, 2, []uint32{3, 4})
	n, _ := table.number(c)
	if again, _ := table.number(User(1, 2, []uint32{3, 4})); n != 1 || again != n {
		t.Errorf("numbers %d and %d", n, again)
	}
	if got := table.of(n); got.UIDs != c.UIDs || got.GIDs != c.GIDs || !slices.Equal(got.Groups, c.Groups) {
		t.Errorf("%+v", got)
	}
	for _, n := range []uint64{0, 2, 1<<64 - 1} {
		if got := table.of(n); !got.root() || len(got.Groups) > 0 {
			t.Errorf("%d: %+v", n, got)
		}
	}
	for i := range uint32(maxCredentials) {
		table.number(User(i, 0, nil))
	}
	if _, ok := table.number(User(1<<31, 0, nil)); ok || len(table.list) > maxCredentials {
		t.Errorf("the table holds %d", len(table.list))
	}
}
