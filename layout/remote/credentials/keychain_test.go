package credentials

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// The most specific entry of a file is taken; names are the same however a
// program has written them.
func TestFind(t *testing.T) {
	h := newHome(t)
	h.write(".docker/config.json", auths(
		"reg.example/a/b/c", "abc:1",
		"reg.example/a", "a:1",
		"reg.example", "host:pass:with:colons",
		"https://old.example/v1/", "old:1",
		"http://old.example:5000", "old5000:1",
		"Upper.Example", "upper:1",
		"ns.example/v1", "namespace:1",
		"both.example", "docker:1",
		"https://both.example", "other:1",
		"https://index.docker.io/v1/", "hub:1",
		"docker.io", "podman:1",
		"docker.io/team", "team:1",
		"[::1]:5000", "v6:1",
	))
	for name, want := range map[string]string{
		"reg.example/a/b/c":           "abc:1",
		"reg.example/a/b/c/d":         "abc:1",
		"reg.example/a/b/cc":          "a:1",
		"reg.example/a/b":             "a:1",
		"reg.example/ab":              "host:pass:with:colons",
		"reg.example":                 "host:pass:with:colons",
		"reg.example:443/a":           "",
		"evilreg.example/a":           "",
		"reg.example.org":             "",
		"old.example/x":               "old:1",
		"old.example:5000":            "old5000:1",
		"upper.example/x":             "upper:1",
		"UPPER.example/x":             "upper:1",
		"ns.example/v1/x":             "namespace:1",
		"ns.example/x":                "",
		"both.example":                "docker:1",
		"docker.io/library/alpine":    "hub:1",
		"index.docker.io/team/app":    "team:1",
		"https://index.docker.io/v1/": "hub:1",
		"registry-1.docker.io":        "hub:1",
		"[::1]:5000/x":                "v6:1",
		"":                            "",
	} {
		if got, err := h.find(name); got != want || err != nil {
			t.Errorf("Find(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

// Every file is read, the first that knows a name counts.
func TestSources(t *testing.T) {
	h := newHome(t)
	files := []struct{ name, variable string }{
		{".docker/config.json", ""},
		{"auth/file.json", "REGISTRY_AUTH_FILE"},
		{"run/containers/auth.json", ""},
		{".config/containers/auth.json", ""},
		{"secrets/one/.dockerconfigjson", "BK_PULL_SECRETS"},
	}
	for i, f := range files {
		path := h.write(f.name, auths("all.example", fmt.Sprint("user:", i), fmt.Sprint(i, ".example"), fmt.Sprint("user:", i)))
		if f.variable != "" {
			h.vars[f.variable] = path
		}
	}
	for i, f := range files {
		name := fmt.Sprint(i, ".example")
		c, err := h.keychain().Find(t.Context(), name)
		if c == nil || err != nil || !strings.HasSuffix(c.Source(), f.name) || c.User != "user" || c.Name != name {
			t.Errorf("Find(%q) = %v, %v; want it from %s", name, c, err, f.name)
		}
	}
	if got, err := h.find("all.example"); got != "user:0" || err != nil {
		t.Errorf("Find = %q, %v; want that of Docker's file", got, err)
	}
	h.vars["DOCKER_AUTH_CONFIG"] = auths("all.example", "user:env")
	if got, err := h.find("all.example"); got != "user:env" || err != nil {
		t.Errorf("Find = %q, %v; want that of the variable", got, err)
	}
	h.vars["DOCKER_CONFIG"] = h.dir + "/other"
	if got, err := h.find("0.example"); got != "" || err != nil {
		t.Errorf("Find = %q, %v; DOCKER_CONFIG is another directory", got, err)
	}
	h.vars["REGISTRY_AUTH_FILE"] = h.dir + "/none.json"
	if got, err := h.find("0.example"); got != "" || err == nil || !strings.Contains(err.Error(), "REGISTRY_AUTH_FILE: ") {
		t.Errorf("Find = %q, %v; want a word about the file that is missing", got, err)
	}
}

// Pull secrets are a file, a mounted secret, or a directory of such, in the
// format of either type.
func TestPullSecrets(t *testing.T) {
	h := newHome(t)
	h.write("s/a/..data/.dockerconfigjson", auths("hidden.example", "u:1"))
	h.write("s/a/.dockerconfigjson", `{"auths":{"a.example":{"username":"u","password":"a"}}}`)
	h.write("s/b/.dockercfg", `{"https://b.example":{"username":"u","password":"b","email":"x"}}`)
	h.write("s/c/config.json", auths("c.example", "u:c"))
	h.write("s/d/broken/.dockerconfigjson", "no JSON")
	h.write("s/d/other", "no JSON")
	for path, want := range map[string]string{"s": "abc", "s/a": "a", "s/b": "b", "s/b/.dockercfg": "b", "s/c/config.json": "c", "s/a:" + h.dir + "/s/c": "ac"} {
		h.vars["BK_PULL_SECRETS"] = h.dir + "/" + path
		got := ""
		for _, name := range []string{"a", "b", "c", "hidden"} {
			secret, err := h.find(name + ".example")
			if err != nil {
				t.Errorf("%s: Find: %v", path, err)
			}
			got += strings.TrimPrefix(secret, "u:")
		}
		if got != want {
			t.Errorf("secrets in %s: %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"none", "s/d/other", "s/d"} {
		h.vars["BK_PULL_SECRETS"] = h.dir + "/" + path
		if _, err := h.find("a.example"); err == nil || !strings.Contains(err.Error(), "BK_PULL_SECRETS: ") {
			t.Errorf("secrets in %s: %v", path, err)
		}
	}
}

// Tokens come in their own fields, or as the password of a special user.
func TestTokens(t *testing.T) {
	h := newHome(t, "x")
	h.write(".docker/config.json", `{"auths":{
		"id.example": {"auth": "bWU6", "identitytoken": "T"},
		"reg.example": {"registrytoken": "R"},
		"user.example": {"username": "<token>", "password": "U"},
		"empty.example": {}
	}, "credHelpers": {"helper.example": "x"}}`)
	h.give("helper.example", "<token>", "H")
	for name, want := range map[string]string{
		"id.example": "token:T", "reg.example": "bearer:R", "user.example": "token:U", "helper.example": "token:H", "empty.example": "",
	} {
		if got, err := h.find(name); got != want || err != nil {
			t.Errorf("Find(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

// Helpers of credHelpers are asked for what the file calls them, the store for
// hosts and for the paths that are marked.
func TestHelpers(t *testing.T) {
	h := newHome(t, "one", "store")
	h.write(".docker/config.json", `{
		"auths": {"marked.example/a": {}, "plain.example": {"auth": "cGxhaW46MQ=="}, "both.example": {"auth": "cGxhaW46MQ=="}},
		"credHelpers": {"https://one.example": "one", "one.example/deep": "one"},
		"credsStore": "store"
	}`)
	h.give("https://one.example", "one", "1")
	h.give("one.example/deep", "deep", "1")
	h.give("marked.example/a", "marked", "1")
	h.give("marked.example", "host", "1")
	h.give("both.example", "store", "1")
	h.give("any.example:5000", "any", "1")
	h.give("any.example:5000/a", "never asked for", "1")
	h.give("https://index.docker.io/v1/", "hub", "1")
	for name, want := range map[string]string{
		"one.example/x": "one:1", "one.example/deep/x": "deep:1",
		"marked.example/a/b": "marked:1", "marked.example/b": "host:1",
		"plain.example": "plain:1", "both.example/x": "store:1",
		"any.example:5000/a": "any:1", "docker.io/library/x": "hub:1", "none.example": "",
	} {
		if got, err := h.find(name); got != want || err != nil {
			t.Errorf("Find(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	c, err := h.keychain().Find(t.Context(), "one.example")
	if want := `user "one" for one.example from docker-credential-one, named by ` + h.dir + "/.docker/config.json"; err != nil || c.String() != want {
		t.Errorf("String() = %s, %v; want %s", c, err, want)
	}
}

// A helper is asked once for many repositories.
func TestAnswersAreKept(t *testing.T) {
	h := newHome(t, "x")
	h.write(".docker/config.json", `{"credsStore": "x"}`)
	h.give("a.example", "u", "1")
	k := h.keychain()
	for i := range 10 {
		c, err := k.Find(t.Context(), fmt.Sprint("a.example/", i))
		if c == nil || err != nil {
			t.Fatal(err)
		}
		if _, err := c.Authorization(); err != nil {
			t.Fatal(err)
		}
	}
	if log := h.read("secrets.log"); strings.Count(log, "get") != 1 {
		t.Errorf("the helper was asked %d times", strings.Count(log, "get"))
	}
	for _, a := range k.answers {
		a.at = a.at.Add(-time.Hour)
	}
	h.give("a.example", "u", "2")
	c, _ := k.Find(t.Context(), "a.example")
	if auth, err := c.Authorization(); err != nil || auth.Password != "2" {
		t.Errorf("after a while: %v, %v; want the new secret", auth, err)
	}
}

// A helper that cannot answer is told about, and what another file has is used
// all the same.
func TestHelperFails(t *testing.T) {
	h := newHome(t, "x")
	h.write(".docker/config.json", `{"credHelpers": {
		"missing.example": "missing", "path.example": "../x", "empty.example": "", "slow.example": "x", "broken.example": "x", "loud.example": "x"}}`)
	for host, want := range map[string]string{
		"missing.example": "docker-credential-missing is not installed",
		"path.example":    `"../x" is not the name of a credential helper`,
		"slow.example":    "docker-credential-x get: no answer after",
		"broken.example":  `exit status 1: "the keyring is locked"`,
		"loud.example":    "printed more than",
	} {
		k := h.keychain()
		if host == "slow.example" {
			k.HelperTimeout = 50 * time.Millisecond
		}
		reg, err := name.NewRegistry(host)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.ResolveContext(t.Context(), reg)
		if auth != authn.Anonymous || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), h.dir+"/.docker/config.json") {
			t.Errorf("ResolveContext(%q) = %v, %v; want %q", host, auth, err, want)
		}
		if missing := host == "missing.example"; errors.Is(err, exec.ErrNotFound) != missing {
			t.Errorf("%v: is exec.ErrNotFound: want %v", err, missing)
		}
	}
	h.write("run/containers/auth.json", auths("missing.example", "podman:1"))
	if got, err := h.find("missing.example/x"); got != "podman:1" || err != nil {
		t.Errorf("Find = %q, %v; want that of the other file", got, err)
	}
}

// Helpers that come with a cloud are asked for its registries only: not for one
// that looks like them, and not when something is configured.
func TestClouds(t *testing.T) {
	const account = "123456789012.dkr.ecr"
	hosts := map[string]string{
		account + ".eu-central-1.amazonaws.com":        "ecr-login",
		account + "-fips.us-east-1.amazonaws.com":      "ecr-login",
		account + ".cn-north-1.amazonaws.com.cn":       "ecr-login",
		"public.ecr.aws":                               "ecr-login",
		"team.azurecr.io":                              "acr-env",
		"team.azurecr.cn":                              "acr-env",
		"team.azurecr.us":                              "acr-env",
		"gcr.io":                                       "gcloud",
		"eu.gcr.io":                                    "gcloud",
		"europe-west3-docker.pkg.dev":                  "gcloud",
		"evilazurecr.io":                               "",
		"azurecr.io":                                   "",
		"team.azurecr.io.evil.example":                 "",
		"team.azurecr.io:8443":                         "",
		"a.team.azurecr.io":                            "",
		"evilgcr.io":                                   "",
		"gcr.io.evil.example":                          "",
		"evil.example/gcr.io":                          "",
		"docker.pkg.dev":                               "",
		"evildocker.pkg.dev":                           "",
		"x-docker.pkg.dev.evil.example":                "",
		"public.ecr.aws.evil.example":                  "",
		"evilpublic.ecr.aws":                           "",
		account + ".x.amazonaws.com.evil.example":      "",
		account + ".evil.example.amazonaws.com":        "",
		"x" + account + ".eu-central-1.amazonaws.com":  "",
		"1.dkr.ecr.eu-central-1.amazonaws.com":         "",
		account + ".eu-central-1.amazonaws.com.de":     "",
		account + ".eu-central-1xamazonaws.com":        "",
		"team.azurecr.io\n":                            "",
		"team.azurecr.io@evil.example":                 "",
		account + ".eu-central-1.amazonaws.com\n.evil": "",
	}
	h := newHome(t, "ecr-login", "acr-env", "gcloud")
	for host := range hosts {
		h.give(host, "cloud", "1")
	}
	for host, helper := range hosts {
		c, err := h.keychain().Find(t.Context(), host+"/app")
		if err != nil || (c != nil) != (helper != "") || c != nil && c.Source() != "docker-credential-"+helper {
			t.Errorf("Find(%q) = %v, %v; want it from %q", host, c, err, helper)
		}
	}
	h.write(".docker/config.json", auths("team.azurecr.io", "mine:1"))
	if got, err := h.find("team.azurecr.io/app"); got != "mine:1" || err != nil {
		t.Errorf("Find = %q, %v; want what is configured", got, err)
	}
	if got, err := newHome(t).find("team.azurecr.io"); got != "" || err != nil {
		t.Errorf("Find without helpers = %q, %v", got, err)
	}
}

// What is broken is told with its place, only when nothing else is found, and
// without a secret.
func TestBroken(t *testing.T) {
	h := newHome(t)
	for content, want := range map[string]string{
		"{\n\"auths\": {\"x\": {\"auth\": \"c2VjcmV0\"}},\n}": "config.json:3:",
		`{"auths": {"a.example": {"password": ["hunter2"]}}}`: "config.json:1: field auths.password has the wrong type",
		`{"auths": {"a.example": {"auth": "hunter2!"}}}`:      `entry "a.example": auth is not base64`,
		`{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}}`:  `auth is not NAME:PASSWORD`,
		`["hunter2"]`:                  "wrong type",
		`"hunter2"`:                    "wrong type",
		strings.Repeat(" ", maxFile+1): "at most",
	} {
		h.write(".docker/config.json", content)
		got, err := h.find("a.example/x")
		if got != "" || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Find with %.40q = %q, %v; want %q", content, got, err, want)
		}
	}
	h.write("run/containers/auth.json", auths("a.example", "podman:1"))
	if got, err := h.find("a.example/x"); got != "podman:1" || err != nil {
		t.Errorf("Find = %q, %v; want that of the other file", got, err)
	}
}

// No way of printing a credential shows the secret.
func TestPrint(t *testing.T) {
	h := newHome(t)
	h.write(".docker/config.json", auths("a.example", "me:hunter2"))
	c, err := h.keychain().Find(t.Context(), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if s := fmt.Sprintf(format, c); strings.Contains(s, "hunter2") || !strings.Contains(s, "a.example from") {
			t.Errorf("%s: %s", format, s)
		}
	}
}

// Any bytes are a file or an error; lookups in the former end.
func FuzzParse(f *testing.F) {
	f.Add([]byte(auths("a.example/b", "u:p")), "a.example/b/c")
	f.Add([]byte(`{"auths":{"https://a/v1/":{"username":"u","password":"p"}},"credHelpers":{"a":"x"},"credsStore":"y"}`), "a")
	f.Add([]byte(`{"auths":{"x":{"auth":"OjE="}}}`), "x")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		file, err := parse("f", b)
		if err != nil {
			return
		}
		name = Canonical(name)
		if again := Canonical(storageKey(name)); again != name && !strings.ContainsAny(name, ":") {
			t.Errorf("Canonical(%q) = %q", storageKey(name), again)
		}
		for i, n := range parents(name) {
			_, _, e, _ := file.helper(n, i == 0)
			if auth, err := e.config(); err == nil && e.Auth != "" && auth.Username == "" && auth.IdentityToken == "" && !strings.HasPrefix(e.Auth, "PHRva2Vu") {
				t.Errorf("entry %+v without user", e)
			}
		}
		if _, err := parseObject(b); err != nil {
			return
		}
	})
}
