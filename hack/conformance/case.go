//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// A testCase is one txtar file of the corpus. Its files are the build context,
// except:
//
//	case          lines of flags: target, arg, platform, opt, ssh, error (a regular expression),
//	              varies (the result depends on the machine: it isn't recorded)
//	setup         a shell script run in the context, for what txtar can't hold
//	named/N/...   a named context N
//	secrets/ID    a secret ID
//
// The comment before the first file says what the case is about.
type testCase struct {
	name      string
	files     []txtar.File
	setup     string
	target    string
	platforms string
	args      []string // K=V
	opts      []string // frontend options, K=V
	ssh       bool
	varies    bool
	wantError string
}

// An input is a case on disk, ready to be built.
type input struct {
	*testCase
	context string
	named   map[string]string // context name -> directory or docker-image:// reference
	secrets map[string]string // id -> file
	sshKey  string
	dest    string // the OCI layout to write
}

// loadCorpus reads the cases of a directory whose name matches run.
func loadCorpus(dir, run string) ([]*testCase, error) {
	re, err := regexp.Compile(run)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var cases []*testCase
	for _, name := range names {
		short := strings.TrimSuffix(filepath.Base(name), ".txtar")
		if !re.MatchString(short) {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		c, err := parseCase(short, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		cases = append(cases, c)
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("%s has no case that matches %q", dir, run)
	}
	return cases, nil
}

func parseCase(name string, data []byte) (*testCase, error) {
	archive := txtar.Parse(data)
	if len(strings.TrimSpace(string(archive.Comment))) == 0 {
		return nil, fmt.Errorf("no comment says what the case is about")
	}
	c := &testCase{name: name}
	for _, f := range archive.Files {
		switch f.Name {
		case "case":
			if err := c.parseFlags(string(f.Data)); err != nil {
				return nil, err
			}
		case "setup":
			c.setup = string(f.Data)
		default:
			c.files = append(c.files, f)
		}
	}
	return c, nil
}

func (c *testCase) parseFlags(text string) error {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "":
		case "target":
			c.target = value
		case "platform":
			c.platforms = value
		case "arg":
			c.args = append(c.args, value)
		case "opt":
			c.opts = append(c.opts, value)
		case "ssh":
			c.ssh = true
		case "varies":
			c.varies = true
		case "error":
			c.wantError = value
		default:
			return fmt.Errorf("case: unknown flag %q", key)
		}
	}
	return nil
}

// lay writes the case's files to dir and runs its setup.
func (c *testCase) lay(ctx context.Context, dir string, bases map[string]string) (*input, error) {
	in := &input{testCase: c, context: filepath.Join(dir, "context"), named: map[string]string{}, secrets: map[string]string{}}
	for name, ref := range bases {
		in.named[name] = ref
	}
	if err := os.MkdirAll(in.context, 0o755); err != nil {
		return nil, err
	}
	for _, f := range c.files {
		path := filepath.Join(in.context, f.Name)
		if first, rest, _ := strings.Cut(f.Name, "/"); first == "named" {
			name, _, _ := strings.Cut(rest, "/")
			path, in.named[name] = filepath.Join(dir, f.Name), filepath.Join(dir, "named", name)
		} else if first == "secrets" {
			path = filepath.Join(dir, f.Name)
			in.secrets[rest] = path
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			return nil, err
		}
	}
	if c.ssh {
		in.sshKey = filepath.Join(dir, "key")
		if err := script(ctx, dir, "ssh-keygen -q -t ed25519 -N '' -C test -f key"); err != nil {
			return nil, err
		}
	}
	return in, script(ctx, in.context, c.setup)
}

func script(ctx context.Context, dir, text string) error {
	if text == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-euc", "umask 022\n"+text)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("setup: %w\n%s", err, out)
	}
	return nil
}

// A difference is one that is meant, with its reason.
type difference struct {
	cases, line *regexp.Regexp
	reason      string
}

// loadDifferences reads a file of lines
//
//	CASES <tab> DIFFERENCE <tab> REASON
//
// where the first two are regular expressions.
func loadDifferences(name string) ([]difference, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []difference
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := slices.DeleteFunc(strings.Split(line, "\t"), func(s string) bool { return s == "" })
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: %q: want three fields, separated by tabs", name, line)
		}
		cases, err := regexp.Compile("^(?:" + fields[0] + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		re, err := regexp.Compile(fields[1])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, difference{cases, re, fields[2]})
	}
	return list, nil
}

// explain parts found differences from known ones.
func explain(name string, found []string, list []difference) (unknown, known []string) {
	for _, line := range found {
		i := slices.IndexFunc(list, func(d difference) bool { return d.cases.MatchString(name) && d.line.MatchString(line) })
		if i < 0 {
			unknown = append(unknown, line)
		} else {
			known = append(known, line+"  ("+list[i].reason+")")
		}
	}
	return unknown, known
}
