package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A syntax line that names any release of docker/dockerfile is built by the
// frontend in this process, without asking the builder for an image; any other
// is refused by name.
func TestSyntax(t *testing.T) {
	sum := "@sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct {
		image   string
		builtin bool
	}{
		{"docker/dockerfile", true},
		{"docker/dockerfile:1", true},
		{"docker/dockerfile:1.7-labs", true},
		{"docker.io/docker/dockerfile:1" + sum, true},
		{"docker/dockerfile" + sum, true},
		{"index.docker.io/docker/dockerfile-upstream:master", true},
		{"ghcr.io/docker/dockerfile:1", false},
		{"docker/dockerfile-evil:1", false},
		{"library/dockerfile", false},
		{"tonistiigi/dockerfile:runmount20180618", false},
	} {
		for _, way := range []string{"line", "argument"} {
			o := Options{Text: []byte("FROM scratch\nCOPY a /\n"), Context: t.TempDir()}
			if way == "line" {
				o.Text = append([]byte("# syntax="+tt.image+"\n"), o.Text...)
			} else {
				o.BuildArgs = map[string]string{"BUILDKIT_SYNTAX": tt.image}
			}
			_, client, err := runFrontend(t, o)
			var refused *SyntaxError
			switch {
			case tt.builtin && (err != nil || client.solved != 1):
				t.Errorf("%s by %s: %d solved, error %v", tt.image, way, client.solved, err)
			case !tt.builtin && (!errors.As(err, &refused) || refused.Image != tt.image):
				t.Errorf("%s by %s: error %v, want a SyntaxError", tt.image, way, err)
			}
		}
	}
}

// A build argument overrides a syntax line, which is what SyntaxError tells
// the user to do.
func TestSyntaxOverride(t *testing.T) {
	o := Options{
		Text:      []byte("# syntax=example.com/other\nFROM scratch\n"),
		Context:   t.TempDir(),
		BuildArgs: map[string]string{"BUILDKIT_SYNTAX": "docker/dockerfile:1"},
	}
	if _, _, err := runFrontend(t, o); err != nil {
		t.Error(err)
	}
}

// The frontend writes into its options: the request must not change under the
// caller, who may run it again.
func TestBuildKeepsRequest(t *testing.T) {
	request, err := Options{
		Text: []byte("# syntax=docker/dockerfile:1\nFROM scratch\n"), Context: t.TempDir(),
		BuildArgs: map[string]string{"BUILDKIT_MULTI_PLATFORM": "1"},
	}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	defer request.Close()
	before := maps.Clone(request.FrontendOpt)
	for range 2 {
		if _, err := Build(t.Context(), &localClient{request: request}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, request.FrontendOpt); diff != "" {
		t.Errorf("FrontendOpt changed (-before +after):\n%s", diff)
	}
}

// Several platforms give one result each, in one call of the frontend.
func TestPlatforms(t *testing.T) {
	res, client, err := runFrontend(t, Options{
		Text: []byte("FROM scratch\nCOPY a /\n"), Context: t.TempDir(),
		Platforms: []string{"linux/amd64,linux/arm64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if client.solved != 2 || len(res.Refs) != 2 || res.Metadata["refs.platforms"] == nil {
		t.Errorf("%d solved, %d results, platforms %s", client.solved, len(res.Refs), res.Metadata["refs.platforms"])
	}
}

// Lint warnings reach the builder's client while the build goes on.
func TestWarnings(t *testing.T) {
	_, client, err := runFrontend(t, Options{Text: []byte("from scratch\nCOPY a /\nMAINTAINER me\n"), Context: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(client.warnings, "\n"); !strings.Contains(all, "MaintainerDeprecated") || !strings.Contains(all, "ConsistentInstructionCasing") {
		t.Errorf("warnings: %q", client.warnings)
	}
}

// What a user sees of a mistake in a Dockerfile: its place, the lines around
// it, and what was probably meant. The wanted text is testdata/errors/NAME.txt.
func TestDescribe(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.dockerfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = runFrontend(t, Options{Text: text, Context: t.TempDir()})
			if err == nil {
				t.Fatal("it builds")
			}
			var got bytes.Buffer
			if err := Describe(&got, err); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".dockerfile")+".txt", got.String())
		})
	}
}

// The answers to --call, as text and as JSON, are testdata/calls/*.txt.
func TestCall(t *testing.T) {
	text, err := os.ReadFile("testdata/calls/input.dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	clean := []byte("FROM scratch\nCOPY a /\n")
	broken := []byte("FROM scratch\nMAINTAINER me\nRNU a\n")
	for _, tt := range []struct {
		name, call string
		text       []byte
		err        string // a part of the error
	}{
		{"check", "check", text, ErrCheck.Error()},
		{"check-ignored", "check,ignorestatus", text, ""},
		{"check-clean", "lint", clean, ""},
		{"check-broken", "check", broken, "unknown instruction: RNU"},
		{"check-json", "check,format=json,ignorestatus=true", clean, ""},
		{"outline", "outline", text, ""},
		{"targets", "targets", text, ""},
		{"targets-json", "targets,format=json", clean, ""},
		{"describe", "subrequests.describe", clean, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			call, err := ParseCall(tt.call)
			if err != nil {
				t.Fatal(err)
			}
			res, client, err := runFrontend(t, Options{Text: tt.text, Context: t.TempDir(), Call: call})
			if err != nil {
				t.Fatal(err)
			}
			if client.solved != 0 {
				t.Errorf("a question solved %d definitions", client.solved)
			}
			var got bytes.Buffer
			err = call.Print(&got, func(key string) []byte { return res.Metadata[key] })
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Print: error %v, want %q", err, tt.err)
			}
			golden(t, "testdata/calls/"+tt.name+".txt", portable(t, call, got.String()))
		})
	}
}

// portable leaves out of an answer what differs between machines: where the
// Dockerfile was read from.
func portable(t *testing.T, call Call, text string) string {
	t.Helper()
	if !call.JSON || call.Name != "lint" {
		return text
	}
	var answer struct {
		Warnings []any
		Sources  []map[string]any
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	for _, s := range answer.Sources {
		delete(s, "definition")
	}
	out, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// golden compares got with a file; UPDATE=1 in the environment rewrites it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
