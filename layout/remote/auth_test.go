package remote

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keys is a keychain with one entry.
type keys struct {
	host string
	auth authn.AuthConfig
}

func (k keys) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() == k.host {
		return authn.FromConfig(k.auth), nil
	}
	return authn.Anonymous, nil
}

// A registry that wants a password gets it, and one that wants a token gets one
// that was bought with the password.
func TestCredentials(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "v1", "amd64")
	basic := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if user, pass, ok := r.BasicAuth(); ok && user == "me" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}`, http.StatusUnauthorized)
		return true
	}
	bearer := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.URL.Path == "/token" {
			if user, pass, ok := r.BasicAuth(); !ok || user != "me" || pass != "secret" {
				w.WriteHeader(401)
			}
			if got := r.URL.Query().Get("scope"); got != "repository:app:pull" {
				t.Errorf("scope %q", got)
			}
			io.WriteString(w, `{"token":"T"}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer T" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, f.URL))
		w.WriteHeader(401)
		return true
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request, int) bool{"basic": basic, "bearer": bearer} {
		t.Run(name, func(t *testing.T) {
			f.inject(fault)
			c := newClient(nil)
			c.Keychain = keys{f.host, authn.AuthConfig{Username: "me", Password: "secret"}}
			if r, err := c.Resolve(t.Context(), f.host+"/app:v1", amd64); err != nil || r.Manifest.Digest != img.Digest {
				t.Errorf("Resolve with credentials = %+v, %v", r, err)
			}
			c = newClient(nil)
			c.Keychain = keys{f.host, authn.AuthConfig{Username: "me", Password: "wrong"}}
			_, err := c.Resolve(t.Context(), f.host+"/app:v1", nil)
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "stored credentials are not accepted") || strings.Contains(err.Error(), "wrong") {
				t.Errorf("Resolve with wrong credentials: %v", err)
			}
			if _, err := newClient(nil).Resolve(t.Context(), f.host+"/app:v1", nil); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Resolve without credentials: %v", err)
			}
		})
	}
}

// Redirects take the request to another host, credentials stay at home.
func TestRedirectKeepsCredentials(t *testing.T) {
	var got []string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
		io.WriteString(w, "0123456789")
	}))
	defer storage.Close()
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	for _, scheme := range []string{"Basic", "Bearer"} {
		f.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			switch {
			case r.URL.Path == "/token":
				io.WriteString(w, `{"token":"T"}`)
			case r.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`%s realm="%s/token"`, scheme, f.URL))
				w.WriteHeader(401)
			case strings.Contains(r.URL.Path, "/blobs/"):
				http.Redirect(w, r, storage.URL+"/x?X-Signature=SECRET", http.StatusTemporaryRedirect)
			default:
				return false
			}
			return true
		})
		c := newClient(nil)
		c.Keychain = keys{f.host, authn.AuthConfig{Username: "me", Password: "secret"}}
		got = nil
		if b, err := readBlob(t, c, f.host+"/app", desc); err != nil || string(b) != "0123456789" {
			t.Errorf("%s: read %q, %v", scheme, b, err)
		}
		if len(got) != 1 || got[0] != "" {
			t.Errorf("%s: the storage saw Authorization %q", scheme, got)
		}
	}
	storage.Close()
	c := newClient(nil)
	c.Keychain = keys{f.host, authn.AuthConfig{Username: "me", Password: "secret"}}
	if _, err := readBlob(t, c, f.host+"/app", desc); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("the error shows the signature: %v", err)
	}
}

// Redirects end, and lead nowhere with a password in the URL.
func TestRedirectLoop(t *testing.T) {
	f := newRegistry(t)
	desc := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	for want, target := range map[string]string{"more than 5 redirects": "", "with credentials": "http://u:p@" + f.host + "/x"} {
		f.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			to := target
			if to == "" {
				to = r.URL.Path
			}
			http.Redirect(w, r, to, http.StatusFound)
			return true
		})
		if _, err := readBlob(t, newClient(nil), f.host+"/app", desc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Blob: %v, want %q", err, want)
		}
	}
}

// A token server at an address inside the network is not asked.
func TestRealm(t *testing.T) {
	f := newRegistry(t)
	f.inject(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token"`)
		w.WriteHeader(401)
		return true
	})
	if _, err := newClient(nil).Resolve(t.Context(), f.host+"/app", nil); err == nil || !strings.Contains(err.Error(), "link-local") || strings.Contains(err.Error(), "--insecure-registry") {
		t.Errorf("Resolve: %v", err)
	}
}

type okTransport struct{}

func (okTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
}

// The last stage before the network lets nothing through in plain text or to
// this machine, unless the registry is there itself or listed as insecure.
func TestGuard(t *testing.T) {
	c := &Client{Insecure: []string{"plain.example:5000"}}
	for _, tt := range []struct {
		registry, url string
		ok            bool
	}{
		{"reg.example", "https://reg.example/v2/", true},
		{"reg.example", "https://cdn.example/x", true},
		{"reg.example", "https://10.1.2.3/x", true}, // storage inside a company
		{"reg.example", "http://reg.example/v2/", false},
		{"reg.example", "http://cdn.example/x", false},
		{"reg.example", "ftp://cdn.example/x", false},
		{"reg.example", "https://169.254.169.254/latest/meta-data", false},
		{"reg.example", "https://[fe80::1]/x", false},
		{"reg.example", "https://[fd00:ec2::254]/x", false},
		{"reg.example", "https://[::ffff:169.254.169.254]/x", false},
		{"reg.example", "https://2852039166/x", false},
		{"reg.example", "https://0xa9.0376.43518/x", false},
		{"reg.example", "https://127.0.0.1/x", false},
		{"reg.example", "https://127.1/x", false},
		{"reg.example", "https://0/x", false},
		{"reg.example", "https://localhost:8080/x", false},
		{"reg.example", "https://[::1]/x", false},
		{"plain.example:5000", "http://plain.example:5000/v2/", true},
		{"plain.example:5000", "https://169.254.169.254/x", false},
		{"10.0.0.1:5000", "http://10.0.0.1:5000/v2/", false},
		{"127.0.0.1:5000", "http://127.0.0.1:5000/v2/", true},
		{"127.0.0.1:5000", "http://127.0.0.1:6000/x", true},
		{"localhost:5000", "http://localhost:5000/v2/", true},
		{"[::1]:5000", "http://[::1]:5000/v2/", true},
		{"127.0.0.1:5000", "http://169.254.169.254/x", false},
		{"127.0.0.1:5000", "https://[fe80::1]/x", false},
	} {
		g, err := c.guard(tt.registry, c.insecure(tt.registry))
		if err != nil {
			t.Fatal(err)
		}
		g.own, g.others = okTransport{}, okTransport{}
		req, err := http.NewRequest(http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := g.RoundTrip(req)
		if (err == nil) != tt.ok {
			t.Errorf("%s -> %s: %v, want ok %v", tt.registry, tt.url, err, tt.ok)
		}
		if err == nil {
			resp.Body.Close()
		} else if !errors.Is(err, errRefused) || temporary(err) {
			t.Errorf("%v would be tried again", err)
		}
	}
	for _, tt := range []struct {
		address   string
		local, ok bool
	}{
		{"169.254.169.254:443", false, false},
		{"169.254.169.254:443", true, false},
		{"[fe80::1%eth0]:443", true, false},
		{"127.0.0.1:443", false, false},
		{"[::1]:443", false, false},
		{"[::ffff:127.0.0.1]:443", false, false},
		{"127.0.0.1:443", true, true},
		{"10.0.0.1:443", false, true},
	} {
		if err := refuseInternal(tt.address, tt.local); (err == nil) != tt.ok {
			t.Errorf("a name that resolves to %s: %v, want ok %v", tt.address, err, tt.ok)
		}
	}
}

// The dialer's old spellings of IPv4 are understood, and nothing else.
func FuzzParseLegacyIPv4(f *testing.F) {
	for _, s := range []string{"127.1", "2130706433", "0x7f.1", "0177.0.0.1", "1.2.3.4", "1.2.3.4.5", "256", "a.b", "", "1_0"} {
		f.Add(s)
	}
	want := map[string]string{"127.1": "127.0.0.1", "2130706433": "127.0.0.1", "0x7f.1": "127.0.0.1", "1.2.3.4": "1.2.3.4", "256": "0.0.1.0"}
	f.Fuzz(func(t *testing.T, s string) {
		addr, ok := parseLegacyIPv4(s)
		if w, known := want[s]; known && (!ok || addr.String() != w) {
			t.Errorf("parseLegacyIPv4(%q) = %v, %v; want %s", s, addr, ok, w)
		}
		if std, err := netip.ParseAddr(s); err == nil && std.Is4() && (!ok || addr != std) {
			t.Errorf("parseLegacyIPv4(%q) = %v, %v; want %v", s, addr, ok, std)
		}
		if ok && strings.Trim(s, "0123456789abcdefABCDEFxXoO.") != "" {
			t.Errorf("parseLegacyIPv4(%q) = %v", s, addr)
		}
	})
}

// A certificate that nobody vouches for is accepted of a listed registry only.
func TestInsecure(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "v1", "amd64")
	server := httptest.NewTLSServer(f.Config.Handler)
	server.Config.ErrorLog = f.Config.ErrorLog
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	if _, err := newClient(nil).Resolve(t.Context(), host+"/app:v1", nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Resolve: %v", err)
	}
	c := newClient(nil)
	c.Insecure = []string{host}
	if r, err := c.Resolve(t.Context(), host+"/app:v1", nil); err != nil || r.Descriptor.Digest != img.Digest {
		t.Errorf("Resolve when listed = %+v, %v", r, err)
	}
}

// writePEM writes a file of one PEM block.
func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A registry's own authority is trusted for it, its client certificate is shown
// to it, and to no other host.
func TestCertDirs(t *testing.T) {
	f := newRegistry(t)
	img := f.putImage(t, "v1", "amd64")
	blob := f.put(t, ocispec.MediaTypeImageLayer, []byte("0123456789"))
	shown := map[string]int{}
	storage := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown["storage"] += len(r.TLS.PeerCertificates)
		io.WriteString(w, "0123456789")
	}))
	storage.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	storage.Config.ErrorLog = f.Config.ErrorLog
	storage.StartTLS()
	defer storage.Close()
	reg := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown["registry"] += len(r.TLS.PeerCertificates)
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, storage.URL, http.StatusFound)
			return
		}
		f.Config.Handler.ServeHTTP(w, r)
	}))
	reg.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	reg.Config.ErrorLog = f.Config.ErrorLog
	reg.StartTLS()
	defer reg.Close()

	host := strings.TrimPrefix(reg.URL, "https://")
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(reg.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, host, "ca.crt"), "CERTIFICATE", reg.Certificate().Raw)
	writePEM(t, filepath.Join(dir, host, "client.cert"), "CERTIFICATE", reg.Certificate().Raw)
	writePEM(t, filepath.Join(dir, host, "client.key"), "PRIVATE KEY", key)
	c := newClient(nil)
	c.CertDirs = []string{dir, filepath.Join(dir, "missing")}
	if r, err := c.Resolve(t.Context(), host+"/app:v1", nil); err != nil || r.Descriptor.Digest != img.Digest || shown["registry"] == 0 {
		t.Errorf("Resolve = %+v, %v; %d certificates shown", r, err, shown["registry"])
	}
	t.Setenv("HOME", t.TempDir()) // a user's own directory is read, too
	if err := os.CopyFS(filepath.Join(os.Getenv("HOME"), ".config/containers/certs.d"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(nil).Resolve(t.Context(), host+"/app:v1", nil); err != nil {
		t.Errorf("Resolve with the user's certificates: %v", err)
	}
	// The storage has the same self-signed certificate, which is not trusted there.
	if _, err := readBlob(t, c, host+"/app", blob); err == nil || !strings.Contains(err.Error(), "certificate") || shown["storage"] != 0 {
		t.Errorf("Blob from untrusted storage: %v; %d certificates shown", err, shown["storage"])
	}
	c.pools[" relaxed"].TLSClientConfig.InsecureSkipVerify = true
	if b, err := readBlob(t, c, host+"/app", blob); err != nil || string(b) != "0123456789" || shown["storage"] != 0 {
		t.Errorf("Blob = %q, %v; %d certificates shown to the storage", b, err, shown["storage"])
	}
	writePEM(t, filepath.Join(dir, host, "ca.crt"), "NOTHING", nil)
	c = newClient(nil)
	c.CertDirs = []string{dir}
	if _, err := c.Resolve(t.Context(), host+"/app:v1", nil); err == nil || !strings.Contains(err.Error(), "ca.crt has no certificate") {
		t.Errorf("Resolve with a bad certificate file: %v", err)
	}
}

// Credentials come from Docker's configuration; a helper that is not installed
// does not stand in the way of a public image, and is named when it matters.
func TestDockerConfig(t *testing.T) {
	f := newRegistry(t)
	f.putImage(t, "v1", "amd64")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	writeConfig := func(v any) {
		b, err := json.Marshal(v)
		if err := errors.Join(err, os.MkdirAll(filepath.Join(home, ".docker"), 0o700),
			os.WriteFile(filepath.Join(home, ".docker/config.json"), b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	private := func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if user, _, _ := r.BasicAuth(); user == "me" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
		return true
	}
	resolve := func() error {
		c := newClient(nil)
		c.Keychain = nil
		_, err := c.Resolve(t.Context(), f.host+"/app:v1", nil)
		return err
	}
	f.inject(private)
	writeConfig(map[string]any{"auths": map[string]any{f.host: map[string]any{"auth": "bWU6c2VjcmV0"}}})
	if err := resolve(); err != nil {
		t.Errorf("Resolve with auths: %v", err)
	}
	writeConfig(map[string]any{"credsStore": "not-installed"})
	if err := resolve(); err == nil || !strings.Contains(err.Error(), "not-installed") || !strings.Contains(err.Error(), "were not used") {
		t.Errorf("Resolve with a missing helper: %v", err)
	}
	f.inject(nil)
	if err := resolve(); err != nil {
		t.Errorf("Resolve of a public image with a missing helper: %v", err)
	}
}

func authConfig(user, password string) authn.AuthConfig {
	return authn.AuthConfig{Username: user, Password: password}
}
