// Package early takes over processes that are an OCI runtime before the rest
// of the program is initialised.
//
// Container managers start a runtime several times for each container, and
// what a program of this size initialises takes longer than what the runtime
// does. Packages that are ready are initialised in the order of their paths,
// and this one's comes before those of others
// (docs/decisions/0009-an-early-runtime.md).
package early

import (
	"os"

	"bk.build/bk/runner/oci/cli"
)

// init runs a command of the runtime and ends the process, or returns at once
// when the process is something else.
func init() {
	if args, ok := cli.Arguments(os.Args); ok && cli.Complete(args) {
		os.Exit(cli.Main(args)) //nolint:forbidigo // it takes the place of main
	}
}
