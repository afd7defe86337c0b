package layout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Problem is something wrong in a layout.
type Problem struct {
	// Where is a blob's digest, a file's path relative to the layout, or an
	// entry's name.
	Where string
	Err   error
}

func (p Problem) String() string { return p.Where + ": " + p.Err.Error() }

// Report is what Verify found.
type Report struct {
	Blobs    int   // that were hashed
	Bytes    int64 // in them
	Images   int   // entries of index.json
	Unused   int   // blobs that no entry of index.json leads to
	Problems []Problem
}

// Verify hashes every blob of the layout, with the given number of readers (at
// least one), and checks that everything that index.json leads to is there and
// well-formed. A layer that is missing is no problem when missingLayers is true:
// a build does not pull the layers of a base that it does not look into. Verify
// changes nothing; the error is that of a directory that cannot be read, or of
// ctx.
func (d *Dir) Verify(ctx context.Context, readers int, missingLayers bool) (Report, error) {
	v := verifier{dir: d, sizes: map[digest.Digest]int64{}, missingLayers: missingLayers}
	if err := v.hashAll(ctx, max(readers, 1)); err != nil {
		return v.report, fmt.Errorf("verify OCI layout %s: %w", d.path, err)
	}
	v.checkIndex()
	slices.SortFunc(v.report.Problems, func(a, b Problem) int { return cmp.Compare(a.String(), b.String()) })
	return v.report, nil
}

type verifier struct {
	dir           *Dir
	missingLayers bool
	mu            sync.Mutex
	sizes         map[digest.Digest]int64 // of the blobs that are good
	report        Report
}

func (v *verifier) problem(where string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Problems = append(v.report.Problems, Problem{Where: where, Err: err})
}

// hashAll hashes the files in blobs/.
func (v *verifier) hashAll(ctx context.Context, readers int) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	blobs := filepath.Join(v.dir.path, ocispec.ImageBlobsDir)
	algorithms, err := os.ReadDir(blobs)
	if err != nil {
		return err
	}
	for _, alg := range algorithms {
		if !alg.IsDir() {
			v.problem(filepath.Join(ocispec.ImageBlobsDir, alg.Name()), errors.New("it is not a directory of blobs"))
			continue
		}
		files, err := os.ReadDir(filepath.Join(blobs, alg.Name()))
		if err != nil {
			return err
		}
		for _, f := range files {
			if gctx.Err() != nil {
				break
			}
			g.Go(func() error { return v.hashOne(gctx, alg.Name(), f) })
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// hashOne hashes one file. That it disappears meanwhile is no problem.
func (v *verifier) hashOne(ctx context.Context, alg string, f fs.DirEntry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	where := filepath.Join(ocispec.ImageBlobsDir, alg, f.Name())
	dg := digest.Digest(alg + ":" + f.Name())
	if err := dg.Validate(); err != nil {
		v.problem(where, errors.New("its name is not a digest"))
		return nil
	}
	got, size, err := hashFile(filepath.Join(v.dir.path, where), dg.Algorithm())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		v.problem(dg.String(), err)
	case got != dg:
		v.problem(dg.String(), &CorruptError{Digest: dg, Reason: "has content of digest " + got.String()})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Blobs++
	v.report.Bytes += size
	if err == nil && got == dg {
		v.sizes[dg] = size
	}
	return nil
}

// checkIndex walks from index.json to everything that it leads to.
func (v *verifier) checkIndex() {
	if err := v.dir.checkHeader(); err != nil {
		v.problem(ocispec.ImageLayoutFile, err)
	}
	index, err := v.dir.Index()
	if err != nil {
		v.problem(ocispec.ImageIndexFile, err)
		return
	}
	used := map[digest.Digest]bool{}
	for _, entry := range index.Manifests {
		v.report.Images++
		name := cmp.Or(entry.Annotations[AnnotationImageName], entry.Annotations[ocispec.AnnotationRefName], entry.Digest.String())
		v.checkEntry(name, entry, used)
	}
	v.report.Unused = len(v.sizes)
	for dg := range used {
		if _, ok := v.sizes[dg]; ok {
			v.report.Unused--
		}
	}
}

// checkEntry checks the blobs of one image.
func (v *verifier) checkEntry(name string, entry ocispec.Descriptor, used map[digest.Digest]bool) {
	blobs, err := v.dir.Closure(entry)
	if err != nil {
		v.problem(name, err)
		return
	}
	for _, blob := range blobs {
		used[blob.Digest] = true
		size, ok := v.sizes[blob.Digest]
		switch {
		case ok && size != blob.Size:
			v.problem(name, &CorruptError{Digest: blob.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", size, blob.Size)})
		case !ok && !(v.missingLayers && IsLayer(blob.MediaType) && !v.dir.Has(blob.Digest)):
			v.problem(name, fmt.Errorf("blob %s (%s): %w", blob.Digest, blob.MediaType, fs.ErrNotExist))
		}
	}
}
