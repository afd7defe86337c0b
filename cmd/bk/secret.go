package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"bk.build/bk/builder"
)

// maxSecret is the largest secret, in bytes; it is BuildKit's limit.
const maxSecret = 500 << 10

// secrets parses every value of --secret and checks that the secret is there.
func (e *env) secrets(values []string) (map[string]builder.Secret, error) {
	all := map[string]builder.Secret{}
	for _, v := range values {
		id, secret, err := e.parseSecret(v)
		if err == nil {
			err = e.checkSecret(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", v, err)
		}
		all[id] = secret
	}
	return all, nil
}

// parseSecret parses "id=ID[,src=FILE|,env=VAR][,type=file|env]". An id alone
// names the variable, if it is set, else the file of that name.
func (e *env) parseSecret(value string) (id string, s builder.Secret, err error) {
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return "", s, err
	}
	attrs, err := keyValues(fields)
	if err != nil {
		return "", s, err
	}
	src := attrs["source"]
	for key, v := range attrs {
		switch key {
		case "id", "source", "env", "type":
		case "src":
			src = v
		default:
			return "", s, fmt.Errorf("unknown field %q: want id, src, env or type", key)
		}
	}
	s, err = e.secretSource(attrs["id"], src, attrs["env"], attrs["type"])
	return attrs["id"], s, err
}

func (e *env) secretSource(id, src, variable, kind string) (builder.Secret, error) {
	if kind == "env" && variable == "" {
		src, variable = "", src
	}
	_, set := e.lookup(id)
	switch {
	case kind != "" && kind != "file" && kind != "env":
		return builder.Secret{}, fmt.Errorf("type %q: must be file or env", kind)
	case id == "":
		return builder.Secret{}, errors.New("id is missing")
	case src != "" && variable != "":
		return builder.Secret{}, errors.New("has both src and env")
	case variable != "":
		return builder.Secret{Env: variable}, nil
	case src != "":
		return builder.Secret{File: src}, nil
	case kind == "env" || kind == "" && set:
		return builder.Secret{Env: id}, nil
	}
	return builder.Secret{File: id}, nil
}

// checkSecret finds out early what would fail at the step that needs it.
func (e *env) checkSecret(s builder.Secret) error {
	if s.Env != "" {
		v, ok := e.lookup(s.Env)
		if !ok {
			return fmt.Errorf("environment variable %s is not set", s.Env)
		}
		return checkSecretSize(int64(len(v)))
	}
	info, err := os.Stat(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file %q: %w", s.File, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("file %q: is a directory", s.File)
	}
	return checkSecretSize(info.Size())
}

func checkSecretSize(n int64) error {
	if n > maxSecret {
		return fmt.Errorf("has %d bytes, more than %d", n, maxSecret)
	}
	return nil
}

// sshAgents parses every value of --ssh, "ID[=SOCKET|=KEY,KEY...]". Without a
// path the agent is that of SSH_AUTH_SOCK.
func (e *env) sshAgents(values []string) (map[string]builder.SSHAgent, error) {
	all := map[string]builder.SSHAgent{}
	for _, v := range values {
		id, paths, _ := strings.Cut(v, "=")
		agent, err := e.sshAgent(paths)
		if err == nil && id == "" {
			err = errors.New("id is missing")
		}
		if err != nil {
			return nil, fmt.Errorf("ssh %q: %w", v, err)
		}
		all[id] = agent
	}
	return all, nil
}

func (e *env) sshAgent(paths string) (builder.SSHAgent, error) {
	if paths == "" {
		socket := e.getenv("SSH_AUTH_SOCK")
		if socket == "" {
			return builder.SSHAgent{}, errors.New("no agent: SSH_AUTH_SOCK is not set; start ssh-agent, or name key files")
		}
		return builder.SSHAgent{Socket: socket}, nil
	}
	var agent builder.SSHAgent
	for path := range strings.SplitSeq(paths, ",") {
		info, err := os.Stat(path)
		if err != nil {
			return builder.SSHAgent{}, err
		}
		if info.Mode().Type() == fs.ModeSocket {
			agent.Socket = path
		} else {
			agent.Keys = append(agent.Keys, path)
		}
	}
	if agent.Socket != "" && strings.Contains(paths, ",") {
		return builder.SSHAgent{}, errors.New("a socket cannot be combined with other paths")
	}
	return agent, nil
}
