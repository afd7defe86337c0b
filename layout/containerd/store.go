package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

const (
	defaultAddress   = "/run/containerd/containerd.sock"
	defaultNamespace = "default"
)

// maxImages bounds the names that are listed.
const maxImages = 10_000

// Store is a namespace of a containerd: a transfer.Reader, Writer and Lister.
// Its references are the names of images, in full or as Docker shortens them,
// and digests. It is safe for concurrent use.
type Store struct {
	conn      *grpc.ClientConn
	address   string
	namespace string
	content   contentapi.ContentClient
	images    imagesapi.ImagesClient
	leases    leasesapi.LeasesClient

	mu    sync.Mutex
	lease string // that what we write is under; empty: none yet
}

// Open connects to the containerd whose socket is at address, which may begin
// with "unix://", for one of its namespaces; empty: those that ctr uses. The
// caller closes the Store.
func Open(ctx context.Context, address, namespace string) (*Store, error) {
	address = strings.TrimPrefix(cmp.Or(address, defaultAddress), "unix://")
	if err := dial(ctx, address); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///containerd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", address)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return &Store{
		conn: conn, address: address, namespace: cmp.Or(namespace, defaultNamespace),
		content: contentapi.NewContentClient(conn), images: imagesapi.NewImagesClient(conn), leases: leasesapi.NewLeasesClient(conn),
	}, nil
}

// dial tries the socket once, because the connection's own errors come late and
// say little.
func dial(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "unix", address)
	if err == nil {
		return conn.Close()
	}
	hint := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = ": only root may use it, as a rule"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		// It is not an image that is missing.
		return fmt.Errorf("connect to containerd: %s: is it running? $CONTAINERD_ADDRESS says where its socket is", err.Error())
	}
	return fmt.Errorf("connect to containerd: %w%s", err, hint)
}

// Close ends the lease on what was written, and the connection. What has no name
// is then collected.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.lease != "" {
		// Not the context of the operation, which may be what has ended.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err = s.leases.Delete(s.in(ctx), &leasesapi.DeleteRequest{ID: s.lease})
		err = s.fail(err)
	}
	return errors.Join(err, s.conn.Close())
}

// in returns the context of a call in the namespace.
func (s *Store) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", s.namespace)
}

// fail translates the error of a call.
func (s *Store) fail(err error) error {
	switch st := status.Convert(err); st.Code() {
	case codes.OK:
		return nil
	case codes.NotFound:
		return fmt.Errorf("containerd: %.1000s: %w", st.Message(), fs.ErrNotExist)
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return fmt.Errorf("containerd at %s: %.1000q (%s)", s.address, st.Message(), st.Code())
	}
}

// Resolve returns the descriptor that an image's name leads to; a digest may
// also be that of a document that no image names.
func (s *Store) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	desc, err := s.resolve(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %q in containerd's namespace %s: %w", ref, s.namespace, err)
	}
	return desc, nil
}

func (s *Store) resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	if ref == "" {
		return ocispec.Descriptor{}, errors.New("name an image, such as containerd:docker.io/library/app:v1")
	}
	for _, name := range slices.Compact([]string{ref, layout.NormalizeName(ref)}) {
		resp, err := s.images.Get(s.in(ctx), &imagesapi.GetImageRequest{Name: name})
		if err == nil {
			return fromAPI(resp.GetImage().GetTarget())
		}
		if status.Code(err) != codes.NotFound && status.Code(err) != codes.InvalidArgument {
			return ocispec.Descriptor{}, s.fail(err)
		}
	}
	if dg, ok := layout.RefDigest(ref); ok {
		return s.describe(ctx, dg)
	}
	return ocispec.Descriptor{}, fs.ErrNotExist
}

// describe makes the descriptor of a document that is known by its digest.
func (s *Store) describe(ctx context.Context, dg digest.Digest) (ocispec.Descriptor, error) {
	info, err := s.info(ctx, dg)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dg, Size: info.GetSize()}
	b, err := transfer.ReadDocument(ctx, s, desc, layout.MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc.MediaType, err = layout.DetectMediaType(b)
	return desc, err
}

// info asks for a blob.
func (s *Store) info(ctx context.Context, dg digest.Digest) (*contentapi.Info, error) {
	if err := dg.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", string(dg), err)
	}
	resp, err := s.content.Info(s.in(ctx), &contentapi.InfoRequest{Digest: dg.String()})
	if err != nil {
		return nil, s.fail(err)
	}
	return resp.GetInfo(), nil
}

// fromAPI returns a descriptor of an image.
func fromAPI(d *types.Descriptor) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{
		MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations(),
	}
	return desc, layout.CheckDescriptor(desc)
}

// Tags returns the names of the namespace's images, sorted.
func (s *Store) Tags(ctx context.Context) ([]string, error) {
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, img := range list {
		names = append(names, img.GetName())
	}
	slices.Sort(names)
	return names, nil
}

func (s *Store) list(ctx context.Context) ([]*imagesapi.Image, error) {
	resp, err := s.images.List(s.in(ctx), &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", s.fail(err))
	}
	if n := len(resp.GetImages()); n > maxImages {
		return nil, fmt.Errorf("list images: containerd's namespace %s has %d, at most %d are read", s.namespace, n, maxImages)
	}
	return resp.GetImages(), nil
}

// Referrers returns the manifests whose subject is the given one: those that
// [Store.PutManifest] has attached to it, and those that are images of their
// own.
func (s *Store) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var entries []ocispec.Descriptor
	info, err := s.info(ctx, subject)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for key, value := range info.GetLabels() {
		if strings.HasPrefix(key, referrerLabel) {
			if desc, err := s.describe(ctx, digest.Digest(value)); err == nil {
				entries = append(entries, desc)
			}
		}
	}
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range list {
		if desc, err := fromAPI(img.GetTarget()); err == nil {
			entries = append(entries, layout.NamedDescriptor(img.GetName(), desc))
		}
	}
	found := transfer.IndexReferrers(entries, transfer.Fetch(ctx, s), subject)
	slices.SortFunc(found, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return found, nil
}
