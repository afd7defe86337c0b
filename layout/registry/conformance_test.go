package registry

import (
	"encoding/xml"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The conformance suite of the OCI distribution specification has no failure
// and skips nothing, as the released specification has it and as the next one
// will: pull, push, content discovery and content management.
func TestConformance(t *testing.T) {
	suite := tool(t, "conformance")
	for version, disabled := range map[string]int{
		"1.1": 2, // cancelling an upload, and several tags at once: they are in the next version
		"dev": 0,
	} {
		t.Run(version, func(t *testing.T) {
			server := httptest.NewServer(newRegistry(t, Options{}))
			defer server.Close()
			dir := t.TempDir()
			cmd := exec.Command(suite)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "OCI_REGISTRY="+strings.TrimPrefix(server.URL, "http://"),
				"OCI_TLS=disabled", "OCI_VERSION="+version, "OCI_RESULTS_DIR="+dir)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			total := readJunit(t, filepath.Join(dir, "junit.xml"))
			t.Logf("distribution-spec %s: %d tests, %d failures, %d errors, %d skipped, %d disabled",
				version, total.Tests, total.Failures, total.Errors, total.Skipped, total.Disabled)
			if err != nil || total.Failures+total.Errors+total.Skipped > 0 {
				t.Errorf("%v\n%s", err, failures(string(out)))
			}
			if total.Disabled != disabled || total.Tests < 800 {
				t.Errorf("%d of %d tests are disabled, want %d of 800 or more", total.Disabled, total.Tests, disabled)
			}
		})
	}
}

type junitTotal struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
	Disabled int `xml:"disabled,attr"`
}

func readJunit(t *testing.T, path string) (total junitTotal) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(b, &total); err != nil {
		t.Fatal(err)
	}
	return total
}

// failures is the part of the suite's output that says what has failed.
func failures(out string) string {
	text, _, _ := strings.Cut(out, "Configuration:")
	return text
}

// tool finds a program that hack/tool builds.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".cache", "tools", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: run hack/tool %s", name, name)
	}
	return path
}
