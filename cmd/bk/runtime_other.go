//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// runtimeArguments returns false: the OCI runtime is for Linux.
func runtimeArguments([]string) ([]string, bool) { return nil, false }

func newRuntime(*env) *cobra.Command {
	return &cobra.Command{
		Use: "runtime", Short: "Run containers of bundles (Linux)", Hidden: true, Args: cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error { return errors.New("runtime: an OCI runtime needs Linux") },
	}
}
