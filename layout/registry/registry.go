package registry

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"bk.build/bk/layout"
)

// Limits on clients. They are generous to slow ones that make progress.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes
)

// limits are those of one request. Tests make them small.
type limits struct {
	stall   time.Duration // without a byte of a request's body
	slowest int64         // bytes per second that an answer must be read at
}

// Options configures a registry. The zero value lets everybody read and write.
type Options struct {
	// ReadOnly refuses everything but reading. Nothing is written to the layout.
	ReadOnly bool
	// Htpasswd is a file of users, "NAME:BCRYPT" a line; with it, each request
	// needs one by basic authentication. It is read again when it changes.
	Htpasswd string
	// MaxBlob bounds a blob, in bytes. <= 0: 1 TiB.
	MaxBlob int64
	// MaxUploads bounds how many uploads may be unfinished. <= 0: 1000.
	MaxUploads int
	// UploadAge is how long an upload may rest before it is removed. <= 0: a day.
	UploadAge time.Duration
	// Log is told each request when it is answered; nil: nobody is.
	Log func(Request)
}

func (o *Options) applyDefaults() {
	if o.MaxBlob <= 0 {
		o.MaxBlob = 1 << 40
	}
	if o.MaxUploads <= 0 {
		o.MaxUploads = 1000
	}
	if o.UploadAge <= 0 {
		o.UploadAge = 24 * time.Hour
	}
}

// A Request is what has been asked and answered. Path, Method and User are the
// client's text.
type Request struct {
	Remote string // address of the client
	User   string // who was let in; empty without Htpasswd
	Method string
	Path   string // with the query
	Status int
	Bytes  int64 // of the answer's body
	Took   time.Duration
	Err    error // why it failed on our side; nil: it did not
}

// A Registry is an http.Handler that serves one layout. Any number of them, in
// any number of processes, may serve the same directory.
type Registry struct {
	dir     *layout.Dir
	opts    Options
	users   *users // nil: everybody may
	names   names
	uploads uploads
	foreign *http.CrossOriginProtection
	limits  limits

	update sync.Mutex // one change of index.json at a time, before its file lock
	view   viewCache
	links  linkCache
}

// New returns a registry over a layout. A directory that blobs are written to
// should have been opened with [layout.Create], which gets rid of corrupt ones.
func New(dir *layout.Dir, opts Options) (*Registry, error) {
	opts.applyDefaults()
	base, err := baseName(dir.Path())
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", dir.Path(), err)
	}
	r := &Registry{
		dir: dir, opts: opts, names: names{base: base},
		uploads: uploads{dir: dir, opts: opts, open: map[string]*session{}},
		foreign: http.NewCrossOriginProtection(),
		limits:  limits{stall: time.Minute, slowest: 32 << 10},
	}
	if opts.Htpasswd != "" {
		if r.users, err = newUsers(opts.Htpasswd); err != nil {
			return nil, err
		}
	}
	if !opts.ReadOnly {
		r.uploads.sweep(time.Now())
	}
	return r, nil
}

// Server returns an HTTP server for the registry with limits against slow and
// hostile clients. The caller listens, serves and shuts it down.
func (r *Registry) Server() *http.Server {
	return &http.Server{
		Handler:           r,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
}

// ServeHTTP answers one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	started := time.Now()
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	rec.Header().Set("X-Content-Type-Options", "nosniff")
	r.limits.answer(rec, 0)
	user, err := r.serve(rec, req)
	if err != nil && rec.status == 0 {
		r.limits.answer(rec, 0)
		asProblem(err).write(rec)
	}
	if r.opts.Log == nil {
		return
	}
	if rec.status < http.StatusInternalServerError {
		err = nil
	}
	r.opts.Log(Request{
		Remote: req.RemoteAddr, User: user, Method: req.Method, Path: req.URL.RequestURI(),
		Status: rec.status, Bytes: rec.bytes, Took: time.Since(started), Err: err,
	})
}

// serve lets a request in and answers it; an error is answered by the caller.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) (user string, err error) {
	if r.users != nil {
		if user, err = r.users.check(w, req); err != nil {
			return "", err
		}
	}
	// A page of another site may not push by way of its reader's browser.
	if err := r.foreign.Check(req); err != nil {
		return user, problemf(http.StatusForbidden, codeDenied, "requests of other sites' pages are refused")
	}
	rt, p := parseRoute(req.URL.Path)
	if p != nil {
		return user, p
	}
	if p := rt.allow(w, req.Method, r.opts.ReadOnly); p != nil {
		return user, p
	}
	return user, r.dispatch(w, req, rt)
}

// dispatch calls what answers a route. Its method is one of the route's.
func (r *Registry) dispatch(w http.ResponseWriter, req *http.Request, rt route) error {
	switch rt.kind {
	case kindPing:
		sendJSON(w, http.StatusOK, "application/json", []byte("{}"))
		return nil
	case kindCatalog:
		return r.catalog(w, req)
	case kindTags:
		return r.tags(w, req, rt)
	case kindReferrers:
		return r.referrers(w, req, rt)
	case kindUploads:
		return r.startUpload(w, req, rt)
	case kindUpload:
		return r.serveUpload(w, req, rt)
	}
	switch req.Method {
	case http.MethodPut:
		return r.putManifest(w, req, rt)
	case http.MethodDelete:
		if rt.kind == kindBlob {
			return r.deleteBlob(w, rt)
		}
		return r.deleteManifest(w, rt)
	}
	if rt.kind == kindBlob {
		return r.getBlob(w, req, rt)
	}
	return r.getManifest(w, req, rt)
}

// recorder remembers what was answered. It keeps the way for sendfile(2) open.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// ReadFrom lets the connection read a file itself.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer bounds how long a client may take to read size bytes.
func (l limits) answer(w http.ResponseWriter, size int64) {
	limit := l.stall + time.Duration(size/l.slowest)*time.Second
	// A writer without deadlines, as tests have it, has no limit.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
}

// body returns the body of a request whose client may be slow but not silent.
func (l limits) body(w http.ResponseWriter, req *http.Request) io.Reader {
	return &body{stall: l.stall, req: req, control: http.NewResponseController(w)}
}

type body struct {
	stall   time.Duration
	req     *http.Request
	control *http.ResponseController
	next    time.Time // when the deadlines are moved again
}

func (b *body) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(b.next) {
		_ = b.control.SetReadDeadline(now.Add(b.stall))
		_ = b.control.SetWriteDeadline(now.Add(2 * b.stall))
		b.next = now.Add(b.stall / 64)
	}
	n, err := b.req.Body.Read(p)
	if err != nil {
		// What follows is work of ours, which may take longer.
		_ = b.control.SetReadDeadline(time.Time{})
		_ = b.control.SetWriteDeadline(time.Now().Add(b.stall))
	}
	if err == io.EOF {
		_ = b.control.SetWriteDeadline(time.Time{})
	}
	return n, err
}
