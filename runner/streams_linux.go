package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"bk.build/bk/runner/host"
)

// streams are the command's standard streams. Files are handed to it as they
// are; other readers and writers are behind pipes.
type streams struct {
	stdin, stdout, stderr *os.File
	mine                  []*os.File // what the child has now, to be closed here
	copies                sync.WaitGroup
	mu                    sync.Mutex
	errs                  []error
	feed                  *os.File // our end of the pipe to stdin
	uid, gid              int
}

// openStreams opens the streams; copying starts at once.
func openStreams(c *Container) (*streams, error) {
	user := c.Spec.Process.User
	s := &streams{uid: int(user.UID), gid: int(user.GID)}
	if c.Isolation == host.SingleID {
		s.uid, s.gid = 0, 0 // there is no other
	}
	err := s.open(c)
	if err != nil {
		s.started()
		_ = s.wait()
		return nil, fmt.Errorf("open the standard streams: %w", err)
	}
	return s, nil
}

func (s *streams) open(c *Container) (err error) {
	if s.stdin, err = s.input(c.Stdin); err != nil {
		return err
	}
	if s.stdout, err = s.output(c.Stdout); err != nil {
		return err
	}
	if c.Stderr != nil && sameWriter(c.Stdout, c.Stderr) {
		s.stderr = s.stdout
		return nil
	}
	s.stderr, err = s.output(c.Stderr)
	return err
}

// sameWriter compares writers that may be of types that don't compare.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return a == b
}

func (s *streams) null(flag int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.mine = append(s.mine, f)
	}
	return f, err
}

// own gives a pipe to the command's user, who may open it again as /dev/stdin
// or /dev/stdout.
func (s *streams) own(f *os.File) error {
	if s.uid|s.gid == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return err
	}
	return f.Chown(s.uid, s.gid)
}

func (s *streams) pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	if err := s.own(w); err != nil { // both ends are one inode
		r.Close()
		w.Close()
		return nil, nil, err
	}
	return r, w, nil
}

func (s *streams) input(from io.Reader) (*os.File, error) {
	if from == nil {
		return s.null(os.O_RDONLY)
	}
	if f, ok := from.(*os.File); ok {
		return f, s.own(f)
	}
	r, w, err := s.pipe()
	if err != nil {
		return nil, err
	}
	s.mine, s.feed = append(s.mine, r), w
	go func() {
		_, _ = io.Copy(w, from) // a command needn't read all of its input
		w.Close()
	}()
	return r, nil
}

func (s *streams) output(to io.Writer) (*os.File, error) {
	if to == nil {
		return s.null(os.O_WRONLY)
	}
	if f, ok := to.(*os.File); ok {
		return f, s.own(f)
	}
	r, w, err := s.pipe()
	if err != nil {
		return nil, err
	}
	s.mine = append(s.mine, w)
	s.copies.Go(func() {
		defer r.Close()
		_, err := io.Copy(to, r)
		if err != nil {
			// The command must not block on a full pipe.
			_, _ = io.Copy(io.Discard, r)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.errs = append(s.errs, err)
	})
	return w, nil
}

// started closes the ends that the child has inherited.
func (s *streams) started() {
	for _, f := range s.mine {
		f.Close()
	}
}

// wait returns when all output has been written.
func (s *streams) wait() error {
	if s.feed != nil {
		s.feed.Close()
	}
	s.copies.Wait()
	return errors.Join(s.errs...)
}
