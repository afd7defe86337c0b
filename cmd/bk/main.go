// Command bk builds and moves container images.
//
// One file holds one command: it reads flags, calls the packages that do the
// work, and prints. What a process takes from outside is in [env], so that a
// test can run a command in its own process.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/moby/buildkit/solver/errdefs"

	"bk.build/bk/builder"
	"bk.build/bk/dockerfile"
	_ "bk.build/bk/runner/child"     // takes over the processes that steps run in
	_ "bk.build/bk/runner/oci/early" // takes over the processes that are an OCI runtime
)

// Exit codes. "bk --help" lists them.
const (
	exitOK          = 0
	exitFailed      = 1   // the build or the command failed; a check found warnings
	exitUsage       = 2   // unknown flag, wrong argument
	exitHungUp      = 129 // SIGHUP: the terminal is gone
	exitInterrupted = 130 // SIGINT; SIGTERM: 143
	exitTerminated  = 143
)

// Large builds keep tens of megabytes to their end, small ones next to nothing.
// A small command ends before its heap has grown to the limit of the first
// collection, in percent of the 4 MB that Go starts with, and never collects.
// After that a low percentage saves memory for the large ones; the ballast, which
// is counted by the collector but never touched and so takes no memory, keeps the
// others from collecting all the time.
const (
	gcFirst   = 200
	gcPercent = 18
	gcBallast = 12 << 20
)

func main() {
	debug.SetGCPercent(gcFirst)
	var ballast []byte
	runtime.AddCleanup(new([64]byte), func(b *[]byte) { // at the first collection
		*b = make([]byte, gcBallast)
		debug.SetGCPercent(gcPercent)
	}, &ballast)
	code := run(arguments(os.Args), processEnv())
	runtime.KeepAlive(&ballast)
	os.Exit(code)
}

// arguments returns the command line without the program's name, which may be
// "bk-runtime".
func arguments(argv []string) []string {
	if args, ok := runtimeArguments(argv); ok {
		return append([]string{"runtime"}, args...)
	}
	return argv[1:]
}

// run runs one command line and returns its exit code.
func run(args []string, e *env) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return e.exitCode(ctx, err)
}

// exitCode reports err, if there is one, and says how the process ends.
func (e *env) exitCode(ctx context.Context, err error) int {
	var sig *signalError
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(context.Cause(ctx), &sig):
		e.print("ERROR: %s\n", sig)
		return sig.code()
	case errors.Is(err, dockerfile.ErrCheck), errors.Is(err, errFound):
		return exitFailed // what there is to say is printed
	case errors.As(err, &usage):
		e.print("ERROR: %s\n", usage)
		return exitUsage
	}
	_ = dockerfile.Describe(e.stderr, withSources(err))
	return exitFailed
}

// withSources adds to a failed step the lines of the Dockerfile that it is
// from.
func withSources(err error) error {
	var step *builder.StepError
	if !errors.As(err, &step) || step.Vertex == nil {
		return err
	}
	for _, s := range step.Vertex.Sources {
		err = errdefs.WithSource(err, &errdefs.Source{Info: s.Info, Ranges: s.Ranges})
	}
	return err
}

// usageError is a command line that cannot be understood.
type usageError struct {
	cmd string // the command whose help explains it
	err error
}

func (u *usageError) Error() string {
	return u.err.Error() + "\nRun '" + u.cmd + " --help' for its flags and arguments."
}

func (u *usageError) Unwrap() error { return u.err }

// signalError is the cause of a context that a signal has cancelled.
type signalError struct{ sig os.Signal }

func (s *signalError) Error() string { return "stopped by signal: " + s.sig.String() }

func (s *signalError) code() int {
	switch s.sig {
	case syscall.SIGTERM:
		return exitTerminated
	case syscall.SIGHUP:
		return exitHungUp
	}
	return exitInterrupted
}

// echo is how soon after a signal another one is the same one again: a terminal
// and timeout(1) signal a whole process group, and the process that waits for a
// bk in a user namespace passes on what it got.
const echo = 100 * time.Millisecond

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP
// cancels. The second ends the process at once. Who started it under nohup
// wants it to go on without a terminal.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		var last time.Time
		for sig := range signals {
			now := time.Now()
			if ctx.Err() != nil && now.Sub(last) > echo {
				os.Exit((&signalError{sig}).code())
			}
			last = now
			cancel(&signalError{sig})
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}
