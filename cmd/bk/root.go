package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot returns the command tree.
func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "bk",
		Short: "Build and move container images",
		Long: `bk turns a Dockerfile into OCI images for one or many platforms, without a daemon,
and moves images and artifacts between registries, layouts, archives and daemons.

Exit codes: 0 done, 1 failed or a check found warnings, 2 wrong usage,
129 terminal lost (SIGHUP), 130 interrupted (SIGINT), 143 terminated (SIGTERM).`,
		Example: `  bk build -t app .
  bk build --platform linux/amd64,linux/arm64 --push -t registry.example/app:v1 .
  bk copy --referrers registry.example/app:v1 oci:out:v1
  bk image ls`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.PersistentFlags().StringVar(&e.root, "root", "", "directory of the store (default: $BK_ROOT, or /var/lib/bk for root, or $XDG_DATA_HOME/bk)")
	root.PersistentFlags().SortFlags = false
	root.AddCommand(newBuild(e), newPush(e), newPull(e), newCopy(e), newImage(e), newCache(e), newRegistry(e), newArtifact(e), newManifest(e), newLogin(e), newLogout(e), newRuntime(e), newDoctor(e), newVersion(e))
	adoptErrors(root)
	return root
}

// group returns a command that only holds others.
func group(name, short, example string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Example: example, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef(cmd, "unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return usagef(cmd, "a command is missing: one of %s", childNames(cmd))
	}
	cmd.AddCommand(children...)
	return cmd
}

func childNames(cmd *cobra.Command) string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return strings.Join(names, ", ")
}

// adoptErrors makes what is wrong with flags and the number of arguments a
// usageError, in the whole tree.
func adoptErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return usage(cmd, check(cmd, args)) }
	}
	for _, c := range cmd.Commands() {
		adoptErrors(c)
	}
}

// usage makes err, unless it is nil, an error of the command line.
func usage(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return &usageError{cmd: cmd.CommandPath(), err: err}
}

// usagef is usage for a new error.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usage(cmd, fmt.Errorf(format, args...))
}
