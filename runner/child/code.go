package child

// coder moves a plan to or from bytes; one traversal serves both ways, so that
// they can't differ. Numbers are in base 128, strings and lists have their
// length in front.
type coder struct {
	buf    []byte
	decode bool
	bad    bool // the input ended early or holds an impossible length
}

// Encode returns the plan's bytes.
func (p *Plan) Encode() []byte {
	c := coder{buf: make([]byte, 0, 16<<10)}
	c.plan(p)
	return c.buf
}

// Decode fills the plan from what Encode made; it reports whether b was
// complete and nothing more.
func (p *Plan) Decode(b []byte) bool {
	c := coder{buf: b, decode: true}
	c.plan(p)
	return !c.bad && len(c.buf) == 0
}

func (c *coder) num(v *uint64) {
	if !c.decode {
		x := *v
		for ; x >= 0x80; x >>= 7 {
			c.buf = append(c.buf, byte(x)|0x80)
		}
		c.buf = append(c.buf, byte(x))
		return
	}
	*v = 0
	for shift := 0; shift < 64; shift += 7 {
		if len(c.buf) == 0 {
			break
		}
		b := c.buf[0]
		c.buf = c.buf[1:]
		*v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return
		}
	}
	c.bad = true
	*v = 0
}

// length moves a length; what is counted takes at least a byte each, so no
// input makes the decoder allocate much more than its own size.
func (c *coder) length(n int) int {
	v := uint64(n)
	c.num(&v)
	if c.decode && v > uint64(len(c.buf)) {
		c.bad = true
		c.buf = nil
		return 0
	}
	return int(v)
}

func (c *coder) flag(v *bool) {
	var n uint64
	if *v {
		n = 1
	}
	c.num(&n)
	*v = n == 1
}

func (c *coder) str(v *string) {
	n := c.length(len(*v))
	if !c.decode {
		c.buf = append(c.buf, *v...)
		return
	}
	*v = string(c.buf[:n])
	c.buf = c.buf[n:]
}

func list[T any](c *coder, v *[]T, item func(*T)) {
	n := c.length(len(*v))
	if c.decode {
		*v = nil
		if n > 0 {
			*v = make([]T, n)
		}
	}
	for i := range *v {
		item(&(*v)[i])
	}
}

func (c *coder) plan(p *Plan) {
	c.detached(&p.Detached)
	c.num(&p.FDs)
	list(c, &p.Joins, func(j *Join) { c.num(&j.FD); c.num(&j.Flag) })
	c.flag(&p.Time)
	c.str(&p.TimeOffsets)
	c.flag(&p.CgroupNamespace)
	c.str(&p.OOMScoreAdj)
	c.flag(&p.Loopback)
	c.str(&p.Hostname)
	c.str(&p.Domainname)
	c.num(&p.Propagation)
	c.num(&p.RootPropagation)
	list(c, &p.Trees, c.overlay)
	c.overlay(&p.Root)
	list(c, &p.Mounts, c.mount)
	list(c, &p.Devices, c.device)
	list(c, &p.Links, func(l *Link) { c.str(&l.Path); c.str(&l.Target) })
	list(c, &p.Masked, c.str)
	list(c, &p.Frozen, c.str)
	list(c, &p.Sysctls, func(s *Sysctl) { c.str(&s.Path); c.str(&s.Value) })
	c.flag(&p.RootReadonly)
	c.flag(&p.RootNodev)
	c.str(&p.Emulator)
	c.process(&p.Process)
	c.jail(&p.Jail)
}

func (c *coder) detached(p **Detached) {
	there := *p != nil
	c.flag(&there)
	if !there {
		return
	}
	if c.decode {
		*p = new(Detached)
	}
	d := *p
	c.flag(&d.Enter)
	c.str(&d.RootPath)
	c.flag(&d.Sync)
	list(c, &d.CreateHooks, c.hook)
	list(c, &d.StartHooks, c.hook)
	c.str(&d.Creating)
	c.str(&d.Created)
	c.num(&d.Console)
	c.num(&d.Rows)
	c.num(&d.Columns)
	c.num(&d.Gate)
	c.num(&d.Inherit)
}

func (c *coder) hook(h *Hook) {
	c.str(&h.Path)
	list(c, &h.Argv, c.str)
	list(c, &h.Env, c.str)
	c.num(&h.Timeout)
}

func (c *coder) overlay(o *Overlay) {
	list(c, &o.Lower, c.str)
	c.str(&o.Upper)
	c.str(&o.Work)
	c.flag(&o.Recursive)
	c.flag(&o.Classic)
	c.flag(&o.UserXattr)
}

func (c *coder) mount(m *Mount) {
	c.num(&m.Kind)
	c.str(&m.Type)
	c.str(&m.Source)
	c.num(&m.Tree)
	c.str(&m.Dest)
	c.str(&m.Content)
	c.num(&m.Mode)
	c.num(&m.UID)
	c.num(&m.GID)
	list(c, &m.Params, c.str)
	c.num(&m.Set)
	c.num(&m.Clear)
	c.num(&m.RecSet)
	c.num(&m.RecClear)
	c.flag(&m.Recursive)
	c.num(&m.Propagation)
	c.flag(&m.Plain)
	c.flag(&m.Late)
	c.num(&m.FD)
	c.flag(&m.CopyUp)
}

func (c *coder) device(d *Device) {
	c.str(&d.Path)
	c.num(&d.Mode)
	c.num(&d.Rdev)
	c.str(&d.Source)
	c.num(&d.UID)
	c.num(&d.GID)
}

func (c *coder) process(p *Process) {
	list(c, &p.Paths, c.str)
	list(c, &p.Argv, c.str)
	list(c, &p.Env, c.str)
	c.str(&p.Cwd)
	c.num(&p.UID)
	c.num(&p.GID)
	list(c, &p.Groups, c.num)
	c.num(&p.Umask)
	list(c, &p.Rlimits, func(r *Rlimit) { c.num(&r.Resource); c.num(&r.Soft); c.num(&r.Hard) })
	c.num(&p.Bounding)
	c.num(&p.Permitted)
	c.num(&p.Effective)
	c.num(&p.Inheritable)
	c.num(&p.Ambient)
	c.num(&p.LastCap)
	c.flag(&p.NoNewPrivs)
	list(c, &p.Labels, func(l *Label) { c.str(&l.File); c.str(&l.Value) })
	c.num(&p.Personality)
	c.num(&p.IOPriority)
	c.str(&p.Scheduler)
	c.num(&p.MemoryMode)
	list(c, &p.MemoryNodes, c.num)
	list(c, &p.CPUs, c.num)
	c.str(&p.Filter)
	c.num(&p.FilterFlags)
	c.num(&p.Listener)
	c.str(&p.ListenerState)
	c.str(&p.Notify)
	c.num(&p.NotifyFlags)
	c.flag(&p.KeepGroups)
}
