package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"bk.build/bk/builder"
	"bk.build/bk/dockerfile"
)

// testEnv has the given variables, and input on stdin.
func testEnv(vars map[string]string, input string) *env {
	return &env{
		stdin: strings.NewReader(input), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer),
		lookup: func(name string) (string, bool) { v, ok := vars[name]; return v, ok },
	}
}

// parsePlan parses a command line of bk build.
func parsePlan(t *testing.T, e *env, args ...string) (*buildPlan, error) {
	t.Helper()
	var f buildFlags
	set := pflag.NewFlagSet("build", pflag.ContinueOnError)
	f.register(set, e)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f.plan(t.Context(), e, "ctx")
}

// Flags become options of the Dockerfile frontend; none are lost on the way.
func TestPlanOptions(t *testing.T) {
	vars := map[string]string{"FROM_ENV": "v", "EMPTY": ""}
	for _, tt := range []struct {
		args []string
		want dockerfile.Options
	}{
		{nil, dockerfile.Options{}},
		{[]string{"-f", "D", "--target=t", "--platform=linux/amd64,linux/arm64"},
			dockerfile.Options{File: "D", Target: "t", Platforms: []string{"linux/amd64,linux/arm64"}}},
		{[]string{"-f-"}, dockerfile.Options{Text: []byte("FROM stdin")}},
		{[]string{"--build-arg=A=1=2", "--build-arg=B=", "--build-arg=FROM_ENV", "--build-arg=EMPTY", "--build-arg=UNSET"},
			dockerfile.Options{BuildArgs: map[string]string{"A": "1=2", "B": "", "FROM_ENV": "v", "EMPTY": ""}}},
		{[]string{"--label=a=b=c", "--label=d", "--build-context=x=./y"},
			dockerfile.Options{Labels: map[string]string{"a": "b=c", "d": ""}, BuildContexts: map[string]string{"x": "./y"}}},
		{[]string{"--no-cache", "--pull", "--network=none", "--no-cache-filter=a,b"},
			dockerfile.Options{NoCache: true, Pull: true, Network: "none", NoCacheFilter: []string{"a,b"}}},
		{[]string{"--shm-size=1m", "--ulimit=nofile=1:2", "--add-host=a:1.2.3.4"},
			dockerfile.Options{ShmSize: 1 << 20, Ulimits: []string{"nofile=1:2"}, AddHosts: []string{"a:1.2.3.4"}}},
		{[]string{"--check"}, dockerfile.Options{Call: dockerfile.Call{Name: "lint"}}},
		{[]string{"--check", "--call=check,format=json"}, dockerfile.Options{Call: dockerfile.Call{Name: "lint", JSON: true}}},
		{[]string{"--call=targets"}, dockerfile.Options{Call: dockerfile.Call{Name: "targets"}}},
		{[]string{"--timestamp=12"}, dockerfile.Options{BuildArgs: map[string]string{"SOURCE_DATE_EPOCH": "12"}}},
	} {
		plan, err := parsePlan(t, testEnv(vars, "FROM stdin"), tt.args...)
		if err != nil {
			t.Errorf("%v: %v", tt.args, err)
			continue
		}
		tt.want.Context = "ctx"
		if tt.want.Network == "" {
			tt.want.Network = "default"
		}
		for _, m := range []*map[string]string{&tt.want.BuildArgs, &tt.want.Labels, &tt.want.BuildContexts} {
			if *m == nil {
				*m = map[string]string{}
			}
		}
		if diff := cmp.Diff(tt.want, plan.options); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, diff)
		}
	}
}

// The default platform is docker's, when it is set.
func TestDefaultPlatform(t *testing.T) {
	e := testEnv(map[string]string{"DOCKER_DEFAULT_PLATFORM": "linux/arm64"}, "")
	for arg, want := range map[string]string{"--pull": "linux/arm64", "--platform=linux/amd64": "linux/amd64"} {
		plan, err := parsePlan(t, e, arg)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{want}, plan.options.Platforms); diff != "" {
			t.Errorf("%s (-want +got):\n%s", arg, diff)
		}
	}
}

// The build's time comes from the flag, then the build argument, then the
// environment; a value that is not a number is for the frontend to resolve.
func TestPlanEpoch(t *testing.T) {
	at := func(n int64) *time.Time { return ptr(time.Unix(n, 0).UTC()) }
	for _, tt := range []struct {
		env  string
		args []string
		want *time.Time
		arg  string
	}{
		{"", nil, nil, ""},
		{"5", nil, at(5), "5"},
		{"5", []string{"--build-arg=SOURCE_DATE_EPOCH=6"}, at(6), "6"},
		{"5", []string{"--build-arg=SOURCE_DATE_EPOCH=6", "--timestamp=0"}, at(0), "0"},
		{"", []string{"--timestamp=1970-01-01T01:00:07+01:00"}, at(7), "7"},
		{"context", nil, nil, "context"},
	} {
		vars := map[string]string{}
		if tt.env != "" {
			vars["SOURCE_DATE_EPOCH"] = tt.env
		}
		plan, err := parsePlan(t, testEnv(vars, ""), tt.args...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, plan.epoch); diff != "" || plan.options.BuildArgs["SOURCE_DATE_EPOCH"] != tt.arg {
			t.Errorf("%q %v: epoch %v, argument %q", tt.env, tt.args, plan.epoch, plan.options.BuildArgs["SOURCE_DATE_EPOCH"])
		}
	}
}

// Tags are the names of outputs that have none of their own, and annotations
// are merged with those of an output, which win.
func TestPlanOutputs(t *testing.T) {
	plan, err := parsePlan(t, testEnv(nil, ""), "-t", "a", "-t", "localhost:5000/b:1", "--annotation=x=1", "--annotation=y=1",
		"-o", "type=image", "-o", "type=oci,dest=d,name=c,annotation-manifest.x=2")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"docker.io/library/a:latest", "localhost:5000/b:1"}
	if diff := cmp.Diff(names, plan.outputs[0].names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"docker.io/library/c:latest"}, plan.outputs[1].names); diff != "" {
		t.Errorf("own names (-want +got):\n%s", diff)
	}
	want := map[string]string{"annotation-manifest.x": "2", "annotation-manifest.y": "1"}
	if diff := cmp.Diff(want, plan.outputs[1].commit.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

// A wrong value is refused by name before anything runs.
func TestPlanErrors(t *testing.T) {
	for _, tt := range []struct{ arg, want string }{
		{"--tag=UPPER", `tag "UPPER"`},
		{"--tag=a@sha256:" + strings.Repeat("a", 64), "cannot have a digest"},
		{"--build-arg==x", "build-arg"},
		{"--label==x", "label"},
		{"--build-context=x", "build-context"},
		{"--build-context=x=", "build-context"},
		{"--annotation=x", "annotation"},
		{"--output=type=x", `output "type=x"`},
		{"--shm-size=x", "shm-size"},
		{"--shm-size=0", "shm-size"},
		{"--ulimit=x", "ulimit"},
		{"--ulimit=nofile=2:1", "ulimit"},
		{"--jobs=-1", "jobs"},
		{"--progress=x", "progress"},
		{"--call=x", "call"},
		{"--timestamp=x", "timestamp"},
		{"--timestamp=-1", "timestamp"},
		{"--secret=id=a,src=/does/not/exist", "/does/not/exist"},
		{"--ssh=default", "SSH_AUTH_SOCK"},
	} {
		if _, err := parsePlan(t, testEnv(nil, ""), tt.arg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.arg, err, tt.want)
		}
	}
	if _, err := parsePlan(t, testEnv(nil, ""), "--check", "--call=outline"); err == nil {
		t.Error("--check with --call=outline is accepted")
	}
	if _, err := parsePlan(t, testEnv(nil, ""), "--iidfile=x", "-o", "out"); err == nil {
		t.Error("--iidfile without an image is accepted")
	}
}

// Secrets are found as docker buildx finds them: by src, by env, or by the id
// alone, which is a variable if it is set, else a file.
func TestParseSecret(t *testing.T) {
	e := testEnv(map[string]string{"VAR": "x"}, "")
	for _, tt := range []struct {
		value, id string
		want      builder.Secret
	}{
		{"id=a,src=f", "a", builder.Secret{File: "f"}},
		{"id=a,source=f", "a", builder.Secret{File: "f"}},
		{"id=a,env=E", "a", builder.Secret{Env: "E"}},
		{"type=env,id=a,src=E", "a", builder.Secret{Env: "E"}},
		{"type=file,id=VAR", "VAR", builder.Secret{File: "VAR"}},
		{"id=VAR", "VAR", builder.Secret{Env: "VAR"}},
		{"id=a", "a", builder.Secret{File: "a"}},
		{"id=a,type=env", "a", builder.Secret{Env: "a"}},
	} {
		id, got, err := e.parseSecret(tt.value)
		if err != nil || id != tt.id || got != tt.want {
			t.Errorf("parseSecret(%q) = %q, %+v, %v, want %q, %+v", tt.value, id, got, err, tt.id, tt.want)
		}
	}
	for _, value := range []string{"", "a", "src=f", "id=a,src=f,env=E", "id=a,type=x", "id=a,mode=1", "id=a,id=b"} {
		if id, got, err := e.parseSecret(value); err == nil {
			t.Errorf("parseSecret(%q) = %q, %+v, want an error", value, id, got)
		}
	}
}

// FuzzParseSecret: what is accepted has an id and exactly one source.
func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{"id=a", "id=a,src=b", "id=a,env=b,type=env", `"id=a,b"`, "id=,src=x"} {
		f.Add(s)
	}
	e := testEnv(map[string]string{"VAR": ""}, "")
	f.Fuzz(func(t *testing.T, value string) {
		id, s, err := e.parseSecret(value)
		if err == nil && (id == "" || (s.File == "") == (s.Env == "")) {
			t.Errorf("parseSecret(%q) = %q, %+v", value, id, s)
		}
	})
}

// A secret that is not there, or is too large, is told before the build.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	e := testEnv(map[string]string{"BIG": strings.Repeat("x", maxSecret+1), "OK": ""}, "")
	for value, want := range map[string]string{
		"id=a,src=" + dir:                        "is a directory",
		"id=a,src=" + big:                        "bytes",
		"id=a,src=" + filepath.Join(dir, "none"): "file",
		"id=a,env=NONE":                          "NONE is not set",
		"id=BIG":                                 "bytes",
	} {
		if _, err := e.secrets([]string{value}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("secrets(%q): error %v, want %q", value, err, want)
		}
	}
	if _, err := e.secrets([]string{"id=OK"}); err != nil {
		t.Error(err)
	}
}

// An agent is a socket or key files, never both.
func TestSSHAgents(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := testEnv(map[string]string{"SSH_AUTH_SOCK": "/sock"}, "")
	got, err := e.sshAgents([]string{"default", "k=" + key + "," + key})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]builder.SSHAgent{"default": {Socket: "/sock"}, "k": {Keys: []string{key, key}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, value := range []string{"", "=" + key, "a=" + filepath.Join(dir, "none")} {
		if got, err := e.sshAgents([]string{value}); err == nil {
			t.Errorf("sshAgents(%q) = %v, want an error", value, got)
		}
	}
}
