//go:build linux

package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"bk.build/bk/hack/registry"
	"bk.build/bk/hack/tokens"
)

// moveServer is a registry of some kind, and how it is to be used.
type moveServer struct {
	addr      string
	private   bool   // "me" with the password "secret" is let in, nobody else
	authority string // it speaks TLS, and this file vouches for it
	// cannot says which peers don't get along with it, and why.
	cannot map[string]string
}

// env makes programs trust the registry.
func (m moveServer) env() []string {
	if m.authority == "" {
		return nil
	}
	return []string{"SSL_CERT_FILE=" + m.authority}
}

// moveServers are constructors of every kind of registry.
var moveServers = map[string]func(t *testing.T) moveServer{
	"distribution": func(t *testing.T) moveServer { return moveServer{addr: registry.Start(t)} },
	"debian with passwords": func(t *testing.T) moveServer {
		return moveServer{private: true, addr: registry.StartWith(t, registry.Options{Program: "docker-registry", Htpasswd: htpasswdFile(t)})}
	},
	"distribution with tokens": func(t *testing.T) moveServer {
		server := tokens.Start(t, tokens.Options{Users: map[string]string{"me": "secret"}})
		return moveServer{
			private: true, addr: registry.StartWith(t, registry.Options{Token: server.Registry()}),
			cannot: map[string]string{"oras": "it asks no token server on this machine"},
		}
	},
	"distribution with TLS": func(t *testing.T) moveServer {
		cert, key := certificate(t)
		return moveServer{authority: cert, addr: registry.StartWith(t, registry.Options{CertFile: cert, KeyFile: key})}
	},
	"debian with TLS and passwords": func(t *testing.T) moveServer {
		cert, key := certificate(t)
		o := registry.Options{Program: "docker-registry", CertFile: cert, KeyFile: key, Htpasswd: htpasswdFile(t)}
		return moveServer{authority: cert, private: true, addr: registry.StartWith(t, o)}
	},
	"referrers": func(t *testing.T) moveServer {
		s := httptest.NewServer(ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(s.Close)
		return moveServer{addr: strings.TrimPrefix(s.URL, "http://")}
	},
	"bk": func(t *testing.T) moveServer { return moveServer{addr: serveLayout(t)} },
	"bk with passwords": func(t *testing.T) moveServer {
		return moveServer{private: true, addr: serveLayout(t, "--htpasswd", htpasswdFile(t))}
	},
}

// htpasswdFile lets in "me" with the password "secret".
func htpasswdFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(name, []byte("me:$2b$04$to8n8XX4AytAI2BbnYeuUuB1QkxRoz2HdI8DjbYLf9xCsyqLANPda\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// serveLayout runs "bk registry serve" on a fresh layout and returns its address.
func serveLayout(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("bk", slices.Concat([]string{"registry", "serve", "--addr", "127.0.0.1:0"}, args, []string{filepath.Join(t.TempDir(), "served")})...)
	cmd.Env = append(os.Environ(), "BK_ROOT="+filepath.Join(t.TempDir(), "store"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("bk registry serve: %v", err)
		}
	})
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, addr, ok := strings.Cut(lines.Text(), "registry at http://"); ok {
			go io.Copy(io.Discard, stderr)
			return addr
		}
	}
	t.Fatal("bk registry serve says no address")
	return ""
}

// certificate writes one for the loopback addresses that vouches for itself, and
// its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bk test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bk-cert-") // where every user can read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// login logs bk, and all peers with it, in at a server.
func (w *peerWorld) login(s *site, m moveServer) {
	w.t.Helper()
	if !m.private {
		return
	}
	w.password = "me:secret"
	cmd := s.command("login", "--username", "me", "--password-stdin", m.addr)
	cmd.Stdin = strings.NewReader("secret\n")
	if o := wait(w.t, cmd); o.code != 0 {
		w.t.Fatalf("bk login: %s", o.stderr)
	}
}

// With every kind of registry, bk and every other program that moves images
// read what the other has pushed there.
func TestMoveRegistries(t *testing.T) {
	src, made := corpus(t)
	for name, start := range moveServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := start(t)
			w := newPeerWorld(t)
			w.plain, w.authority = m.authority == "", m.authority
			w.env = append(w.env, m.env()...)
			s := newSite(t, noContext)
			s.env = w.env
			if m.private {
				if o := s.run("copy", "-q", "oci:"+src.Path()+":index", m.addr+"/bk/index:v1"); o.code != 1 || !strings.Contains(o.stderr, "bk login "+m.addr) {
					t.Errorf("without a password: exit code %d: %s", o.code, o.stderr)
				}
			}
			w.login(s, m)
			s.must("copy", "-q", "oci:"+src.Path()+":index", m.addr+"/bk/index:v1")
			for _, p := range peers(t) {
				t.Run(p.name, func(t *testing.T) {
					if err := p.there(); err != nil {
						t.Skip(err)
					}
					if why := m.cannot[p.name]; why != "" {
						t.Skip(why)
					}
					if err := w.run(t, p.commands(w, m.addr+"/bk/index:v1", m.addr+"/"+p.name+"/index:v1")); err != nil {
						t.Fatal(err)
					}
					out := filepath.Join(t.TempDir(), "out")
					s.must("copy", "-q", m.addr+"/"+p.name+"/index:v1", "oci:"+out+":v1")
					w.same(t, out, "v1", src, made["index"], p.rewrites)
				})
			}
			if m.private {
				s.must("logout", m.addr)
				if o := s.run("copy", "-q", m.addr+"/bk/index:v1", "oci:"+s.path("out")); o.code != 1 {
					t.Errorf("after logging out: exit code %d: %s", o.code, o.stderr)
				}
			}
		})
	}
}
