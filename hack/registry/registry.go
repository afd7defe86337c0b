// Package registry starts a real OCI registry for a test: the pinned
// distribution server of hack/peers, on a free port of the loopback interface,
// with storage that goes away with the test. `hack/tool registry` builds the
// server; `make test` does that.
package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Start runs a registry that speaks plain HTTP and lets everybody in, until
// the test ends. It returns the address, as "127.0.0.1:PORT", and skips the
// test when the server has not been built.
func Start(t testing.TB) string {
	t.Helper()
	return StartWith(t, Options{})
}

// StartWith is Start with options.
func StartWith(t testing.TB, o Options) string {
	t.Helper()
	s, err := Run(t.TempDir(), o)
	if err != nil {
		if errors.As(err, &notBuiltError{}) || errors.As(err, &notInstalledError{}) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.Addr
}

// Options configures a registry. The zero value is plain HTTP for everybody.
type Options struct {
	// Program is another server that reads the same configuration, such as
	// Debian's docker-registry. Empty: the pinned one.
	Program string
	// Htpasswd is a file of users with bcrypt passwords; with it, every
	// request needs basic authentication.
	Htpasswd string
	// Token makes every request need a token of this server.
	Token *Token
	// CertFile and KeyFile are PEM files; with both, the registry speaks TLS.
	CertFile, KeyFile string
	// ReadOnly refuses pushes and deletes.
	ReadOnly bool
}

// Token says whose tokens a registry takes; hack/tokens is such a server.
type Token struct {
	Realm    string // URL that clients are sent to
	Service  string // what the tokens must be for
	Issuer   string // who must have issued them
	CertFile string // PEM file of the certificates that tokens are signed with
}

// A Server is a running registry.
type Server struct {
	Addr string // 127.0.0.1:PORT
	cmd  *exec.Cmd
	log  *logBuffer
}

type notBuiltError struct{ path string }

func (e notBuiltError) Error() string {
	return fmt.Sprintf("no test registry at %s: run hack/tool registry", e.path)
}

type notInstalledError struct{ name string }

func (e notInstalledError) Error() string {
	return fmt.Sprintf("no test registry %s: run hack/deps", e.name)
}

// Run starts a registry with its configuration and storage in dir. It is Start
// for programs that are not tests.
func Run(dir string, o Options) (*Server, error) {
	exe, err := program(o.Program)
	if err != nil {
		return nil, err
	}
	var last error
	for range 5 { // another process may take the free port before the server does
		s, err := run(exe, dir, o)
		if err == nil {
			return s, nil
		}
		last = err
	}
	return nil, last
}

func run(exe, dir string, o Options) (*Server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(config, []byte(configuration(addr, dir, o)), 0o600); err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, cmd: exec.Command(exe, "serve", config), log: &logBuffer{}}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.wait(10 * time.Second); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start registry at %s: %w\n%s", addr, err, s.log)
	}
	return s, nil
}

// Stop ends the server.
func (s *Server) Stop() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	_ = s.cmd.Wait()
}

// Log returns what the server has said so far, for a failing test.
func (s *Server) Log() string { return s.log.String() }

// wait returns when the port answers.
func (s *Server) wait(limit time.Duration) error {
	var last error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		last = err
		if strings.Contains(s.log.String(), "address already in use") {
			return last
		}
	}
	return last
}

// configuration is the server's own format, version 0.1.
func configuration(addr, dir string, o Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, `version: 0.1
log: {level: warn, accesslog: {disabled: true}}
http:
  addr: %s
`, addr)
	if o.CertFile != "" {
		fmt.Fprintf(&b, "  tls: {certificate: %q, key: %q}\n", o.CertFile, o.KeyFile)
	}
	fmt.Fprintf(&b, `storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
  maintenance:
    uploadpurging: {enabled: false}
    readonly: {enabled: %v}
validation:
  manifests:
    urls: {allow: ["^https://"]}
`, filepath.Join(dir, "data"), o.ReadOnly)
	if o.Htpasswd != "" {
		fmt.Fprintf(&b, "auth: {htpasswd: {realm: test, path: %q}}\n", o.Htpasswd)
	}
	if t := o.Token; t != nil {
		fmt.Fprintf(&b, "auth: {token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}\n", t.Realm, t.Service, t.Issuer, t.CertFile)
	}
	return b.String()
}

// program finds a server: one of the system, or the pinned one from any
// directory of the module.
func program(name string) (string, error) {
	if name != "" {
		exe, err := exec.LookPath(name)
		if err != nil {
			return "", notInstalledError{name}
		}
		return exe, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	exe := filepath.Join(".cache", "tools", "bin", "registry")
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, exe)); err == nil {
			return filepath.Join(dir, exe), nil
		}
	}
	return "", notBuiltError{exe}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// A logBuffer keeps the beginning of a log; the server and a test use it at
// the same time.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() < 1<<20 {
		b.buf.Write(p)
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
