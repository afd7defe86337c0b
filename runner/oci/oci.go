// Package oci is the lifecycle of an OCI runtime: containers that outlive the
// process which made them.
//
// A [Runtime] is a directory of state, with a directory per container. Create
// makes the container of a bundle with package runner and records it; Start
// lets its process go; Exec runs another process in it; Kill, Pause, Resume,
// Update and Delete do what the runtime specification (1.3) says of them. Each
// call may come from another process: what is needed later (the configuration
// as it was, the process and when it started, the control group) is in
// state.json, which is replaced atomically. Calls that change a container hold
// its lock; those that only look, and Kill, don't wait for anybody.
//
// A process is known by its number and its start time, and signalled through a
// descriptor: a number that was given to another process since is never hit.
//
// The package is part of the path on which "bk runtime" starts fast: it imports
// no package of others but the types of the specification (see
// docs/decisions/0009-an-early-runtime.md).
package oci

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers distinguish. Container managers look for the words of
// the first two.
var (
	ErrNotExist   = errors.New("container does not exist")
	ErrNotRunning = errors.New("container not running")
	ErrExist      = errors.New("container with that id exists already")
)

// Status is the state of a container as the specification names it, and
// "paused".
type Status string

// States of a container.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// maxID is the longest name that a directory can have.
const maxID = 255

// CheckID refuses ids that are not a plain name: letters, digits, "_", "+", "-"
// and ".", but neither "." nor "..". An id becomes a directory name and part of
// the name of a control group.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("container id is empty")
	case len(id) > maxID:
		return fmt.Errorf("container id of %d bytes is longer than %d", len(id), maxID)
	case id == "." || id == "..":
		return fmt.Errorf("container id %q is not a name", id)
	}
	for _, c := range []byte(id) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_+-.", c) >= 0) {
			return fmt.Errorf("container id %q: only letters, digits, \"_\", \"+\", \"-\" and \".\" are allowed", id)
		}
	}
	return nil
}
