package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bk.build/bk/builder"
	"bk.build/bk/layout"
	"bk.build/bk/layout/registry"
)

// shutdownTime is how long requests may go on after the signal to end.
const shutdownTime = 10 * time.Second

// serveFlags are those of "bk registry serve".
type serveFlags struct {
	addr, cert, key string
	verbose         bool
	opts            registry.Options
}

func newRegistryServe(e *env) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve DIR",
		Short: "Serve an OCI layout as a registry",
		Long: `Serve an OCI layout as a registry: what is in it can be pulled, and what is
pushed goes into it. DIR is made when it does not exist; "store:" is bk's store,
which is then not pruned until the registry ends.
Others may use the directory at the same time, so "bk build -o type=oci,tar=false,dest=DIR"
beside a running registry publishes what it builds.

"docker.io/library/app:latest" in the layout is served as app:latest,
"example.com/team/app:v1" as team/app:v1, and a tag alone as DIR:TAG, by the name
of the directory. What can be pulled is printed to standard output, a line each,
and the address to standard error. The registry ends with SIGINT or SIGTERM,
which is no failure, once the requests at hand are answered.`,
		Example: `  bk registry serve out
  bk registry serve --addr 127.0.0.1:0 --read-only store:
  bk registry serve --addr :5000 --htpasswd users --tls-cert cert.pem --tls-key key.pem /srv/images`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.addr, "addr", "127.0.0.1:5000", "`HOST:PORT` to listen on; port 0: any that is free")
	flags.BoolVar(&f.opts.ReadOnly, "read-only", false, "refuse pushes and deletes")
	flags.StringVar(&f.opts.Htpasswd, "htpasswd", "", "`FILE` of users with bcrypt passwords (htpasswd -B) that may use the registry")
	flags.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificate to serve TLS with, and those that it depends on")
	flags.StringVar(&f.key, "tls-key", "", "`FILE` with the certificate's private key")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "print each request to standard error")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (f.cert == "") != (f.key == "") {
			return usagef(cmd, "--tls-cert and --tls-key go together")
		}
		return e.serveRegistry(cmd.Context(), args[0], f)
	}
	return cmd
}

func (e *env) serveRegistry(ctx context.Context, arg string, f serveFlags) (err error) {
	dir, release, err := e.servedLayout(arg, f.opts.ReadOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	f.opts.Log = e.logRequest(f.verbose)
	reg, err := registry.New(dir, f.opts)
	if err != nil {
		return err
	}
	server := reg.Server()
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := e.announce(reg, listener.Addr(), f); err != nil {
		return err
	}
	return serveUntil(ctx, server, listener)
}

// servedLayout opens what is served until release is called. Nothing is made for
// reading.
func (e *env) servedLayout(arg string, readOnly bool) (dir *layout.Dir, release func() error, err error) {
	release = func() error { return nil }
	if arg == "store:" {
		if arg, err = e.store(); err != nil {
			return nil, nil, err
		}
		if release, err = builder.Hold(arg); err != nil {
			return nil, nil, err
		}
	}
	arg = strings.TrimPrefix(arg, "oci:")
	if readOnly {
		dir, err = layout.Open(arg)
	} else {
		dir, err = layout.Create(arg)
	}
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return dir, release, nil
}

// announce prints what can be pulled, and from where.
func (e *env) announce(reg *registry.Registry, addr net.Addr, f serveFlags) error {
	tags, err := reg.Tags()
	if err != nil {
		return err
	}
	tcp, ok := addr.(*net.TCPAddr)
	host := addr.String()
	if ok && tcp.IP.IsUnspecified() {
		host = fmt.Sprintf("localhost:%d", tcp.Port)
	}
	for _, t := range tags {
		if _, err := fmt.Fprintf(e.stdout, "%s/%s:%s %s\n", host, t.Repository, t.Tag, t.Descriptor.Digest); err != nil {
			return err
		}
	}
	if ok && !tcp.IP.IsLoopback() && f.opts.Htpasswd == "" {
		what := "pull from, push to and delete from"
		if f.opts.ReadOnly {
			what = "pull from"
		}
		e.print("WARNING: everybody who reaches %s may %s this registry: name users with --htpasswd\n", addr, what)
	}
	scheme := "http"
	if f.cert != "" {
		scheme = "https"
	}
	e.print("registry at %s://%s\n", scheme, addr)
	return nil
}

// serveUntil serves until the context ends, and then until the requests at hand
// are answered, or too much time has passed.
func serveUntil(ctx context.Context, server *http.Server, listener net.Listener) error {
	failed := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			failed <- server.ServeTLS(listener, "", "")
		} else {
			failed <- server.Serve(listener)
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(ending)
	if err != nil {
		err = server.Close() // cuts off what is left
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// logRequest prints each request, or only those that have failed on our side.
func (e *env) logRequest(all bool) func(registry.Request) {
	return func(r registry.Request) {
		if r.Err == nil && !all {
			return
		}
		line := fmt.Sprintf("%s %s %s %s %d %dB %.3fs", r.Remote, orDefault(printable(r.User), "-"), printable(r.Method), printable(r.Path),
			r.Status, r.Bytes, r.Took.Seconds())
		if r.Err != nil {
			line += ": " + printable(r.Err.Error())
		}
		e.print("%s\n", line)
	}
}
