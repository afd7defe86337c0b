package containerd

import (
	"context"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// Open reads a blob or a document; see transfer.Reader. The result is an
// io.Seeker. It reads until it is closed or ctx ends.
func (s *Store) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	info, err := s.info(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", desc.Digest, err)
	}
	if info.GetSize() != desc.Size {
		return nil, &layout.CorruptError{Digest: desc.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", info.GetSize(), desc.Size)}
	}
	return layout.NewVerifyReader(&blobReader{store: s, ctx: ctx, desc: desc}, desc)
}

// blobReader reads one blob by as many calls as there are seeks.
type blobReader struct {
	store *Store
	ctx   context.Context // of the caller of Open; the reader is its only user
	desc  ocispec.Descriptor

	off    int64 // of the next byte
	stream contentapi.Content_ReadClient
	cancel context.CancelFunc // ends stream
	rest   []byte             // received and not yet given
}

func (r *blobReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.off >= r.desc.Size {
			return 0, io.EOF
		}
		if err := r.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	r.off += int64(n)
	return n, nil
}

// receive gets the next piece.
func (r *blobReader) receive() error {
	if r.stream == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		stream, err := r.store.content.Read(r.store.in(ctx), &contentapi.ReadContentRequest{Digest: r.desc.Digest.String(), Offset: r.off})
		if err != nil {
			cancel()
			return r.store.fail(err)
		}
		r.stream, r.cancel = stream, cancel
	}
	resp, err := r.stream.Recv()
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return r.store.fail(err)
	}
	r.rest = resp.GetData() // its offset is from the start of the blob or of the call, as the version of containerd has it
	return nil
}

// Seek goes to an offset from the start.
func (r *blobReader) Seek(off int64, _ int) (int64, error) {
	r.stop()
	r.off = off
	return off, nil
}

func (r *blobReader) stop() {
	if r.cancel != nil {
		r.cancel()
	}
	r.stream, r.cancel, r.rest = nil, nil, nil
}

func (r *blobReader) Close() error {
	r.stop()
	return nil
}
