package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/console"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"bk.build/bk/layout/remote/credentials"
)

// maxPassword is the longest password or token, in bytes.
const maxPassword = 64 << 10

type loginOptions struct {
	reach
	user, password string
	stdin          bool // --password-stdin
}

func newLogin(e *env) *cobra.Command {
	var opts loginOptions
	cmd := &cobra.Command{
		Use:   "login [HOST[:PORT][/PATH]]",
		Short: "Log in to a registry",
		Long: `Log in to a registry, or to a part of it: the credentials for HOST/PATH are used
for the repositories below it. Without HOST it is Docker Hub.

The credentials are shown to the registry first. When it accepts them they are
stored where docker login stores them: with the credential helper that
~/.docker/config.json names, else in that file. Without --username those that are
stored already are checked.`,
		Example: `  bk login
  echo "$TOKEN" | bk login --username me --password-stdin ghcr.io
  bk login registry.example:5000/team`,
		Args: cobra.MaximumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.user, "username", "u", "", "user `NAME`")
	flags.StringVarP(&opts.password, "password", "p", "", "password or access token; other users of the machine can see it")
	flags.BoolVar(&opts.stdin, "password-stdin", false, "read the password from stdin")
	opts.register(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case opts.stdin && flags.Changed("password"):
			return usagef(cmd, "--password and --password-stdin exclude each other")
		case opts.stdin && opts.user == "":
			return usagef(cmd, "--password-stdin needs --username")
		case flags.Changed("username") && opts.user == "":
			return usagef(cmd, "--username is empty")
		case flags.Changed("password") && opts.password == "":
			return usagef(cmd, "--password is empty")
		}
		where, err := registryName(args)
		if err != nil {
			return usage(cmd, err)
		}
		return e.login(cmd.Context(), where, opts)
	}
	return cmd
}

// registryName is the registry, or the part of one, that an argument names:
// "https://HOST/v1/" and the like mean HOST.
func registryName(args []string) (string, error) {
	if len(args) == 0 {
		return credentials.Canonical("docker.io"), nil
	}
	where := credentials.Canonical(args[0])
	host, path, _ := strings.Cut(where, "/")
	_, err := name.NewRegistry(host, name.StrictValidation)
	if err == nil && path != "" {
		_, err = name.NewRepository(where)
	}
	if err != nil || host == "" {
		return "", fmt.Errorf("registry %q: want HOST[:PORT][/PATH], without tag or digest", args[0])
	}
	return where, nil
}

func (e *env) login(ctx context.Context, where string, opts loginOptions) error {
	keychain := e.keychain()
	if opts.user == "" && opts.password == "" {
		if done, err := e.loginStored(ctx, keychain, where, opts); done || err != nil {
			return err
		}
	}
	auth, err := e.askCredentials(ctx, where, opts)
	if err != nil {
		return fmt.Errorf("log in to %s: %w", where, err)
	}
	if err := e.tryLogin(ctx, where, opts, auth); err != nil {
		return err
	}
	stored, err := keychain.Store(ctx, where, auth)
	if err != nil {
		return withoutSecret(err, auth.Password)
	}
	e.print("Login succeeded: user %s for %s, stored in %s\n", printable(auth.Username), where, printable(stored.Where))
	if stored.Plain {
		e.print("WARNING: the password is not encrypted there; a credential helper (\"credsStore\" in that file) would do that.\n")
	}
	e.warnShadowed(ctx, keychain, where, auth)
	return nil
}

// loginStored checks the credentials that are stored, if there are any. When
// they are refused and a person is there to ask, they are not the last word.
func (e *env) loginStored(ctx context.Context, keychain *credentials.Keychain, where string, opts loginOptions) (bool, error) {
	found, err := keychain.Find(ctx, where)
	if found == nil || err != nil {
		return false, err
	}
	auth, err := found.AuthorizationContext(ctx)
	if err != nil {
		return false, err
	}
	if err := e.tryLogin(ctx, where, opts, *auth); err != nil {
		err = fmt.Errorf("%w (%s)", err, printable(found.String()))
		if terminal(e.stdin) == nil {
			return false, err
		}
		e.print("%v\n", err)
		return false, nil
	}
	e.print("Already logged in: %s\n", printable(found.String()))
	return true, nil
}

// tryLogin shows credentials to a registry.
func (e *env) tryLogin(ctx context.Context, where string, opts loginOptions, auth authn.AuthConfig) error {
	client := e.remote(&opts.reach)
	defer client.Close()
	client.Notify = func(s string) { e.print("%s\n", s) }
	place, err := client.Hosts.Destination(where)
	if err != nil {
		return err
	}
	if place.Insecure {
		client.Insecure = append(client.Insecure, place.Registry)
	}
	return withoutSecret(client.Login(ctx, where, auth), auth.Password)
}

// warnShadowed says when what was stored is not what will be used.
func (e *env) warnShadowed(ctx context.Context, keychain *credentials.Keychain, where string, auth authn.AuthConfig) {
	found, err := keychain.Find(ctx, where)
	if err != nil || found == nil {
		return
	}
	if used, err := found.AuthorizationContext(ctx); err == nil && *used != auth {
		e.print("WARNING: it will not be used: %s comes first.\n", printable(found.String()))
	}
}

// withoutSecret is err, without the secret that a registry or a helper may have
// repeated in its answer.
func withoutSecret(err error, secret string) error {
	if err == nil || secret == "" || !strings.Contains(err.Error(), secret) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), secret, "********"))
}

// askCredentials completes what the flags say.
func (e *env) askCredentials(ctx context.Context, where string, opts loginOptions) (authn.AuthConfig, error) {
	auth := authn.AuthConfig{Username: opts.user, Password: opts.password}
	if opts.password != "" {
		e.print("WARNING: other users of the machine can see a password on the command line; use --password-stdin.\n")
	}
	var err error
	switch tty := terminal(e.stdin); {
	case opts.stdin:
		auth.Password, err = readPassword(e.stdin)
	case opts.password != "" && opts.user != "":
	case tty == nil:
		return auth, errors.New("stdin is not a terminal: give --username and --password-stdin")
	default:
		err = e.prompt(ctx, tty, where, &auth)
	}
	if err == nil && auth.Username == "" {
		err = errors.New("the user name is empty")
	}
	if err == nil && auth.Password == "" {
		err = errors.New("the password is empty")
	}
	return auth, err
}

// readPassword reads all of r, but for the line's end that echo adds.
func readPassword(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if len(b) > maxPassword {
		return "", fmt.Errorf("the password has more than %d bytes", maxPassword)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

// terminal is the terminal that r is, or nil.
func terminal(r io.Reader) console.Console {
	f, ok := r.(*os.File)
	if !ok {
		return nil
	}
	c, err := console.ConsoleFromFile(f)
	if err != nil {
		return nil
	}
	return c
}

// prompt asks a person for what is missing. The password is not shown. When ctx
// ends, the terminal is as it was before.
func (e *env) prompt(ctx context.Context, tty console.Console, where string, auth *authn.AuthConfig) (err error) {
	lines := bufio.NewReader(io.LimitReader(tty, 2*maxPassword))
	if auth.Username == "" {
		e.print("User name for %s: ", where)
		if auth.Username, err = readLine(ctx, lines); err != nil {
			return err
		}
	}
	if auth.Password != "" {
		return nil
	}
	if err := tty.DisableEcho(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tty.Reset()) }()
	e.print("Password of %s for %s: ", printable(auth.Username), where)
	auth.Password, err = readLine(ctx, lines)
	e.print("\n")
	return err
}

// readLine reads one line, or gives up when ctx ends; the reader then must not
// be used any more.
func readLine(ctx context.Context, r *bufio.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := r.ReadString('\n')
		done <- result{line, err}
	}()
	select {
	case got := <-done:
		if got.err != nil && (got.line == "" || !errors.Is(got.err, io.EOF)) {
			return "", got.err
		}
		return strings.TrimRight(got.line, "\r\n"), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
