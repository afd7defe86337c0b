package archive

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/transfer"
)

const (
	defaultDockerHost = "unix:///var/run/docker.sock"
	maxAnswer         = 1 << 20 // bytes of an answer that is not an archive
)

// Daemon is a Docker daemon (or podman's service, which speaks the same) as a
// place: a transfer.Reader of the images that it has. Resolve exports an image
// to a temporary file, from which Open reads, until Close. It is safe for
// concurrent use.
//
// The daemon is asked by the Docker Engine API, over its socket:
// GET /images/get?names=NAME gives a docker-archive, POST /images/load takes one.
type Daemon struct {
	host   string // for messages
	base   string // of URLs
	client *http.Client

	mu     sync.Mutex
	images map[string]*Archive // by name
}

// NewDaemon returns the daemon at host: unix://PATH or tcp://HOST:PORT, without
// TLS. Empty means the usual socket.
func NewDaemon(host string) (*Daemon, error) {
	host = cmp.Or(host, defaultDockerHost)
	d := &Daemon{host: host, base: "http://docker", images: map[string]*Archive{}}
	scheme, addr, _ := strings.Cut(host, "://")
	dialer := net.Dialer{Timeout: 30 * time.Second}
	transport := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	switch {
	case scheme == "unix" && addr != "":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", addr)
		}
	case scheme == "tcp" && addr != "" && !strings.ContainsAny(addr, "/?#@"):
		d.base, transport.DialContext = "http://"+addr, dialer.DialContext
	default:
		return nil, fmt.Errorf("docker host %q: want unix://PATH or tcp://HOST:PORT; others, and TLS, are not supported", host)
	}
	// The daemon redirects nowhere; what does is something else.
	d.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return d, nil
}

// Close drops the images that were exported.
func (d *Daemon) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.client.CloseIdleConnections()
	var errs []error
	for _, a := range d.images {
		errs = append(errs, a.Close())
	}
	clear(d.images)
	return errors.Join(errs...)
}

// Resolve exports the image that the daemon knows as ref, a name or an ID.
func (d *Daemon) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	a, err := d.image(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("export %q of Docker at %s: %w", ref, d.host, err)
	}
	desc, err := a.Resolve(ctx, "")
	if err != nil {
		desc, err = a.Resolve(ctx, ref)
	}
	return desc, err
}

func (d *Daemon) image(ctx context.Context, ref string) (*Archive, error) {
	if ref == "" || strings.HasPrefix(ref, "-") || !plain(ref) {
		return nil, errors.New("name an image, such as docker-daemon:app:v1")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.images[ref]; a != nil {
		return a, nil
	}
	resp, err := d.do(ctx, http.MethodGet, "/images/get?names="+url.QueryEscape(tagged(ref)), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a, err := Read(ctx, ref, resp.Body)
	if err == nil {
		d.images[ref] = a
	}
	return a, err
}

// tagged adds the tag that a name without one means; the daemon would take it
// for all tags. An ID stays as it is.
func tagged(ref string) string {
	id := len(ref) >= 12 && strings.Trim(ref, "0123456789abcdef") == ""
	if id || strings.ContainsAny(ref[strings.LastIndex(ref, "/")+1:], ":@") {
		return ref
	}
	return ref + ":latest"
}

// Open reads from the images that were resolved; see transfer.Reader.
func (d *Daemon) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	d.mu.Lock()
	images := slices.Collect(maps.Values(d.images))
	d.mu.Unlock()
	err := fmt.Errorf("blob %s: it is of no image that was exported: %w", desc.Digest, fs.ErrNotExist)
	for _, a := range images {
		r, openErr := a.Open(ctx, desc)
		if openErr == nil {
			return r, nil
		}
		err = openErr
	}
	return nil, err
}

// Load streams the image desc of src, which WriteDocker explains, into the
// daemon.
func (d *Daemon) Load(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, names []string, platform *ocispec.Platform) error {
	err := d.load(ctx, func(w io.Writer) error { return WriteDocker(ctx, w, src, desc, names, platform) })
	if err != nil {
		return fmt.Errorf("load %s into Docker at %s: %w", desc.Digest, d.host, err)
	}
	return nil
}

// load posts what write writes.
func (d *Daemon) load(ctx context.Context, write func(io.Writer) error) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		b := bufio.NewWriterSize(pw, 256<<10)
		err := write(b)
		if err == nil {
			err = b.Flush()
		}
		pw.CloseWithError(err)
		written <- err
	}()
	resp, err := d.do(ctx, http.MethodPost, "/images/load?quiet=1", pr)
	if err == nil {
		err = loadAnswer(resp.Body)
		resp.Body.Close()
	}
	pr.CloseWithError(errLoadEnded)
	if werr := <-written; werr != nil && !errors.Is(werr, errLoadEnded) {
		return werr // the cause of what the daemon says
	}
	return err
}

// errLoadEnded is what a writer sees when the daemon wants no more.
var errLoadEnded = errors.New("the daemon has ended the upload")

// loadAnswer reads the daemon's messages on a load, of which one may be an
// error.
func loadAnswer(body io.Reader) error {
	dec := json.NewDecoder(io.LimitReader(body, maxAnswer))
	for {
		var m struct {
			Error       string `json:"error"`
			ErrorDetail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		err := dec.Decode(&m)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if text := cmp.Or(m.Error, m.ErrorDetail.Message); text != "" {
			return fmt.Errorf("the daemon says: %.1000q", text)
		}
	}
}

// do sends a request; an answer that is not a success is an error.
func (d *Daemon) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, d.dialError(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

// answerError is the daemon's error, {"message":"..."}.
func answerError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	var answer struct{ Message string }
	if json.Unmarshal(b, &answer) != nil || answer.Message == "" {
		answer.Message = string(bytes.TrimSpace(b))
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("the daemon says: %.1000q: %w", answer.Message, fs.ErrNotExist)
	}
	return fmt.Errorf("the daemon answers %s: %.1000q", resp.Status, answer.Message)
}

// dialError says what to do when the socket cannot be used.
func (d *Daemon) dialError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // its text has a URL that nobody knows
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: this user may not use the socket: become a member of its group, or root", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		// It is not the image that is missing.
		return errors.New(err.Error() + ": is the daemon running? $DOCKER_HOST says where it is")
	}
	return err
}
