package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/console"

	"bk.build/bk/cmd/bk/enter"
	"bk.build/bk/runner/host"
)

// env is what a command takes from its process.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool) // environment variables

	// inside is how another bk that waits for this one isolated it: the user is
	// then root by name only.
	inside host.Isolation

	root string // --root
}

func processEnv() *env {
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv}
	e.inside = host.Isolation(enter.Isolation())
	return e
}

func (e *env) getenv(name string) string {
	v, _ := e.lookup(name)
	return v
}

// print writes a message for a person to stderr.
func (e *env) print(format string, args ...any) { fmt.Fprintf(e.stderr, format, args...) }

// store returns the store's directory: --root, BK_ROOT, /var/lib/bk for root,
// else the user's data directory.
func (e *env) store() (string, error) {
	switch {
	case e.root != "":
		return filepath.Abs(e.root)
	case e.getenv("BK_ROOT") != "":
		return filepath.Abs(e.getenv("BK_ROOT"))
	case os.Geteuid() == 0 && e.inside == "":
		return "/var/lib/bk", nil
	case filepath.IsAbs(e.getenv("XDG_DATA_HOME")):
		return filepath.Join(e.getenv("XDG_DATA_HOME"), "bk"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no store: set --root, BK_ROOT or HOME")
	}
	return filepath.Join(home, ".local", "share", "bk"), nil
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := console.ConsoleFromFile(f)
	return err == nil
}
