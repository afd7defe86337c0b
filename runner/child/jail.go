package child

// Jail is how a step runs without namespaces: below a changed root.
//
//	runner                              child
//	------                              -----
//	start it                       -->  the reaper of all that the step leaves
//	write the encoded Plan         -->  read it
//	                                    fork: chroot, rights, Landlock, seccomp, execve
//	                               <--  ReportFailure
//	write signal numbers           -->  kill(step)
//	close its side                 -->  kill the step and all that came from it, end
//	                               <--  ReportExit (wait status), after the same
//
// The child isn't killed with the runner: the end of the stream tells it, and it
// ends the step's processes first.
type Jail struct {
	// Root is the step's root directory. Empty: there is no jail.
	Root string
	// Landlock is the version of the kernel's interface that is used; 0: none.
	Landlock uint64
	// ReadOnly lets the step write nowhere. It needs Landlock.
	ReadOnly bool
}

func (c *coder) jail(j *Jail) {
	c.str(&j.Root)
	c.num(&j.Landlock)
	c.flag(&j.ReadOnly)
}
