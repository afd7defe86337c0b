package host

// Report is what a machine allows to a process, and what follows from it.
type Report struct {
	// Isolation is what a build gets; empty: steps cannot run.
	Isolation Isolation `json:"isolation"`
	// Overlay reports whether layers are mounted over each other where the
	// store is. Otherwise steps run in copies of them.
	Overlay bool `json:"overlay"`
	// Checks are the findings, in the order in which they are shown.
	Checks []Check `json:"checks"`
	// Modes are all isolations, the strongest first.
	Modes []Mode `json:"modes"`
}

// Check is one finding.
type Check struct {
	ID    string `json:"id"`    // such as "user-namespaces"
	Title string `json:"title"` // for people
	OK    bool   `json:"ok"`
	// Detail says what was found, or why it's not there.
	Detail string `json:"detail,omitempty"`
	// Fix lists what would allow it: commands, or fields of a pod. Any one of
	// them does.
	Fix []string `json:"fix,omitempty"`
}

// Mode is whether an isolation can be had.
type Mode struct {
	Isolation Isolation `json:"isolation"`
	OK        bool      `json:"ok"`
	// Missing are the ids of checks that stand in the way.
	Missing []string `json:"missing,omitempty"`
}

// Options say where to look.
type Options struct {
	// Store is the store's directory; it need not exist.
	Store string
	// Emulators are directories searched for emulators before PATH.
	Emulators []string
}

// check returns a finding by its id.
func (r *Report) check(id string) *Check {
	for i := range r.Checks {
		if r.Checks[i].ID == id {
			return &r.Checks[i]
		}
	}
	return &Check{ID: id, Title: id}
}

// settle decides which isolations can be had.
func (r *Report) settle() {
	r.Overlay = r.check("overlay").OK
	single := []string{"user-namespaces", "proc", "user-notification"}
	if r.check("mounts").OK {
		single = single[1:] // it is in such a namespace, or needs none
	}
	for _, m := range []struct {
		isolation Isolation
		needs     []string
	}{
		{Root, []string{"mounts", "ids", "proc"}},
		{Rootless, []string{"user-namespaces", "subordinate-ids", "proc"}},
		{SingleID, single},
		{Chroot, []string{"change-root"}},
	} {
		mode := Mode{Isolation: m.isolation, OK: true}
		for _, id := range m.needs {
			if !r.check(id).OK {
				mode.OK = false
				mode.Missing = append(mode.Missing, id)
			}
		}
		r.Modes = append(r.Modes, mode)
		if mode.OK && r.Isolation == "" {
			r.Isolation = m.isolation
		}
	}
}

// Why returns the findings that stand in the way of an isolation; none when it
// can be had.
func (r *Report) Why(i Isolation) []Check {
	var list []Check
	for _, m := range r.Modes {
		if m.Isolation != i {
			continue
		}
		for _, id := range m.Missing {
			list = append(list, *r.check(id))
		}
	}
	return list
}

// Advice returns the findings that are worth a change: those that stand in the
// way of a stronger isolation, and of what builds are slower or weaker without.
func (r *Report) Advice() []Check {
	ids := map[string]bool{"overlay": true, "emulators": true, "cgroups": true, "landlock": r.Isolation == Chroot, "disk": true}
	for _, m := range r.Modes {
		if r.Isolation.Satisfies(m.Isolation) {
			continue
		}
		for _, id := range m.Missing {
			ids[id] = true
		}
	}
	var list []Check
	for _, c := range r.Checks {
		if !c.OK && ids[c.ID] && len(c.Fix) > 0 {
			list = append(list, c)
		}
	}
	return list
}

// rank orders isolations by what they keep apart. Root and rootless give steps
// the same.
func (i Isolation) rank() int {
	switch i {
	case Chroot:
		return 1
	case SingleID:
		return 2
	case Rootless, Root:
		return 3
	}
	return 0
}

// Satisfies reports whether the isolation is at least as strong as another:
// chroot < single-id < rootless = root.
func (i Isolation) Satisfies(required Isolation) bool { return i.rank() >= required.rank() }
