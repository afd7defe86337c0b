package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout"
)

const (
	tmpDir       = "tmp" // of a layout
	uploadPrefix = "upload-"
	copyBuffer   = 256 << 10
	sweepEvery   = time.Minute
	lockWait     = 10 * time.Second // for another request to the same upload
)

// uploads are the unfinished uploads of a layout: files in its tmp/. What this
// process knows beside them is only how much it has hashed.
type uploads struct {
	dir  *layout.Dir
	opts Options

	mu    sync.Mutex
	open  map[string]*session
	swept time.Time
}

// A session is an upload as this process knows it.
type session struct {
	busy   chan struct{} // has a value while a request works on the session
	alg    digest.Algorithm
	hash   hash.Hash
	hashed int64 // bytes of the file that hash has seen
}

func (u *uploads) path(id string) string {
	return filepath.Join(u.dir.Path(), tmpDir, uploadPrefix+id)
}

// create starts an upload and returns its id, which cannot be guessed.
func (u *uploads) create(alg digest.Algorithm) (string, error) {
	if err := u.admit(); err != nil {
		return "", err
	}
	var b [16]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	for try := 0; ; try++ {
		f, err := os.OpenFile(u.path(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			u.session(id).use(alg)
			return id, f.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return "", fmt.Errorf("start upload: %w", err)
		}
		// Whoever tidies a layout may remove tmp/ while it is empty.
		if err := os.Mkdir(filepath.Dir(u.path(id)), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("start upload: %w", err)
		}
	}
}

// admit refuses an upload when too many are unfinished. Those that have rested
// too long are removed first, now and then.
func (u *uploads) admit() error {
	u.mu.Lock()
	due := time.Since(u.swept) > sweepEvery
	u.mu.Unlock()
	if due {
		u.sweep(time.Now())
	}
	n := 0
	entries, err := os.ReadDir(filepath.Join(u.dir.Path(), tmpDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), uploadPrefix) {
			n++
		}
	}
	if n >= u.opts.MaxUploads {
		return problemf(http.StatusTooManyRequests, codeTooManyRequests, "%d uploads are unfinished: finish or cancel some", n)
	}
	return nil
}

// sweep removes what nobody has written to for long: uploads, and the blobs of
// a process that was killed.
func (u *uploads) sweep(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.swept = now
	dir := filepath.Join(u.dir.Path(), tmpDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, isUpload := strings.CutPrefix(e.Name(), uploadPrefix)
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || !isUpload && !strings.HasPrefix(e.Name(), "blob-") {
			continue
		}
		if now.Sub(fi.ModTime()) > u.opts.UploadAge && os.Remove(filepath.Join(dir, e.Name())) == nil {
			delete(u.open, id)
		}
	}
}

// session returns what is known of an upload, and remembers it.
func (u *uploads) session(id string) *session {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.open[id]
	if s == nil {
		s = &session{busy: make(chan struct{}, 1)}
		u.open[id] = s
	}
	return s
}

// forget drops what is known of an upload that is over.
func (u *uploads) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}

// size returns how many bytes of an upload have come.
func (u *uploads) size(id string) (int64, error) {
	fi, err := os.Lstat(u.path(id))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return 0, noUpload()
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// An upload is a session that one request has to itself.
type upload struct {
	*session
	uploads *uploads
	id      string
	file    *os.File
	size    int64
}

// acquire waits until no other request, of this process or another, writes to
// the upload. The caller releases it.
func (u *uploads) acquire(ctx context.Context, id string) (*upload, error) {
	if _, err := u.size(id); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	s := u.session(id)
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, busyUpload()
	}
	up := &upload{session: s, uploads: u, id: id}
	if err := up.openFile(ctx); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			u.forget(id)
			err = noUpload()
		}
		<-s.busy
		return nil, err
	}
	return up, nil
}

// openFile opens and locks the file, and looks how long it is.
func (up *upload) openFile(ctx context.Context) error {
	path := up.uploads.path(up.id)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|openFlags, 0)
	if err != nil {
		return err
	}
	if err := lock(ctx, f); err != nil {
		f.Close()
		return err
	}
	fi, err := f.Stat()
	if err == nil {
		// Whoever had the lock may have made a blob of the file.
		var at fs.FileInfo
		if at, err = os.Lstat(path); err == nil && !os.SameFile(fi, at) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	up.file, up.size = f, fi.Size()
	return nil
}

// release lets the next request at the upload. It may be called once.
func (up *upload) release() {
	up.file.Close()
	<-up.busy
}

// use begins to hash with an algorithm.
func (s *session) use(alg digest.Algorithm) { s.alg, s.hash, s.hashed = alg, alg.Hash(), 0 }

// append adds a request's body. What came before a failure stays, and the
// client may go on after it.
func (up *upload) append(src io.Reader) error {
	if up.hash == nil {
		up.use(digest.SHA256)
	}
	if err := up.catchUp(); err != nil {
		return err
	}
	limit := up.uploads.opts.MaxBlob - up.size
	n, err := io.CopyBuffer(&uploadWriter{up}, io.LimitReader(src, limit+1), make([]byte, copyBuffer))
	if n > limit {
		up.remove()
		return tooLarge(up.uploads.opts.MaxBlob)
	}
	return err
}

// uploadWriter writes to the file and the hash.
type uploadWriter struct{ up *upload }

func (w *uploadWriter) Write(p []byte) (int, error) {
	n, err := w.up.file.Write(p)
	w.up.hash.Write(p[:n])
	w.up.size += int64(n)
	w.up.hashed += int64(n)
	if err != nil {
		return n, &storageError{err}
	}
	return n, nil
}

// A storageError is a failure to write, which is not the client's.
type storageError struct{ err error }

func (e *storageError) Error() string { return "write upload: " + e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// catchUp hashes what another process, or this program before a restart, has
// written.
func (up *upload) catchUp() error {
	if up.hashed > up.size {
		up.use(up.alg)
	}
	rest := io.NewSectionReader(up.file, up.hashed, up.size-up.hashed)
	n, err := io.CopyBuffer(up.hash, struct{ io.Reader }{rest}, make([]byte, min(copyBuffer, rest.Size()+1)))
	up.hashed += n
	if err != nil {
		return fmt.Errorf("read upload: %w", err)
	}
	return nil
}

// commit makes the upload a blob when it has the digest; otherwise it is gone.
func (up *upload) commit(want digest.Digest) error {
	if up.hash == nil || up.alg != want.Algorithm() {
		up.use(want.Algorithm())
	}
	if err := up.catchUp(); err != nil {
		return err
	}
	if got := digest.NewDigest(up.alg, up.hash); got != want {
		up.remove()
		return problemf(http.StatusBadRequest, codeDigestInvalid, "the %d bytes that came have the digest %s", up.size, got)
	}
	if !renameOpen {
		up.file.Close()
	}
	if err := up.uploads.dir.AdoptVerified(up.file.Name(), want); err != nil {
		return err
	}
	up.uploads.forget(up.id)
	return nil
}

// remove gives the upload up.
func (up *upload) remove() {
	os.Remove(up.file.Name())
	up.uploads.forget(up.id)
}

func busyUpload() *problem {
	return problemf(http.StatusConflict, codeUploadInvalid, "another request writes to this upload")
}

func tooLarge(max int64) *problem {
	return problemf(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a blob has at most %d bytes", max)
}
