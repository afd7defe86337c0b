package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// runHooks runs hooks in this process's namespaces, one after the other; the
// first that fails ends it.
func (c *container) runHooks(name string, hooks []specs.Hook, status Status) error {
	if len(hooks) == 0 {
		return nil
	}
	state, err := json.Marshal(c.specState(status))
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if err := runHook(h, state); err != nil {
			return fmt.Errorf("%s hook %s: %w", name, h.Path, err)
		}
	}
	return nil
}

// maxHookOutput is how many bytes of a failed hook's output are shown.
const maxHookOutput = 4 << 10

// runHook runs one hook with the state on its standard input and nothing of
// this process's environment.
func runHook(h specs.Hook, state []byte) error {
	ctx := context.Background()
	if h.Timeout != nil {
		limited, cancel := context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
		ctx = limited
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Args, cmd.Env = h.Args, h.Env
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // and not ours
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), &out, &out
	// What it left running may keep its output open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil || err == exec.ErrWaitDelay {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %d s", *h.Timeout)
	}
	said := bytes.TrimSpace(out.Bytes())
	if len(said) > maxHookOutput {
		said = said[len(said)-maxHookOutput:]
	}
	if len(said) > 0 {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}
