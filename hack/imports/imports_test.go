// Package imports holds the test of the rules of who imports whom.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "bk.build/bk"

// A rule is a statement of policy: what the packages From must never reach,
// directly or through others. Patterns are import paths, relative to the module
// when they name a folder of it; "/..." includes what is below.
type rule struct {
	why     string
	from    []string
	never   []string
	allowed []string // exceptions of never
	except  []string // packages of From that the rule is not for
	direct  bool     // only what From imports itself counts
}

// heavy are dependencies that cost start-up time or bring half a cloud along.
var heavy = []string{
	"github.com/aquasecurity/...", "github.com/sigstore/cosign/...", "github.com/anchore/...",
	"cloud.google.com/...", "github.com/aws/...", "github.com/Azure/...", "github.com/hashicorp/vault/...",
	"k8s.io/...", "github.com/docker/docker/...",
}

// containerd's packages are reached by BuildKit's frontend through its types; our
// own code has no use for them.
var containerd = []string{"github.com/containerd/containerd/v2/..."}

var rules = []rule{
	{
		why:  "running a step and storing an image know nothing of each other",
		from: []string{"runner/..."}, never: []string{"layout/...", "builder/...", "dockerfile/..."},
	},
	{
		why:  "running a step and storing an image know nothing of each other",
		from: []string{"layout/..."}, never: []string{"runner/...", "builder/...", "dockerfile/..."},
	},
	{
		why:  "the layer format is a leaf",
		from: []string{"layout/layer"},
		never: []string{
			module + "/...", "github.com/...", "golang.org/x/...", "google.golang.org/...", "gopkg.in/...", "go.opentelemetry.io/...",
		},
		allowed: []string{
			"layout/layer/...", "golang.org/x/sys/...", "golang.org/x/sync/...", "github.com/klauspost/compress/...", "github.com/opencontainers/go-digest/...",
			"github.com/opencontainers/image-spec/...",
		},
	},
	{
		why:  "the supply chain takes digests and trees, not builds",
		from: []string{"sign/...", "attest/...", "sbom/..."}, never: []string{"builder/...", "runner/...", "dockerfile/..."},
	},
	{
		why:   "the command line is the top",
		from:  []string{"builder/...", "runner/...", "layout/...", "dockerfile/...", "sign/...", "attest/...", "sbom/..."},
		never: []string{"cmd/...", "hack/..."},
	},
	{
		why:  "the engine is ours: containerd comes along with the frontend's types, and no further",
		from: []string{"builder/...", "dockerfile/...", "cmd/..."}, never: containerd, direct: true,
	},
	{
		why:  "heavy dependencies stay out of building, running and storing",
		from: []string{"builder/...", "runner/...", "layout/..."}, never: heavy,
	},
	{
		why:   "remote procedure calls are of the frontend's types and of remote builders only",
		from:  []string{"runner/...", "layout/..."},
		never: append([]string{"google.golang.org/grpc/...", "github.com/moby/buildkit/..."}, containerd...),
		// containerd has no other interface; what opens places, and what is above
		// that, reaches it.
		except: []string{"layout/containerd", "layout/place", "layout/mirror"},
	},
	{
		why:   "containerd is asked by its services' own types",
		from:  []string{"layout/containerd", "layout/place", "layout/mirror"},
		never: append([]string{"github.com/moby/buildkit/..."}, containerd...),
	},
}

// A pkg is what the rules need of `go list -json`.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

// The rules of the table hold for every package of the module: data flows one
// way, and no package reaches what it must not.
func TestImportRules(t *testing.T) {
	if testing.Short() {
		t.Skip("short: lists all packages")
	}
	pkgs := list(t)
	for _, r := range rules {
		for _, p := range pkgs {
			if !matches(p.ImportPath, r.from) || matches(p.ImportPath, r.except) {
				continue
			}
			deps := p.Deps
			if r.direct {
				deps = p.Imports
			}
			for _, d := range deps {
				if matches(d, r.never) && !matches(d, r.allowed) {
					t.Errorf("%s reaches %s (%s): %s", short(p.ImportPath), short(d), r.why, chain(pkgs, p.ImportPath, d))
				}
			}
		}
	}
}

// A rule that names a folder which does not exist any more protects nothing.
func TestRulesNameFolders(t *testing.T) {
	later := []string{"sign/...", "attest/...", "sbom/...", "hack/..."} // may not be there yet
	for _, r := range rules {
		for _, f := range r.from {
			dir := "../../" + strings.TrimSuffix(f, "/...")
			if _, err := os.Stat(dir); err != nil && !matchesAny(f, later) {
				t.Errorf("rule %q: %v", r.why, err)
			}
		}
	}
}

func matchesAny(s string, list []string) bool {
	for _, l := range list {
		if s == l {
			return true
		}
	}
	return false
}

// matches says whether an import path is one of the patterns.
func matches(path string, patterns []string) bool {
	for _, p := range patterns {
		first, _, _ := strings.Cut(p, "/")
		if !strings.Contains(first, ".") {
			p = module + "/" + p
		}
		dir, below := strings.CutSuffix(p, "/...")
		if path == dir || below && strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps,Standard", module+"/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list gives %d packages", len(pkgs))
	}
	return pkgs
}

// chain finds how from reaches to, for the message.
func chain(pkgs map[string]pkg, from, to string) string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range pkgs[queue[0]].Imports {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = queue[0]
			queue = append(queue, next)
		}
	}
	way := short(to)
	for p := came[to]; p != ""; p = came[p] {
		way = short(p) + " -> " + way
	}
	return way
}

func short(path string) string { return strings.TrimPrefix(path, module+"/") }
