package containerd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// Labels on content that its collector follows (containerd, docs/garbage-
// collection.md): what begins with gcLabel has a digest that is kept as long as
// the labelled content is.
const (
	gcLabel       = "containerd.io/gc.ref.content."
	referrerLabel = gcLabel + "referrer."
	expireLabel   = "containerd.io/gc.expire"
)

// leaseTime is when containerd ends the lease of a process that was killed.
const leaseTime = 24 * time.Hour

// pieceSize is how many bytes of a blob a message has.
const pieceSize = 1 << 20

// writing returns the context of a call that writes in the namespace: under our
// lease, which the first one makes.
func (s *Store) writing(ctx context.Context) (context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx = s.in(ctx)
	if s.lease == "" {
		id := "bk-" + rand.Text()
		_, err := s.leases.Create(ctx, &leasesapi.CreateRequest{ID: id, Labels: map[string]string{
			expireLabel: time.Now().Add(leaseTime).UTC().Format(time.RFC3339),
		}})
		if err != nil {
			return nil, fmt.Errorf("create lease: %w", s.fail(err))
		}
		s.lease = id
	}
	return metadata.AppendToOutgoingContext(ctx, "containerd-lease", s.lease), nil
}

// Has says whether a blob is there and, of a document, all that it names. What
// is there stays until Close.
func (s *Store) Has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if has, err := s.hold(ctx, desc); err != nil || !has {
		return false, err
	}
	if !layout.IsIndex(desc.MediaType) && !layout.IsManifest(desc.MediaType) {
		return true, nil
	}
	blobs, err := layout.Closure(desc, transfer.Fetch(ctx, s))
	if err != nil {
		return false, nil // it is copied again, and the error comes where it belongs
	}
	for _, blob := range blobs {
		if has, err := s.hold(ctx, blob); err != nil || !has {
			return false, err
		}
	}
	return true, nil
}

// hold puts a blob that is there under our lease.
func (s *Store) hold(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := desc.Digest.Validate(); err != nil {
		return false, fmt.Errorf("blob %q: %w", string(desc.Digest), err)
	}
	wctx, err := s.writing(ctx)
	if err != nil {
		return false, err
	}
	// First the lease and then the question: not the other way round, the blob
	// could go between them.
	_, err = s.leases.AddResource(wctx, &leasesapi.AddResourceRequest{
		ID: s.lease, Resource: &leasesapi.Resource{ID: desc.Digest.String(), Type: "content"},
	})
	if err != nil && status.Code(err) != codes.NotFound {
		return false, s.fail(err)
	}
	resp, err := s.content.Info(wctx, &contentapi.InfoRequest{Digest: desc.Digest.String()})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, s.fail(err)
	}
	return resp.GetInfo().GetSize() == desc.Size, nil
}

// PutBlob stores a blob. containerd hashes it too.
func (s *Store) PutBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := s.put(ctx, desc, r, nil); err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return nil
}

// put stores content with labels.
func (s *Store) put(ctx context.Context, desc ocispec.Descriptor, r io.Reader, labels map[string]string) error {
	if err := layout.CheckDescriptor(desc); err != nil {
		return err
	}
	wctx, err := s.writing(ctx)
	if err != nil {
		return err
	}
	wctx, cancel := context.WithCancel(wctx)
	defer cancel()
	// A reference is taken while somebody writes to it: ours are only ours.
	w := &ingest{store: s, ref: "bk-" + rand.Text() + "-" + desc.Digest.String(), desc: desc, labels: labels}
	if w.stream, err = s.content.Write(wctx); err != nil {
		return s.fail(err)
	}
	err = w.write(r)
	if errors.Is(err, errExists) {
		return nil
	}
	if err != nil {
		cancel()
		_, _ = s.content.Abort(s.in(context.WithoutCancel(ctx)), &contentapi.AbortRequest{Ref: w.ref})
	}
	return err
}

// errExists says that containerd has the content.
var errExists = errors.New("content exists")

// ingest is content on its way into containerd.
type ingest struct {
	store  *Store
	stream contentapi.Content_WriteClient
	ref    string
	desc   ocispec.Descriptor
	labels map[string]string
}

// write sends what r gives, which must be all of it, and commits.
func (w *ingest) write(r io.Reader) error {
	if err := w.call(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_STAT}); err != nil {
		return err
	}
	buf := make([]byte, min(pieceSize, w.desc.Size+1))
	off := int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !end {
			return err
		}
		if off+int64(n) > w.desc.Size {
			return fmt.Errorf("it has more than %d bytes", w.desc.Size)
		}
		if n > 0 {
			if err := w.call(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: off, Data: buf[:n]}); err != nil {
				return err
			}
			off += int64(n)
		}
		if end {
			break
		}
	}
	if off != w.desc.Size {
		return fmt.Errorf("it has %d bytes, want %d", off, w.desc.Size)
	}
	return w.call(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Offset: off, Labels: w.labels})
}

// call sends one message and waits for its answer.
func (w *ingest) call(req *contentapi.WriteContentRequest) error {
	req.Ref, req.Total, req.Expected = w.ref, w.desc.Size, w.desc.Digest.String()
	err := w.stream.Send(req)
	if err == nil || err == io.EOF { // the error is in the answer
		_, err = w.stream.Recv()
	}
	if status.Code(err) == codes.AlreadyExists {
		return errExists
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return w.store.fail(err)
}

// PutManifest stores a document and makes images of the names, which are spelt
// out: containerd knows no others. A document with a subject that is there is
// attached to it and needs no name.
func (s *Store) PutManifest(ctx context.Context, desc ocispec.Descriptor, b []byte, names ...string) error {
	if err := s.putManifest(ctx, desc, b, names); err != nil {
		return fmt.Errorf("write manifest %s: %w", desc.Digest, err)
	}
	return nil
}

func (s *Store) putManifest(ctx context.Context, desc ocispec.Descriptor, b []byte, names []string) error {
	labels, err := childLabels(desc, b)
	if err != nil {
		return err
	}
	in, err := newDocument(desc, b)
	if err != nil {
		return err
	}
	if err := s.put(ctx, desc, in, labels); err != nil {
		return err
	}
	// What was there before, without or with other labels, gets ours too.
	if err := s.label(ctx, desc.Digest.String(), labels); err != nil {
		return err
	}
	attached, err := s.attach(ctx, desc, b)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "" && attached {
			continue
		}
		if err := s.name(ctx, name, desc); err != nil {
			return err
		}
	}
	return nil
}

// newDocument reads b as the content of desc.
func newDocument(desc ocispec.Descriptor, b []byte) (io.Reader, error) {
	return layout.NewVerifyReader(document{bytes.NewReader(b)}, desc)
}

type document struct{ io.ReadSeeker }

func (document) Close() error { return nil }

// childLabels are the labels that keep alive what a document names.
func childLabels(desc ocispec.Descriptor, b []byte) (map[string]string, error) {
	children, err := layout.Children(desc, func(ocispec.Descriptor, int64) ([]byte, error) { return b, nil })
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for i, child := range children {
		switch {
		case layout.IsIndex(desc.MediaType):
			labels[gcLabel+"m."+strconv.Itoa(i)] = child.Digest.String()
		case i == 0:
			labels[gcLabel+"config"] = child.Digest.String()
		default:
			labels[gcLabel+"l."+strconv.Itoa(i-1)] = child.Digest.String()
		}
	}
	return labels, nil
}

// label adds labels to content that is there.
func (s *Store) label(ctx context.Context, dg string, labels map[string]string) error {
	wctx, err := s.writing(ctx)
	if err != nil || len(labels) == 0 {
		return err
	}
	paths := make([]string, 0, len(labels))
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	_, err = s.content.Update(wctx, &contentapi.UpdateRequest{
		Info: &contentapi.Info{Digest: dg, Labels: labels}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	})
	return s.fail(err)
}

// attach keeps a document with a subject alive as long as that is, when it is
// there.
func (s *Store) attach(ctx context.Context, desc ocispec.Descriptor, b []byte) (bool, error) {
	var doc struct {
		Subject *ocispec.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Subject == nil {
		return false, err
	}
	if has, err := s.hold(ctx, *doc.Subject); err != nil || !has {
		return false, err
	}
	return true, s.label(ctx, doc.Subject.Digest.String(), map[string]string{referrerLabel + desc.Digest.Encoded()[:16]: desc.Digest.String()})
}

// name makes an image, or makes the one of that name lead to desc.
func (s *Store) name(ctx context.Context, name string, desc ocispec.Descriptor) error {
	if name == "" {
		return errors.New("containerd keeps only what has a name: give one, such as containerd:docker.io/library/app:v1")
	}
	wctx, err := s.writing(ctx)
	if err != nil {
		return err
	}
	img := &imagesapi.Image{Name: layout.NormalizeName(name), Target: &types.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size, Annotations: desc.Annotations,
	}}
	_, err = s.images.Create(wctx, &imagesapi.CreateImageRequest{Image: img})
	if status.Code(err) == codes.AlreadyExists {
		_, err = s.images.Update(wctx, &imagesapi.UpdateImageRequest{Image: img, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}}})
	}
	if err != nil {
		return fmt.Errorf("name %s: %w", img.GetName(), s.fail(err))
	}
	return nil
}
