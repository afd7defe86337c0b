package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	protocol "github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	maxAnswer = 1 << 20          // bytes that a helper may print
	keep      = 10 * time.Minute // how long an answer is used
)

// A question is what a helper is asked.
type question struct{ helper, server string }

// An answer is kept, because programs that ask a cloud take their time.
type answer struct {
	mu   sync.Mutex // held while the program runs
	at   time.Time
	auth authn.AuthConfig // empty: it has nothing
	err  error
}

// ask returns what a helper knows about a server; nothing is no error.
func (k *Keychain) ask(ctx context.Context, q question) (authn.AuthConfig, error) {
	k.mu.Lock()
	if k.answers == nil {
		k.answers = map[question]*answer{}
	}
	a := k.answers[q]
	if a == nil {
		a = &answer{}
		k.answers[q] = a
	}
	k.mu.Unlock()

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at.IsZero() || time.Since(a.at) > keep {
		auth, err := k.get(ctx, q)
		if ctx.Err() != nil {
			return auth, err // says nothing about the helper
		}
		a.at, a.auth, a.err = time.Now(), auth, err
	}
	return a.auth, a.err
}

func (k *Keychain) get(ctx context.Context, q question) (authn.AuthConfig, error) {
	out, err := k.run(ctx, q.helper, protocol.ActionGet, []byte(q.server))
	if errors.Is(err, errNotFound) {
		return authn.AuthConfig{}, nil
	}
	if err != nil {
		return authn.AuthConfig{}, err
	}
	var got protocol.Credentials
	if err := json.Unmarshal(out, &got); err != nil {
		return authn.AuthConfig{}, fmt.Errorf("%s answered with something that is not JSON", programName(q.helper))
	}
	return withToken(authn.AuthConfig{Username: got.Username, Password: got.Secret}), nil
}

// errNotFound is a helper's answer that it has no such credential.
var errNotFound = errors.New("credentials not found")

// programName is the program of a helper.
func programName(helper string) string { return "docker-credential-" + helper }

// run runs a helper. What it prints is secret; of what it prints when it fails,
// the beginning is in the error.
func (k *Keychain) run(ctx context.Context, helper, action string, input []byte) ([]byte, error) {
	name := programName(helper)
	if helper == "" || strings.ContainsAny(helper, `/\:`) {
		return nil, fmt.Errorf("%q is not the name of a credential helper", helper)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed: %w", name, err)
	}
	timeout := k.HelperTimeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, stderr := &limitedBuffer{max: maxAnswer}, &limitedBuffer{max: maxAnswer}
	cmd := exec.CommandContext(limited, path, action)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), out, stderr
	cmd.WaitDelay = time.Second // for what it has started and left behind
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s %s: %w", name, action, context.Cause(ctx))
	case limited.Err() != nil:
		return nil, fmt.Errorf("%s %s: no answer after %s", name, action, timeout)
	case out.over || stderr.over:
		return nil, fmt.Errorf("%s %s: it printed more than %d bytes", name, action, maxAnswer)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return out.buf.Bytes(), nil
	case protocol.IsErrCredentialsNotFoundMessage(out.buf.String()):
		return nil, errNotFound
	}
	if said := firstLine(out.buf.Bytes(), stderr.buf.Bytes()); said != "" {
		return nil, fmt.Errorf("%s %s: %w: %s", name, action, err, said)
	}
	return nil, fmt.Errorf("%s %s: %w", name, action, err)
}

// firstLine is what a helper said about its failure, made safe to print: its
// messages are on stdout by the protocol, and on stderr in fact. JSON may hold a
// secret.
func firstLine(outputs ...[]byte) string {
	for _, b := range outputs {
		line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
		if s := string(line); s != "" && !strings.Contains(s, "{") {
			return strconv.Quote(s[:min(len(s), 300)])
		}
	}
	return ""
}

// A limitedBuffer keeps the first bytes, and says whether there were more.
type limitedBuffer struct {
	buf  bytes.Buffer
	max  int
	over bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.max {
		b.over = true
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
