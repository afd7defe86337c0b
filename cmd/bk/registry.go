package main

import "github.com/spf13/cobra"

func newRegistry(e *env) *cobra.Command {
	return group("registry", "List, mirror and serve registries", "  bk registry tags docker.io/library/alpine\n  bk registry sync mirror.yaml\n  bk registry serve out",
		newRegistryLs(e), newRegistryTags(e), newRegistrySync(e), newRegistryServe(e))
}
