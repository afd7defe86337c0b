package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxCert bounds a file of certificates, in bytes.
const maxCert = 1 << 20

// tlsConfig says how to speak TLS to a registry ("": to any other host): whom
// to trust and what to show.
func (c *Client) tlsConfig(registry string, insecure bool) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if registry == "" {
		return conf, nil
	}
	conf.InsecureSkipVerify = insecure
	dirs := c.CertDirs
	if dirs == nil {
		dirs = defaultCertDirs()
	}
	for _, dir := range dirs {
		dir = filepath.Join(dir, registry)
		if err := addCerts(conf, dir); err != nil {
			return nil, fmt.Errorf("read certificates in %s: %w", dir, err)
		}
	}
	return conf, nil
}

// defaultCertDirs are the system's, and what Podman and Docker without root read.
func defaultCertDirs() []string {
	dirs := []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		dirs = append(dirs, filepath.Join(home, ".config/docker/certs.d"), filepath.Join(home, ".config/containers/certs.d"))
	}
	return dirs
}

// addCerts adds the certificates in a directory. One that is missing, or that
// only others may read, has none.
func addCerts(conf *tls.Config, dir string) error {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		switch filepath.Ext(path) {
		case ".crt":
			err = addAuthority(conf, path)
		case ".cert":
			err = addClientCert(conf, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addAuthority trusts a file's certificates beside the system's.
func addAuthority(conf *tls.Config, path string) error {
	b, err := readSmall(path)
	if err != nil {
		return err
	}
	if conf.RootCAs == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
	}
	if !conf.RootCAs.AppendCertsFromPEM(b) {
		return fmt.Errorf("%s has no certificate in PEM format", filepath.Base(path))
	}
	return nil
}

// addClientCert adds NAME.cert with the key NAME.key.
func addClientCert(conf *tls.Config, path string) error {
	cert, err := readSmall(path)
	if err != nil {
		return err
	}
	key, err := readSmall(strings.TrimSuffix(path, ".cert") + ".key")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and its key: %w", filepath.Base(path), err)
	}
	conf.Certificates = append(conf.Certificates, pair)
	return nil
}

// readSmall reads a regular file of at most maxCert bytes.
func readSmall(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxCert {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxCert)
	}
	return os.ReadFile(path)
}
