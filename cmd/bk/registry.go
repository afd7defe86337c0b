package main

import "github.com/spf13/cobra"

func newRegistry(e *env) *cobra.Command {
	return group("registry", "Serve layouts as registries", "  bk registry serve out",
		newRegistryServe(e))
}
