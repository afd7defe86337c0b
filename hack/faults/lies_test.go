package faults_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/hack/faults"
	"bk.build/bk/hack/images"
	"bk.build/bk/hack/registry"
	"bk.build/bk/layout"
	"bk.build/bk/layout/remote"
)

// most is how many bytes of an answer without end a client may take before it
// gives up, with what is on its way then.
const most = 32 << 20

// smallImage returns an image of two small layers, and the layout it is in.
func smallImage(t testing.TB) (*layout.Dir, ocispec.Descriptor) {
	t.Helper()
	d := newDir(t)
	made, err := images.Write(d)
	if err != nil {
		t.Fatal(err)
	}
	return d, made["oci"]
}

// private starts a registry that lets in "me" alone, with the small image in it.
func private(t testing.TB) (addr string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(htpasswd), 0o600); err != nil {
		t.Fatal(err)
	}
	addr = registry.StartWith(t, registry.Options{Htpasswd: file})
	d, desc := smallImage(t)
	c := client(t)
	c.Keychain = somebody{addr}
	if err := push(t, c, addr, d, desc); err != nil {
		t.Fatal(err)
	}
	return addr
}

// member is a client that has a password at the proxy.
func member(t testing.TB, p *faults.Proxy) *remote.Client {
	t.Helper()
	c := client(t)
	c.Keychain, c.Attempts = somebody{p.Addr}, 3
	return c
}

// keptSecret checks that the other host saw no credentials.
func keptSecret(t testing.TB, p *faults.Proxy) {
	t.Helper()
	for _, v := range p.Visits() {
		for _, k := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
			if v.Header.Get(k) != "" {
				t.Errorf("%s %s came with %s: %q", v.Method, v.URL, k, v.Header.Get(k))
			}
		}
	}
}

// Lies about content are refused with an error of one line, nothing of them is
// in the layout, and what doesn't end is not read for long.
func TestLiesAboutContent(t *testing.T) {
	addr := private(t)
	for name, f := range map[string]faults.Fault{
		"a bit of a blob":        {Kind: faults.Flip},
		"a bit of a document":    {Kind: faults.Flip, On: faults.OnManifest},
		"a longer blob":          {Kind: faults.Length, At: 1},
		"a much longer blob":     {Kind: faults.Length, At: 10 << 20},
		"a shorter blob":         {Kind: faults.Length, At: -1},
		"a longer document":      {Kind: faults.Length, At: 1, On: faults.OnManifest},
		"a shorter document":     {Kind: faults.Length, At: -1, On: faults.OnManifest},
		"another digest":         {Kind: faults.Digest},
		"a manifest as an index": {Kind: faults.Type},
		"an endless document":    {Kind: faults.Huge, On: faults.OnManifest, Value: `{"schemaVersion":2,"x":"`},
		"an endless blob":        {Kind: faults.Huge, On: faults.OnBlob},
		"an endless error":       {Kind: faults.Huge, On: faults.OnManifest, Code: 404},
		"an endless refusal":     {Kind: faults.Huge, On: faults.OnBlob, Code: 403},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := faults.Start(t, addr, 5, f)
			dst := newDir(t)
			_, err := pull(t, member(t, proxy), proxy.Addr, dst)
			if err == nil || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("pull: %v", err)
			}
			t.Log(err)
			sound(t, dst)
			if s := proxy.Stats(); s.Sent > most {
				t.Errorf("the client took %d bytes", s.Sent)
			}
		})
	}
}

// A blob may be at another host, which gets no credentials, and a push that is
// sent there brings none either.
func TestOtherHosts(t *testing.T) {
	addr := private(t)
	d, desc := smallImage(t)

	proxy := faults.Start(t, addr, 6, faults.Fault{Kind: faults.Redirect})
	dst := newDir(t)
	if _, err := pull(t, member(t, proxy), proxy.Addr, dst); err != nil {
		t.Errorf("pull of blobs that are elsewhere: %v", err)
	} else {
		arrived(t, dst, desc)
	}
	if len(proxy.Visits()) == 0 {
		t.Error("nobody was at the other host")
	}
	keptSecret(t, proxy)

	proxy = faults.Start(t, addr, 7, faults.Fault{Kind: faults.Redirect, On: faults.OnManifest}, faults.Fault{Kind: faults.Location})
	_, _ = pull(t, member(t, proxy), proxy.Addr, newDir(t)) // may succeed or not, but not give the password away
	_ = push(t, member(t, proxy), proxy.Addr+"/other", d, desc)
	keptSecret(t, proxy)
}

// A token server at the address of a cloud's metadata service, or at another
// host that nobody logged in at, gets nothing.
func TestRealms(t *testing.T) {
	addr := private(t)
	for _, realm := range []string{"http://169.254.169.254/token", "http://[fe80::1]/token", "file:///etc/passwd", "gopher://x/", ":", ""} {
		proxy := faults.Start(t, addr, 8, faults.Fault{Kind: faults.Realm, Value: realm})
		if _, err := pull(t, member(t, proxy), proxy.Addr, newDir(t)); err == nil {
			t.Errorf("realm %q: no error", realm)
		} else {
			t.Logf("realm %q: %v", realm, err)
		}
	}
}

// A token answer without end is not read to it.
func TestHugeToken(t *testing.T) {
	addr := private(t)
	isToken := func(r *http.Request) bool { return r.URL.Path == "/token" }
	proxy := faults.Start(t, addr, 9)
	proxy.Inject(faults.Fault{Kind: faults.Huge, On: isToken, Value: `{"token":"`},
		faults.Fault{Kind: faults.Realm, Value: "http://" + proxy.Addr + "/token"})
	if _, err := pull(t, member(t, proxy), proxy.Addr, newDir(t)); err == nil {
		t.Error("no error")
	} else {
		t.Log(err)
	}
	if s := proxy.Stats(); s.Faults["huge"] == 0 || s.Sent > most {
		t.Errorf("%d bytes were sent: %s", s.Sent, s)
	}
}

// Lists that go on at another host, in circles or without end are given up.
func TestLists(t *testing.T) {
	addr := private(t)
	_, desc := smallImage(t)
	for name, f := range map[string]faults.Fault{
		"another host":  {Kind: faults.Link},
		"metadata":      {Kind: faults.Link, Value: "http://169.254.169.254/latest/meta-data"},
		"circle":        {Kind: faults.Loop},
		"without end":   {Kind: faults.Huge, On: faults.OnList, Value: `{"name":"app","tags":["`},
		"no such thing": {Kind: faults.Huge, On: faults.OnList, Code: 500},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := faults.Start(t, addr, 10, f)
			repo, _, err := member(t, proxy).Repository(proxy.Addr + "/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			tags, err := repo.Tags(t.Context())
			if err == nil {
				t.Errorf("tags %q", tags)
			}
			t.Log(err)
			if _, err := repo.Referrers(t.Context(), desc.Digest); err != nil && len(err.Error()) > 2000 {
				t.Errorf("referrers: an error of %d bytes", len(err.Error()))
			}
			keptSecret(t, proxy)
			if s := proxy.Stats(); s.Requests > 10_100 || s.Sent > 4*most {
				t.Errorf("%d bytes were sent: %s", s.Sent, s)
			}
		})
	}
}

// An answer that is lost leaves open whether the request was done. A push gets
// over that, whatever it was that it asked for.
func TestLostAnswers(t *testing.T) {
	addr := registry.Start(t)
	d, desc := smallImage(t)
	proxy := faults.Start(t, addr, 11, faults.Fault{Kind: faults.Lose, Chance: 0.5, Times: 20})
	if err := push(t, client(t), proxy.Addr, d, desc); err != nil {
		t.Fatal(err)
	}
	dst := newDir(t)
	if _, err := pull(t, client(t), addr, dst); err != nil {
		t.Fatal(err)
	}
	arrived(t, dst, desc)
	if proxy.Stats().Total() == 0 {
		t.Error("no answer was lost")
	}
}
