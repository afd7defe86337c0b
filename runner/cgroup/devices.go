package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// access is a set of what is done with a device, by the kernel's numbers.
type access uint8

const (
	mknod access = 1 << iota
	read
	write
	all = mknod | read | write
)

func (a access) String() string {
	var b strings.Builder
	for i, c := range "mrw" {
		if a>>i&1 != 0 {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// wild is any major or minor number.
const wild = -1

// deviceID names a device, or many of them.
type deviceID struct {
	kind         byte // 'b' or 'c'
	major, minor int64
}

func (d deviceID) String() string {
	n := func(v int64) string {
		if v == wild {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return string(d.kind) + " " + n(d.major) + ":" + n(d.minor)
}

// policy is what device rules come to: a default, and what differs from it.
// Rules change it one after the other as the kernel does it in version 1.
type policy struct {
	allow bool // what is not excepted
	// except is, for a device, what is denied when allow is set, and else what
	// is allowed.
	except map[deviceID]access
}

// defaultDevices may be used in every container (runtime-spec, "Default
// Devices"), besides making any node.
func defaultDevices() map[deviceID]access {
	return map[deviceID]access{
		{'c', wild, wild}: mknod,
		{'b', wild, wild}: mknod,
		{'c', 1, 3}:       all, // null
		{'c', 1, 5}:       all, // zero
		{'c', 1, 7}:       all, // full
		{'c', 1, 8}:       all, // random
		{'c', 1, 9}:       all, // urandom
		{'c', 5, 0}:       all, // tty
		{'c', 5, 1}:       all, // console
		{'c', 5, 2}:       all, // ptmx
		{'c', 136, wild}:  all, // pts/N
	}
}

// newPolicy evaluates rules in their order, and allows the default devices and
// the container's own.
func newPolicy(rules []specs.LinuxDeviceCgroup, devices []specs.LinuxDevice) (*policy, error) {
	p := &policy{except: map[deviceID]access{}}
	for i, r := range rules {
		if err := p.rule(r); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
	}
	own := defaultDevices()
	for _, d := range devices {
		if kind := kindOf(d.Type); kind != 0 {
			own[deviceID{kind, d.Major, d.Minor}] = all
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(own), compareDevices) {
		p.grant(id, own[id])
	}
	return p, nil
}

func kindOf(kind string) byte {
	switch kind {
	case "c", "u":
		return 'c'
	case "b":
		return 'b'
	}
	return 0
}

func compareDevices(a, b deviceID) int { return strings.Compare(a.String(), b.String()) }

func (p *policy) rule(r specs.LinuxDeviceCgroup) error {
	what, err := parseAccess(r.Access)
	if err != nil {
		return err
	}
	number := func(n *int64) int64 {
		if n == nil || *n < 0 {
			return wild
		}
		return *n
	}
	major, minor := number(r.Major), number(r.Minor)
	kinds := "bc"
	switch r.Type {
	case "", "a":
		if major == wild && minor == wild && what == all {
			p.allow = r.Allow
			clear(p.except)
			return nil
		}
	case "b", "c":
		kinds = r.Type
	default:
		return fmt.Errorf("device type %q: must be a, b or c", r.Type)
	}
	for _, kind := range []byte(kinds) {
		id := deviceID{kind, major, minor}
		if r.Allow {
			p.grant(id, what)
		} else if err := p.deny(id, what); err != nil {
			return err
		}
	}
	return nil
}

func parseAccess(s string) (a access, err error) {
	for _, c := range s {
		i := strings.IndexRune("mrw", c)
		if i < 0 {
			return 0, fmt.Errorf("access %q: must be of r, w and m", s)
		}
		a |= 1 << i
	}
	if a == 0 { // as runtimes have it
		a = all
	}
	return a, nil
}

func (p *policy) grant(id deviceID, what access) {
	if !p.allow {
		p.except[id] |= what
		return
	}
	for other := range p.except {
		if id.covers(other) {
			p.remove(other, what)
		}
	}
}

// deny takes rights away. Where only devices of a list are allowed, no hole
// can be made in an entry for many: the kernel would let it be used.
func (p *policy) deny(id deviceID, what access) error {
	if p.allow {
		p.except[id] |= what
		return nil
	}
	for other, has := range p.except {
		switch {
		case has&what == 0:
		case id.covers(other):
			p.remove(other, what)
		case other.covers(id):
			return fmt.Errorf("%s is to be denied, but %s is allowed: list what is allowed", id, other)
		}
	}
	return nil
}

func (p *policy) remove(id deviceID, what access) {
	if p.except[id] &^= what; p.except[id] == 0 {
		delete(p.except, id)
	}
}

// covers reports whether d is other, or other is one of the many that d names.
func (d deviceID) covers(other deviceID) bool {
	return d.kind == other.kind && (d.major == wild || d.major == other.major) &&
		(d.minor == wild || d.minor == other.minor)
}

// entries are the exceptions in a fixed order.
func (p *policy) entries() []deviceID { return slices.SortedFunc(maps.Keys(p.except), compareDevices) }

// applyDevices restricts the group to what rules allow.
func (g *Group) applyDevices(rules []specs.LinuxDeviceCgroup, devices []specs.LinuxDevice) error {
	p, err := newPolicy(rules, devices)
	if err != nil {
		return err
	}
	list, v2, err := g.dir("devices")
	if err == nil && !v2 {
		return g.host.writeDevices(list, p)
	}
	if dir := g.v2(); dir != "" {
		return g.host.attach(dir, p.program())
	}
	if g.host.legacy("devices") == nil && g.host.unified() == nil {
		err = errors.New("there is neither a hierarchy with the controller devices nor one of version 2")
	}
	return err
}

// writeDevices brings a list of version 1 to what p says, by what differs.
func (h *Host) writeDevices(dir string, p *policy) error {
	text, err := readFile(filepath.Join(dir, "devices.list"))
	if err != nil {
		return fmt.Errorf("read the list of devices: %w", err)
	}
	now, err := parseDevices(string(text))
	if err != nil {
		return fmt.Errorf("%s/devices.list: %w", dir, err)
	}
	set := func(file, value string) error {
		if err := h.write(filepath.Join(dir, file), value); err != nil {
			return fmt.Errorf("write %q to %s: %w", value, filepath.Join(dir, file), cause(err))
		}
		return nil
	}
	if p.allow != now.allow || p.allow {
		if p.allow && now.allow && len(p.except) == 0 { // denied ones aren't listed
			return nil
		}
		file := map[bool]string{true: "devices.allow", false: "devices.deny"}[p.allow]
		if err := set(file, "a"); err != nil {
			return err
		}
		now = &policy{allow: p.allow}
	}
	more, less := "devices.allow", "devices.deny"
	if p.allow {
		more, less = less, more
	}
	for _, id := range p.entries() {
		if what := p.except[id] &^ now.except[id]; what != 0 {
			if err := set(more, id.String()+" "+what.String()); err != nil {
				return err
			}
		}
	}
	for _, id := range now.entries() {
		if what := now.except[id] &^ p.except[id]; what != 0 {
			if err := set(less, id.String()+" "+what.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// parseDevices reads devices.list.
func parseDevices(text string) (*policy, error) {
	p := &policy{except: map[deviceID]access{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("unexpected line %q", line)
		}
		if f[0] == "a" {
			p.allow = true
			continue
		}
		what, err := parseAccess(f[2])
		major, minor, ok := strings.Cut(f[1], ":")
		if err != nil || !ok || f[0] != "b" && f[0] != "c" {
			return nil, fmt.Errorf("unexpected line %q", line)
		}
		id := deviceID{kind: f[0][0]}
		for _, n := range []struct {
			text string
			to   *int64
		}{{major, &id.major}, {minor, &id.minor}} {
			if *n.to = wild; n.text == "*" {
				continue
			}
			if *n.to, err = strconv.ParseInt(n.text, 10, 33); err != nil || *n.to < 0 {
				return nil, fmt.Errorf("unexpected line %q", line)
			}
		}
		p.except[id] |= what
	}
	return p, nil
}
