package remote

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

const (
	// minSaved is the size from which on a blob's upload is remembered.
	minSaved = 16 << 20
	// maxSavedAge is how long. Registries forget uploads, too.
	maxSavedAge = 7 * 24 * time.Hour
	maxSavedLen = 2 * maxURL
)

// savedUpload is the file of an unfinished upload, STATE/uploads/HASH.json. It
// has no credentials, but a location may be a secret in itself: only its owner
// may read it.
type savedUpload struct {
	Registry   string    `json:"registry"`
	Repository string    `json:"repository"`
	Digest     string    `json:"digest"`
	Location   string    `json:"location"`
	Time       time.Time `json:"time"`
}

// saved tells other processes of an upload. While it is held, nobody else goes
// on with it. The nil pointer tells nobody.
type saved struct {
	path string // without extension
	what savedUpload
	lock *flock.Flock
}

// adopt goes on with an upload that another process has begun, if there is one,
// and makes that this upload is remembered in its turn. What stands in the way
// of that is no error: the blob is then uploaded from its start.
func (u *upload) adopt() {
	dir := u.repo.client.State
	if dir == "" || u.desc.Size < minSaved {
		return
	}
	dir = filepath.Join(dir, "uploads")
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	sweep(dir)
	s := &saved{what: savedUpload{Registry: u.e.host.name, Repository: u.e.path, Digest: u.desc.Digest.String()}}
	h := sha256.Sum256([]byte(s.what.Registry + "\x00" + s.what.Repository + "\x00" + s.what.Digest))
	s.path = filepath.Join(dir, hex.EncodeToString(h[:]))
	s.lock = flock.New(s.path + ".lock")
	if ok, err := s.lock.TryLock(); !ok || err != nil {
		return // somebody uploads the same blob right now
	}
	u.saved = s
	location := s.read()
	if location == nil {
		return
	}
	u.location, u.starts = location, 1
	if err := u.ask(); err != nil {
		u.location = nil
		return
	}
	if u.location != nil && !u.finished {
		u.repo.client.notify("upload of blob %s to %s: going on after %d of %d bytes", u.desc.Digest, u.repo.name, u.off, u.desc.Size)
	}
}

// read returns where the upload of another process goes on; nil: there is none.
func (s *saved) read() *url.URL {
	f, err := os.Open(s.path + ".json")
	if err != nil {
		return nil
	}
	defer f.Close()
	var old savedUpload
	b, err := io.ReadAll(io.LimitReader(f, maxSavedLen))
	if err != nil || json.Unmarshal(b, &old) != nil || old.Location == "" || time.Since(old.Time) > maxSavedAge ||
		old.Registry != s.what.Registry || old.Repository != s.what.Repository || old.Digest != s.what.Digest {
		return nil
	}
	to, err := url.Parse(old.Location)
	if err != nil || to.Host == "" || to.User != nil {
		return nil
	}
	return to
}

// write remembers where the upload goes on.
func (s *saved) write(to *url.URL) {
	if s == nil {
		return
	}
	s.what.Location, s.what.Time = to.String(), time.Now()
	b, err := json.Marshal(s.what)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path+".json")
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// close lets others go on, unless the blob is there.
func (s *saved) close(finished bool) {
	if s == nil {
		return
	}
	if finished {
		os.Remove(s.path + ".json")
	}
	os.Remove(s.path + ".lock")
	_ = s.lock.Unlock()
}

// sweep removes what is too old to be gone on with.
func sweep(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, f := range files {
		fi, err := f.Info()
		if err == nil && fi.Mode().IsRegular() && time.Since(fi.ModTime()) > maxSavedAge {
			os.Remove(filepath.Join(dir, f.Name()))
		}
	}
}
