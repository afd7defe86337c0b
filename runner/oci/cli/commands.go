//go:build linux

package cli

// Command is one command of the runtime.
type Command struct {
	// Use is the name and what follows it.
	Use, Short, Long, Example string
	// MinArgs and MaxArgs bound the number of arguments; MaxArgs -1: any.
	MinArgs, MaxArgs int
	Flags            FlagSet

	do func(c *call, args []string) error
}

// Name returns the command's name.
func (c *Command) Name() string {
	for i := range c.Use {
		if c.Use[i] == ' ' {
			return c.Use[:i]
		}
	}
	return c.Use
}

// global is the flags in front of the command.
type global struct {
	root, log, logFormat, rootless string
	debug, systemdCgroup           bool
}

func (g *global) flags() FlagSet {
	s := FlagSet{first: true}
	g.logFormat, g.rootless = "text", "auto"
	s.string(&g.root, "root", "", "`directory` of the containers' state (default: $XDG_RUNTIME_DIR/bk-runtime, or /run/bk-runtime for root)")
	s.string(&g.log, "log", "", "append errors and warnings to a `file` too")
	s.string(&g.logFormat, "log-format", "", "`format` of the log: \"text\" or \"json\"")
	s.bool(&g.debug, "debug", "", "log what is done as well")
	s.bool(&g.systemdCgroup, "systemd-cgroup", "", "ask systemd for control groups: not supported, an error")
	s.string(&g.rootless, "rootless", "", "`whether` control groups that may not be made are done without: \"true\", \"false\", or \"auto\" for users other than root")
	return s
}

// createFlags are those of create and run.
type createFlags struct {
	bundle, consoleSocket, pidFile string
	preserveFDs                    int
	noPivot, noNewKeyring          bool
	detach, keep                   bool
}

func (f *createFlags) declare(s *FlagSet) {
	f.bundle = "."
	s.string(&f.bundle, "bundle", "b", "`directory` with config.json and the root file system")
	s.string(&f.consoleSocket, "console-socket", "", "unix `socket` that takes the terminal's descriptor")
	s.string(&f.pidFile, "pid-file", "", "`file` to write the process id to")
	s.int(&f.preserveFDs, "preserve-fds", "", "hand `N` more descriptors to the process, from 3 on")
	s.bool(&f.noPivot, "no-pivot", "", "change the root without pivot_root: not supported, an error")
	s.bool(&f.noNewKeyring, "no-new-keyring", "", "keep the caller's session keyring: not supported, an error")
}

// execFlags are those of exec.
type execFlags struct {
	process, pidFile, consoleSocket, user, cwd, cgroup string
	env, caps                                          []string
	groups                                             []string
	tty, detach, noNewPrivs, ignorePaused              bool
	preserveFDs                                        int
}

func (f *execFlags) declare(s *FlagSet) {
	s.first = true
	s.string(&f.process, "process", "p", "`file` with the process as JSON, instead of arguments")
	s.bool(&f.tty, "tty", "t", "give the process a terminal")
	s.bool(&f.detach, "detach", "d", "don't wait for the process")
	s.string(&f.pidFile, "pid-file", "", "`file` to write the process id to")
	s.string(&f.consoleSocket, "console-socket", "", "unix `socket` that takes the terminal's descriptor")
	s.string(&f.user, "user", "u", "`UID[:GID]` of the process")
	s.strings(&f.env, "env", "e", "set a `NAME=VALUE`; it may be repeated")
	s.string(&f.cwd, "cwd", "", "working `directory`")
	s.strings(&f.caps, "cap", "c", "add a `capability`; it may be repeated")
	s.strings(&f.groups, "additional-gids", "g", "add a supplementary `group`; it may be repeated")
	s.bool(&f.noNewPrivs, "no-new-privs", "", "set no_new_privs")
	s.int(&f.preserveFDs, "preserve-fds", "", "hand `N` more descriptors to the process, from 3 on")
	s.bool(&f.ignorePaused, "ignore-paused", "", "don't refuse a paused container")
	s.string(&f.cgroup, "cgroup", "", "control `group` below the container's: not supported, an error")
}

// updateFlags are those of update.
type updateFlags struct {
	resources string

	memory, reservation, swap                     *int64
	cpuShares, cpuQuota, cpuPeriod, cpuBurst      *int64
	cpuRealtimePeriod, cpuRealtimeRuntime, cpuIdl *int64
	blkioWeight, pids                             *int64
	cpus, mems                                    string
	memoryText, reservationText, swapText         string
}

func (f *updateFlags) declare(s *FlagSet) {
	s.string(&f.resources, "resources", "r", "`file` with the limits as in linux.resources; \"-\": standard input")
	s.string(&f.memoryText, "memory", "", "memory limit in `bytes`, or with k, m, g; -1: none")
	s.string(&f.reservationText, "memory-reservation", "", "memory reservation in `bytes`")
	s.string(&f.swapText, "memory-swap", "", "limit of memory and swap in `bytes`; -1: none")
	s.number(&f.cpuShares, "cpu-shares", "`share` of the processors against others")
	s.number(&f.cpuQuota, "cpu-quota", "`microseconds` of processor time in a period")
	s.number(&f.cpuPeriod, "cpu-period", "length of a period in `microseconds`")
	s.number(&f.cpuBurst, "cpu-burst", "`microseconds` above the quota that may be saved up")
	s.number(&f.cpuRealtimePeriod, "cpu-rt-period", "length of a period for real-time processes in `microseconds`")
	s.number(&f.cpuRealtimeRuntime, "cpu-rt-runtime", "`microseconds` for real-time processes in a period")
	s.number(&f.cpuIdl, "cpu-idle", "1: scheduled only when nobody else wants to, `0` or 1")
	s.string(&f.cpus, "cpuset-cpus", "", "`list` of processors")
	s.string(&f.mems, "cpuset-mems", "", "`list` of memory nodes")
	s.number(&f.blkioWeight, "blkio-weight", "`weight` of block input and output, 10 to 1000")
	s.number(&f.pids, "pids-limit", "most `processes`; -1: no limit")
}

const createLong = `
The container's configuration is the bundle's config.json. Its standard streams
are those of this command, or a terminal whose descriptor goes to the console
socket.`

// commands returns the commands in the order of the help.
func commands() []*Command {
	list := []*Command{createCommand(), startCommand(), runCommand(), execCommand(), stateCommand(), killCommand(), deleteCommand()}
	return append(list, listCommand(), psCommand(), pauseCommand(), resumeCommand(), updateCommand(), eventsCommand(), featuresCommand())
}

func createCommand() *Command {
	var f createFlags
	c := &Command{
		Use: "create [flags] ID", Short: "Create a container; its process waits for start",
		Long:    "Create makes a container and stops just before its process is executed." + createLong,
		Example: "  bk runtime create --bundle DIR --pid-file pid web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.create(&f, args[0]) },
	}
	f.declare(&c.Flags)
	return c
}

func startCommand() *Command {
	return &Command{
		Use: "start ID", Short: "Execute the process of a created container",
		Example: "  bk runtime start web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.start(args[0]) },
	}
}

func runCommand() *Command {
	var f createFlags
	c := &Command{
		Use: "run [flags] ID", Short: "Create and start a container, wait for it and delete it",
		Long:    "Run is create, start and, when the process has ended, delete. The exit code is the\nprocess's; 128+N when signal N ended it." + createLong,
		Example: "  bk runtime run -b DIR web\n  bk runtime run -d -b DIR --pid-file pid web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.runContainer(&f, args[0]) },
	}
	f.declare(&c.Flags)
	c.Flags.bool(&f.detach, "detach", "d", "don't wait for the process")
	c.Flags.bool(&f.keep, "keep", "", "don't delete the container when its process has ended")
	return c
}

func execCommand() *Command {
	var f execFlags
	c := &Command{
		Use: "exec [flags] ID [COMMAND [ARG...]]", Short: "Run another process in a container",
		Long:    "Exec runs a process in a container that is running, with its environment, user and\nrights unless flags say otherwise. The exit code is the process's.",
		Example: "  bk runtime exec -t web sh\n  bk runtime exec -u 1000:1000 -e LANG=C web id\n  bk runtime exec --process process.json -d --pid-file pid web",
		MinArgs: 1, MaxArgs: -1,
		do: func(c *call, args []string) error { return c.exec(&f, args[0], args[1:]) },
	}
	f.declare(&c.Flags)
	return c
}

func stateCommand() *Command {
	return &Command{
		Use: "state ID", Short: "Print the state of a container as JSON",
		Example: "  bk runtime state web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.state(args[0]) },
	}
}

func killCommand() *Command {
	var all bool
	c := &Command{
		Use: "kill [flags] ID [SIGNAL]", Short: "Send a signal to the process of a container",
		Long:    "Kill sends a signal, by name or number; SIGTERM unless another is given.",
		Example: "  bk runtime kill web KILL\n  bk runtime kill --all web TERM",
		MinArgs: 1, MaxArgs: 2,
		do: func(c *call, args []string) error { return c.kill(all, args) },
	}
	c.Flags.bool(&all, "all", "a", "send it to all processes of the container")
	return c
}

func deleteCommand() *Command {
	var force bool
	c := &Command{
		Use: "delete [flags] ID...", Short: "Delete stopped containers",
		Example: "  bk runtime delete web\n  bk runtime delete --force web",
		MinArgs: 1, MaxArgs: -1,
		do: func(c *call, args []string) error { return c.delete(force, args) },
	}
	c.Flags.bool(&force, "force", "f", "kill what is running; a container that is not there is no error")
	return c
}

func listCommand() *Command {
	var quiet bool
	format := "table"
	c := &Command{
		Use: "list [flags]", Short: "List the containers",
		Example: "  bk runtime list\n  bk runtime list -f json",
		do:      func(c *call, _ []string) error { return c.list(format, quiet) },
	}
	c.Flags.string(&format, "format", "f", "`format`: \"table\" or \"json\"")
	c.Flags.bool(&quiet, "quiet", "q", "print ids only")
	return c
}

func psCommand() *Command {
	format := "table"
	c := &Command{
		Use: "ps [flags] ID [PS-OPTION...]", Short: "List the processes of a container",
		Long:    "Ps prints the lines of ps(1) that are of the container, or the process ids as JSON.",
		Example: "  bk runtime ps web\n  bk runtime ps -f json web",
		MinArgs: 1, MaxArgs: -1,
		do: func(c *call, args []string) error { return c.ps(format, args[0], args[1:]) },
	}
	c.Flags.first = true
	c.Flags.string(&format, "format", "f", "`format`: \"table\" or \"json\"")
	return c
}

func pauseCommand() *Command {
	return &Command{
		Use: "pause ID", Short: "Stop all processes of a container where they are",
		Example: "  bk runtime pause web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.rt.Pause(args[0]) },
	}
}

func resumeCommand() *Command {
	return &Command{
		Use: "resume ID", Short: "Let a paused container go on",
		Example: "  bk runtime resume web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.rt.Resume(args[0]) },
	}
}

func updateCommand() *Command {
	var f updateFlags
	c := &Command{
		Use: "update [flags] ID", Short: "Change the limits of a container",
		Example: "  bk runtime update --memory 512m --pids-limit 100 web\n  bk runtime update -r resources.json web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.update(&f, args[0]) },
	}
	f.declare(&c.Flags)
	return c
}

func eventsCommand() *Command {
	var stats bool
	interval := "5s"
	c := &Command{
		Use: "events [flags] ID", Short: "Print what a container uses, as JSON",
		Long:    "Events prints what the container uses in intervals until it ends, and a line when it\nruns out of memory.",
		Example: "  bk runtime events --stats web",
		MinArgs: 1, MaxArgs: 1,
		do: func(c *call, args []string) error { return c.events(stats, interval, args[0]) },
	}
	c.Flags.bool(&stats, "stats", "", "print once and end")
	c.Flags.string(&interval, "interval", "", "`time` between two lines")
	return c
}

func featuresCommand() *Command {
	return &Command{
		Use: "features", Short: "Print what this runtime can do, as JSON",
		Example: "  bk runtime features",
		do:      func(c *call, _ []string) error { return c.features() },
	}
}
