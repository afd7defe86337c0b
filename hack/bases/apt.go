//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// An apt is apt with the machine's sources and keys, but with its own
// architecture and state: it changes nothing on the machine and needs no
// privilege.
type apt struct{ dir, config string }

// newApt makes apt's state in dir and downloads the package lists of arch.
func newApt(ctx context.Context, dir, arch string) (*apt, error) {
	for _, d := range []string{"lists/partial", "cache/archives/partial", "state", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	config := fmt.Sprintf(`APT::Architecture %q;
APT::Architectures { %q; };
APT::Sandbox::User "root";
Dir::State %q;
Dir::State::lists %q;
Dir::State::status %q;
Dir::Cache %q;
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, arch, arch, dir+"/state", dir+"/lists", dir+"/status", dir+"/cache")
	for name, content := range map[string]string{a.config: config, filepath.Join(dir, "status"): ""} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	_, err = a.get(ctx, "-q", "update")
	return a, err
}

// get runs apt-get and returns its output.
func (a *apt) get(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config)
	cmd.Dir = filepath.Join(a.dir, "debs")
	return output(cmd)
}

// download fetches one package and returns the path of the .deb.
func (a *apt) download(ctx context.Context, pkg string) (string, error) {
	if _, err := a.get(ctx, "-q", "download", pkg); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "debs", pkg+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s: want one package, have %v", pkg, debs)
	}
	return debs[0], nil
}

// sources returns the machine's package sources, as lines of sources.list.
func (a *apt) sources(ctx context.Context) (string, error) {
	out, err := a.get(ctx, "indextargets", "--format", "$(CREATED_BY) deb $(REPO_URI) $(RELEASE) $(COMPONENT)")
	if err != nil {
		return "", err
	}
	var lines []string
	for line := range strings.Lines(out) {
		if line, ok := strings.CutPrefix(line, "Packages "); ok {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), ""), nil
}

// output runs cmd and returns its standard output; an error has what it said.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
