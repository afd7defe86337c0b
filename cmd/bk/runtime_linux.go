package main

import (
	"fmt"
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/runner/oci/cli"
)

// runtimeArguments returns the arguments of "bk-runtime".
func runtimeArguments(argv []string) ([]string, bool) { return cli.Arguments(argv) }

const runtimeLong = `An OCI runtime (runtime-spec 1.3) with runc's command line. Container managers
take it for runc or crun when they are given a link to bk named bk-runtime: the
arguments of such a link are those after "bk runtime".

Exit codes: 0 done, 1 failed, 2 wrong usage; of run and exec those of the
container's process, and 255 when exec could not execute it.`

// newRuntime returns the commands of the OCI runtime as far as help goes.
// They run before the program gets here, all but spec: see package early.
func newRuntime(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runtime",
		Short: "Run containers of bundles, as container managers need it",
		Long:  runtimeLong,
		Example: `  bk runtime spec --bundle web docker.io/library/nginx
  bk runtime run --bundle web web1
  ln -s /usr/bin/bk /usr/local/bin/bk-runtime
  podman --runtime /usr/local/bin/bk-runtime run --rm alpine id`,
		Args: cobra.ArbitraryArgs,
	}
	version := false
	line := cli.New()
	addFlags(cmd.Flags(), line.Global)
	cmd.Flags().BoolVarP(&version, "version", "v", false, "print the versions of this runtime and of the specification")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case version:
			return e.runtimeVersion()
		case len(args) > 0:
			return usagef(cmd, "unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return usagef(cmd, "a command is missing: one of %s", childNames(cmd))
	}
	for _, c := range line.Commands {
		cmd.AddCommand(runtimeCommand(c))
	}
	cmd.AddCommand(newRuntimeSpec(e))
	return cmd
}

// runtimeCommand is the help of a command. What runs it is package early, which
// only looks for "runtime" as the first argument.
func runtimeCommand(c *cli.Command) *cobra.Command {
	cmd := &cobra.Command{Use: c.Use, Short: c.Short, Long: c.Long, Example: c.Example, DisableFlagsInUseLine: true}
	addFlags(cmd.Flags(), c.Flags)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return usagef(cmd, "\"runtime\" must be the first argument: bk's own flags mean nothing to it")
	}
	return cmd
}

// addFlags adds the runtime's flags to cobra's.
func addFlags(set *pflag.FlagSet, flags cli.FlagSet) {
	for _, f := range flags.Flags {
		p := set.VarPF(f, f.Name, f.Short, f.Usage)
		if f.Bool {
			p.NoOptDefVal = "true"
		}
	}
}

// runtimeVersion prints what container managers parse.
func (e *env) runtimeVersion() error {
	v := readVersion()
	lines := []string{cli.Program + " version " + v.Version}
	if v.Commit != "" {
		lines = append(lines, "commit: "+v.Commit)
	}
	lines = append(lines, "spec: "+specs.Version, "go: "+runtime.Version())
	_, err := fmt.Fprintln(e.stdout, strings.Join(lines, "\n"))
	return err
}
