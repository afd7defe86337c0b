package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/remote/credentials"
)

func newLogout(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "logout [HOST[:PORT][/PATH]]",
		Short: "Remove the credentials for a registry",
		Long: `Remove the credentials for a registry, or for a part of it, that bk login or docker
login has stored. Without HOST they are those for Docker Hub. Not to be logged in
is no failure.`,
		Example: "  bk logout ghcr.io\n  bk logout --all",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove the credentials for all registries")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all && len(args) > 0 {
			return usagef(cmd, "--all and a registry exclude each other")
		}
		where, err := registryName(args)
		if err != nil {
			return usage(cmd, err)
		}
		if !all {
			return e.logout(cmd.Context(), e.keychain(), where)
		}
		return e.logoutAll(cmd.Context())
	}
	return cmd
}

func (e *env) logoutAll(ctx context.Context) error {
	keychain := e.keychain()
	names, err := keychain.Logins()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		e.print("Not logged in to any registry\n")
	}
	for _, where := range names {
		err = errors.Join(err, e.logout(ctx, keychain, where))
	}
	return err
}

// logout removes the credentials for exactly this name, and says what is left.
func (e *env) logout(ctx context.Context, keychain *credentials.Keychain, where string) error {
	from, err := keychain.Erase(ctx, where)
	for _, place := range from {
		e.print("Removed the credentials for %s from %s\n", printable(where), printable(place))
	}
	if err != nil {
		return err
	}
	found, err := keychain.Find(ctx, where)
	switch {
	case found != nil && found.Name == where:
		e.print("Still there: %s\n", printable(found.String()))
	case len(from) == 0 && err == nil:
		e.print("Not logged in to %s\n", printable(where))
	}
	return nil
}

// keychain finds and stores credentials.
func (e *env) keychain() *credentials.Keychain {
	return &credentials.Keychain{Getenv: e.getenv}
}
