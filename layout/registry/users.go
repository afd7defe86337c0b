package registry

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

const (
	maxUsers    = 1 << 20 // bytes of a file of users
	maxVerified = 1000    // passwords whose check is remembered
	realm       = `Basic realm="bk registry", charset="UTF-8"`
)

// users lets in who is in a file of users. Checking a password takes tens of
// milliseconds by design, so one that was right is remembered: its keyed hash,
// as long as the file stays the same.
type users struct {
	path string
	key  [32]byte      // of this process, for the hashes
	cpu  chan struct{} // bounds how many passwords are checked at once

	mu       sync.Mutex
	file     fs.FileInfo
	hashes   map[string][]byte // user -> bcrypt
	verified map[[sha256.Size]byte]bool
}

func newUsers(path string) (*users, error) {
	u := &users{path: path, cpu: make(chan struct{}, runtime.GOMAXPROCS(0))}
	rand.Read(u.key[:])
	_, err := u.load()
	return u, err
}

// load returns the users of the file as it is now.
func (u *users) load() (map[string][]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, err := os.Open(u.path)
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	if u.file != nil && os.SameFile(fi, u.file) && fi.Size() == u.file.Size() && fi.ModTime().Equal(u.file.ModTime()) {
		return u.hashes, nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUsers+1))
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	hashes, err := parseUsers(b)
	if err != nil {
		return nil, fmt.Errorf("read users: %s: %w", u.path, err)
	}
	u.file, u.hashes, u.verified = fi, hashes, map[[sha256.Size]byte]bool{}
	return hashes, nil
}

// parseUsers parses a file of users: "NAME:HASH" a line, empty lines and
// comments (#) aside. Only bcrypt is taken: htpasswd's other hashes are broken.
func parseUsers(b []byte) (map[string][]byte, error) {
	if len(b) > maxUsers {
		return nil, fmt.Errorf("it has more than %d bytes", maxUsers)
	}
	hashes := map[string][]byte{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d is not NAME:HASH", n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("line %d: the password is not hashed with bcrypt: use htpasswd -B", n)
		}
		hashes[name] = []byte(hash)
	}
	return hashes, lines.Err()
}

// check returns the user that a request is from, or asks for one.
func (u *users) check(w http.ResponseWriter, req *http.Request) (string, error) {
	hashes, err := u.load()
	if err != nil {
		return "", err
	}
	name, password, ok := req.BasicAuth()
	if ok && u.verify(hashes, name, password) {
		return name, nil
	}
	w.Header().Set("WWW-Authenticate", realm)
	return "", problemf(http.StatusUnauthorized, codeUnauthorized, "log in with a user name and a password")
}

// verify says whether a password is the user's.
func (u *users) verify(hashes map[string][]byte, name, password string) bool {
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	seen := [sha256.Size]byte(mac.Sum(nil))
	u.mu.Lock()
	known := u.verified[seen]
	u.mu.Unlock()
	if known {
		return true
	}
	hash, ok := hashes[name]
	if !ok {
		hash = anyHash(hashes)
	}
	u.cpu <- struct{}{}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
	<-u.cpu
	if !right || !ok {
		return false
	}
	u.remember(name, hash, seen)
	return true
}

// anyHash returns the hash of some user: what the password of an unknown one is
// compared with, so that the answer takes as long as for a known one.
func anyHash(hashes map[string][]byte) []byte {
	for _, hash := range hashes {
		return hash
	}
	return nil
}

// remember notes that a password was right, unless the file has changed
// meanwhile.
func (u *users) remember(name string, hash []byte, seen [sha256.Size]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !bytes.Equal(u.hashes[name], hash) {
		return
	}
	if len(u.verified) >= maxVerified {
		clear(u.verified)
	}
	u.verified[seen] = true
}
