//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"bk.build/bk/dockerfile"
)

// The first signal cancels what runs, and says so with the exit code of the
// signal, whatever error the cancelled work ends with.
func TestSignals(t *testing.T) {
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		ctx, stop := interruptible(t.Context())
		if err := syscall.Kill(syscall.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%v did not cancel", sig)
		}
		e := testEnv(nil, "")
		if got := e.exitCode(ctx, fmt.Errorf("step: %w", context.Canceled)); got != code {
			t.Errorf("%v: exit code %d, want %d", sig, got, code)
		}
		stop()
	}
}

// Exit codes tell a user's mistake, a failed build and a failed check apart
// from success.
func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{io.ErrUnexpectedEOF, 1, "ERROR: unexpected EOF\n"},
		{fmt.Errorf("call: %w", dockerfile.ErrCheck), 1, ""},
		{&usageError{cmd: "bk x", err: io.EOF}, 2, "ERROR: EOF\nRun 'bk x --help' for its flags and arguments.\n"},
	} {
		e := testEnv(nil, "")
		if got := e.exitCode(t.Context(), tt.err); got != tt.code {
			t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.code)
		}
		if got := e.stderr.(*bytes.Buffer).String(); got != tt.text {
			t.Errorf("exitCode(%v) prints %q, want %q", tt.err, got, tt.text)
		}
	}
}

// Waiting for a Dockerfile on standard input ends with the context.
func TestStdinIsInterrupted(t *testing.T) {
	never, w := io.Pipe()
	defer w.Close()
	e := testEnv(nil, "")
	e.stdin = never
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := buildFlags{file: "-", progress: "auto", call: "build"}
	if _, err := f.plan(ctx, e, "."); err == nil {
		t.Error("plan returned without a Dockerfile")
	}
}
