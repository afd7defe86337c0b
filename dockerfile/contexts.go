package dockerfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// setDockerfile makes the Dockerfile's directory a local source.
func (r *Request) setDockerfile(o Options) error {
	if o.Text != nil {
		return r.setText(o.Text)
	}
	if o.File == "" {
		return r.setDefaultFile(o.context())
	}
	info, err := os.Stat(o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dockerfile %q: no such file (the path is relative to the working directory, not to the context): %w", o.File, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("dockerfile %q: %w", o.File, err)
	}
	switch {
	case info.IsDir():
		return fmt.Errorf("dockerfile %q: is a directory", o.File)
	case !info.Mode().IsRegular():
		return r.setPipe(o.File)
	}
	r.FrontendOpt["filename"] = filepath.Base(o.File)
	return r.setLocal("dockerfile", "dockerfile directory", filepath.Dir(o.File))
}

// setDefaultFile uses the Dockerfile of the context; the frontend itself
// accepts the name in lower case too.
func (r *Request) setDefaultFile(dir string) error {
	for _, name := range []string{"Dockerfile", "dockerfile"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			r.FrontendOpt["filename"] = "Dockerfile"
			return r.setLocal("dockerfile", "context", dir)
		}
	}
	return fmt.Errorf("no Dockerfile in %q: name it with -f: %w", dir, fs.ErrNotExist)
}

// setPipe reads a Dockerfile that is not a regular file, such as a named pipe.
func (r *Request) setPipe(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("dockerfile %q: %w", name, err)
	}
	defer f.Close()
	text, err := ReadText(f)
	if err != nil {
		return fmt.Errorf("dockerfile %q: %w", name, err)
	}
	return r.setText(text)
}

// ReadText reads a Dockerfile from a stream, for [Options].Text. A stream
// longer than 16 MiB is an error; an empty one is not nil.
func ReadText(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	if err != nil {
		return nil, fmt.Errorf("read dockerfile: %w", err)
	}
	if len(text) > maxDockerfile {
		return nil, fmt.Errorf("read dockerfile: longer than %d bytes", maxDockerfile)
	}
	return text, nil
}

// setText writes a Dockerfile to a directory of its own.
func (r *Request) setText(text []byte) error {
	if len(text) > maxDockerfile {
		return fmt.Errorf("dockerfile: longer than %d bytes", maxDockerfile)
	}
	dir, err := os.MkdirTemp("", "bk-dockerfile-")
	if err != nil {
		return fmt.Errorf("dockerfile: %w", err)
	}
	r.temp = dir
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o600); err != nil { //nolint:forbidigo // a directory of our own
		return fmt.Errorf("dockerfile: %w", err)
	}
	r.FrontendOpt["filename"] = "Dockerfile"
	return r.setLocal("dockerfile", "dockerfile", dir)
}

// setContexts translates the named contexts, in the order of their names.
func (r *Request) setContexts(o Options) error {
	for _, name := range slices.Sorted(maps.Keys(o.BuildContexts)) {
		spec := o.BuildContexts[name]
		value, err := r.namedContext(name, spec)
		if err != nil {
			return err
		}
		key, err := contextName(name)
		if err != nil {
			return err
		}
		r.FrontendOpt["context:"+key] = value
	}
	if len(o.BuildContexts) > 0 {
		r.addCap("moby.buildkit.frontend.contexts")
	}
	return nil
}

// contextName writes a context's name as the frontend looks it up: as a
// reference in its familiar form, so that a base image can be replaced.
func contextName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("build-context %q: invalid name: %w", name, err)
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), nil
}

// namedContext returns the frontend's form of spec, and registers what it
// names on this machine.
func (r *Request) namedContext(name, spec string) (string, error) {
	switch dir, ok := strings.CutPrefix(spec, "oci-layout://"); {
	case ok:
		return r.layoutContext(name, dir)
	case strings.HasPrefix(spec, "docker-image://"), strings.HasPrefix(spec, "target:"):
		return spec, nil
	case isRemote(spec):
		return "", fmt.Errorf("build-context %s=%s: only directories, oci-layout:// and docker-image:// can be named contexts", name, spec)
	}
	local := name
	if name == "context" || name == "dockerfile" {
		local = "_" + name // the names of the main context's sources
	}
	if err := r.setLocal(local, "build-context "+name, spec); err != nil {
		return "", err
	}
	return "local:" + local, nil
}

// layoutContext registers the layout at DIR[:TAG][@DIGEST] and pins its image.
func (r *Request) layoutContext(name, spec string) (string, error) {
	rest, pin, _ := strings.Cut(spec, "@")
	dir, tag := splitTag(rest)
	dgst, err := layoutDigest(dir, tag, pin)
	if err != nil {
		return "", fmt.Errorf("build-context %s=oci-layout://%s: %w", name, spec, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("build-context %s: %w", name, err)
	}
	id := "layout" + strconv.Itoa(len(r.Layouts))
	r.Layouts[id] = abs
	return "oci-layout://" + id + "@" + dgst.String(), nil
}

// splitTag cuts DIR:TAG at the last colon that no path element follows.
func splitTag(s string) (dir, tag string) {
	if i := strings.LastIndexByte(s, ':'); i > 0 && !strings.ContainsAny(s[i:], `/\`) {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// layoutDigest finds an image: by its digest, else by its tag, else the one
// that is tagged "latest", else the only one.
func layoutDigest(dir, tag, pin string) (digest.Digest, error) {
	d, err := layout.Open(dir)
	if err != nil {
		return "", err
	}
	refs := []string{pin}
	if pin == "" && tag == "" {
		refs = []string{"latest", ""}
	} else if pin == "" {
		refs = []string{tag}
	}
	var desc ocispecs.Descriptor
	for _, ref := range refs {
		if desc, err = d.Resolve(ref); err == nil {
			return desc.Digest, nil
		}
	}
	return "", err
}

// isRemote reports whether a context spec names something that is not on this
// machine: a URL or a git remote.
func isRemote(spec string) bool {
	scheme, _, ok := strings.Cut(spec, "://")
	return ok && !strings.Contains(scheme, "/") || strings.HasPrefix(spec, "git@")
}
