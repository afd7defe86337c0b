//go:build linux

package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// served is a running "bk registry serve".
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	stdout strings.Builder
	before string      // stderr before the address
	after  chan []byte // stderr after it, when the process has ended
}

// serve starts "bk registry serve" on a free port.
func (s *site) serve(args ...string) *served {
	s.t.Helper()
	v := &served{t: s.t, after: make(chan []byte, 1)}
	v.cmd = s.command(append([]string{"registry", "serve", "--addr", "127.0.0.1:0"}, args...)...)
	v.cmd.Stdout = &v.stdout
	stderr, err := v.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = v.cmd.Process.Kill() })
	lines := bufio.NewReader(stderr)
	for v.url == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.t.Fatalf("bk registry serve has ended: %s%s", v.before, line)
		}
		if url, ok := strings.CutPrefix(line, "registry at "); ok {
			v.url = strings.TrimSpace(url)
		} else {
			v.before += line
		}
	}
	go func() {
		b, _ := io.ReadAll(lines)
		v.after <- b
	}()
	return v
}

// stop ends the server by a signal and returns its exit code and what it wrote
// to stderr since it began to serve.
func (v *served) stop(sig syscall.Signal) (code int, stderr string) {
	v.t.Helper()
	if err := v.cmd.Process.Signal(sig); err != nil {
		v.t.Fatal(err)
	}
	b := <-v.after
	_ = v.cmd.Wait()
	return v.cmd.ProcessState.ExitCode(), string(b)
}

func (v *served) addr() string {
	_, addr, _ := strings.Cut(v.url, "://")
	return addr
}

// What is built into a layout can be pulled from it by a registry that says so,
// also what is built while it runs; what is pushed is in the layout. The end by a
// signal is no failure.
func TestRegistryServe(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY a /\n-- a --\none\n")
	out := s.path("out")
	s.build("-t", "app", "-o", "type=oci,tar=false,dest="+out)
	v := s.serve("--verbose", out)
	digest := strings.TrimSpace(s.must("image", "inspect", "--format", "{{.Digest}}", "oci:"+out).stdout)
	s.must("copy", "docker://"+v.addr()+"/app:latest", "oci:"+s.path("pulled")+":v1")
	s.must("copy", "oci:"+s.path("pulled")+":v1", "docker://"+v.addr()+"/team/app:v2")
	s.build("-t", "example.com/later:v3", "-o", "type=oci,tar=false,dest="+out)
	s.must("copy", "docker://"+v.addr()+"/later:v3", "oci:"+s.path("pulled")+":v3")
	code, log := v.stop(syscall.SIGTERM)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if want := fmt.Sprintf("%s/app:latest %s\n", v.addr(), digest); v.stdout.String() != want || v.before != "" {
		t.Errorf("printed %q and %q, want %q", v.stdout.String(), v.before, want)
	}
	if !strings.Contains(log, "PUT /v2/team/app/manifests/v2 201") {
		t.Errorf("log:\n%s", log)
	}
	for _, name := range []string{"team/app:v2", "example.com/later:v3"} {
		if got := strings.TrimSpace(s.must("image", "inspect", "--format", "{{.Digest}}", "oci:"+out+":"+name).stdout); got == "" {
			t.Errorf("%s is not in the layout", name)
		}
	}
	s.must("image", "validate", "oci:"+out)
}

// A read-only registry takes nothing and makes nothing.
func TestRegistryServeReadOnly(t *testing.T) {
	s := newSite(t, "-- Dockerfile --\nFROM scratch\nCOPY a /\n-- a --\none\n")
	if o := s.run("registry", "serve", "--read-only", s.path("none")); o.code != 1 || !strings.Contains(o.stderr, "none") {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	s.build("-t", "app")
	v := s.serve("--read-only", "store:")
	resp, err := http.Post(v.url+"/v2/a/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Error(resp.Status)
	}
	s.must("copy", "docker://"+v.addr()+"/app", "oci:"+s.path("pulled"))
	if code, log := v.stop(syscall.SIGINT); code != 0 || log != "" {
		t.Errorf("exit code %d: %s", code, log)
	}
}

// With TLS and users nobody else gets in, and everybody is warned of a registry
// that is open to the network.
func TestRegistryServeGuarded(t *testing.T) {
	s := newSite(t, "-- a --\n")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := s.path("users")
	if err := os.WriteFile(users, []byte("ann:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	roots, cert, key := selfSigned(t, s)
	v := s.serve("--htpasswd", users, "--tls-cert", cert, "--tls-key", key, s.path("new"))
	if !strings.HasPrefix(v.url, "https://") {
		t.Errorf("serves at %s", v.url)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for password, want := range map[string]int{"secret": 200, "guess": 401} {
		req, err := http.NewRequest("GET", v.url+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("ann", password)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", password, resp.Status)
		}
	}
	client.CloseIdleConnections()
	if code, _ := v.stop(syscall.SIGTERM); code != 0 || v.before != "" {
		t.Errorf("exit code %d, %q", code, v.before)
	}
	open := s.serve("--addr", "0.0.0.0:0", s.path("new"))
	if !strings.Contains(open.before, "WARNING: everybody") {
		t.Errorf("no warning: %q", open.before)
	}
	open.stop(syscall.SIGTERM)
}

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T, s *site) (roots *x509.CertPool, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(certPEM)
	certFile, keyFile = s.path("cert.pem"), s.path("key.pem")
	for file, b := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return roots, certFile, keyFile
}
