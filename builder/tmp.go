package builder

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// scratch is a process's own directory below the store's tmp. It exists only
// once somebody asked for a name in it, and holds a lock file that tells other
// processes that its owner lives.
type scratch struct {
	parent string
	mu     sync.Mutex
	dir    string
	lock   *os.File
}

// path returns a fresh name in the scratch directory; nothing is created there.
func (s *scratch) path(prefix string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		if err := s.create(); err != nil {
			return "", fmt.Errorf("create a temporary directory: %w", err)
		}
	}
	return filepath.Join(s.dir, prefix+"-"+randomID()), nil
}

func (s *scratch) create() error {
	if err := os.MkdirAll(s.parent, 0o700); err != nil {
		return err
	}
	// The lock is taken before the directory gets the name under which the
	// sweeper looks for it.
	id := randomID()
	hidden := filepath.Join(s.parent, ".new-"+id)
	if err := os.Mkdir(hidden, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(hidden, "lock"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := lockFile(lock, true, false); err != nil {
		return err
	}
	dir := filepath.Join(s.parent, "run-"+id)
	if err := os.Rename(hidden, dir); err != nil {
		return err
	}
	s.dir, s.lock = dir, lock
	return nil
}

// mkdir returns a fresh directory.
func (s *scratch) mkdir(prefix string) (string, error) {
	p, err := s.path(prefix)
	if err != nil {
		return "", err
	}
	return p, os.Mkdir(p, 0o700)
}

func (s *scratch) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		return nil
	}
	err := os.RemoveAll(s.dir)
	s.lock.Close()
	s.dir = ""
	return err
}

// leftoverAge is how old a file in tmp without an owner's lock is when nobody
// can be writing it any more.
const leftoverAge = 24 * time.Hour

// sweep removes what processes that are gone left in a store's tmp.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if !strings.HasPrefix(e.Name(), "run-") {
			// Nobody holds a lock on these: they go by age.
			if st, err := e.Info(); err == nil && time.Since(st.ModTime()) > leftoverAge {
				os.RemoveAll(dir)
			}
			continue
		}
		f, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if lockFile(f, true, false) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}

// randomID returns a name that nobody else has.
func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
