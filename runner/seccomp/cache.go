package seccomp

import (
	"encoding/binary"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cache keeps compiled programs by the content of their profiles. It may be
// used concurrently; a nil Cache keeps nothing. The zero value is empty.
type Cache struct {
	mu       sync.Mutex
	programs map[string]*Program
}

// maxPrograms bounds a cache; builds use one or two profiles.
const maxPrograms = 32

// Compile is the function Compile with a memory. The program is shared: callers
// don't change it.
func (c *Cache) Compile(profile *specs.LinuxSeccomp) (*Program, error) {
	if c == nil {
		return Compile(profile)
	}
	key := profileKey(profile)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.programs[key]; p != nil {
		return p, nil
	}
	p, err := Compile(profile)
	if err != nil {
		return nil, err
	}
	if c.programs == nil || len(c.programs) >= maxPrograms {
		c.programs = map[string]*Program{}
	}
	c.programs[key] = p
	return p, nil
}

// profileKey writes all that Compile looks at, each string and list with its
// length in front, so that different profiles have different keys.
func profileKey(p *specs.LinuxSeccomp) string {
	b := make([]byte, 0, 16<<10)
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	num := func(n uint64) { b = binary.AppendUvarint(b, n) }
	errno := func(n *uint) {
		if n == nil {
			num(0)
			return
		}
		num(uint64(*n) + 1)
	}
	str(string(p.DefaultAction))
	errno(p.DefaultErrnoRet)
	num(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		str(string(a))
	}
	num(uint64(len(p.Flags)))
	for _, f := range p.Flags {
		str(string(f))
	}
	str(p.ListenerPath)
	str(p.ListenerMetadata)
	for _, s := range p.Syscalls {
		str(string(s.Action))
		errno(s.ErrnoRet)
		num(uint64(len(s.Names)))
		for _, n := range s.Names {
			str(n)
		}
		num(uint64(len(s.Args)))
		for _, a := range s.Args {
			num(uint64(a.Index))
			num(a.Value)
			num(a.ValueTwo)
			str(string(a.Op))
		}
	}
	return string(b)
}
