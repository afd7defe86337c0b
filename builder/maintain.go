package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder/cache"
	"bk.build/bk/layout"
)

// Usage is one entry of the store's cache.
type Usage struct {
	Kind     string // "layer", "mount" or "blob"
	ID       string
	Size     int64 // bytes on disk
	LastUsed time.Time
	Shared   bool // a tagged image needs it: pruning leaves it

	path string
}

// DiskUsage lists what the store at root holds, least recently used first.
func DiskUsage(root string) ([]Usage, error) {
	store, err := layout.Create(root)
	if err != nil {
		return nil, err
	}
	m := maintainer{root: root, store: store}
	return m.list()
}

// Hold keeps the collector away from the store at root, which is made when it is
// not there, until release is called: what is being brought into it is not yet
// reachable by a name.
func Hold(root string) (release func() error, err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", err)
	}
	lock, err := openLock(root)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	return lock.Close, nil
}

// PruneOptions says what to remove. The zero value removes all that no tagged
// image needs.
type PruneOptions struct {
	// Keep is how many bytes may stay; the least recently used go first.
	Keep int64
	// OlderThan spares what was used within it.
	OlderThan time.Duration
	// Wait, when builds use the store, is called once before waiting for them.
	Wait func()
}

// Prune removes entries from the cache and returns them. It waits for the
// builds that use the store.
func Prune(ctx context.Context, root string, opts PruneOptions) ([]Usage, error) {
	store, err := layout.Create(root)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(root, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	defer lock.Close()
	if lockFile(lock, true, false) != nil {
		if opts.Wait != nil {
			opts.Wait()
		}
		if err := waitLock(ctx, lock); err != nil {
			return nil, err
		}
	}
	sweep(filepath.Join(root, "tmp"))
	m := maintainer{root: root, store: store}
	return m.prune(opts)
}

type maintainer struct {
	root  string
	store *layout.Dir
	refs  map[digest.Digest]bool // blobs that tagged images need
	packs map[digest.Digest]string
}

// list returns all entries, least recently used first.
func (m *maintainer) list() ([]Usage, error) {
	if err := m.mark(); err != nil {
		return nil, err
	}
	var all []Usage
	for kind, dir := range map[string]string{"layer": "snapshots", "mount": "mounts"} {
		entries, err := os.ReadDir(filepath.Join(m.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			p := filepath.Join(m.root, dir, e.Name())
			st, err := e.Info()
			if err != nil {
				continue
			}
			all = append(all, Usage{Kind: kind, ID: e.Name(), Size: treeSize(p), LastUsed: st.ModTime(), path: p})
		}
	}
	blobs, err := m.blobs()
	if err != nil {
		return nil, err
	}
	all = append(all, blobs...)
	slices.SortFunc(all, func(a, b Usage) int {
		if c := a.LastUsed.Compare(b.LastUsed); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

func (m *maintainer) blobs() ([]Usage, error) {
	var all []Usage
	dir := filepath.Join(m.root, "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			continue
		}
		dg := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		u := Usage{Kind: "blob", ID: dg.String(), Size: st.Size(), LastUsed: st.ModTime(), Shared: m.refs[dg], path: filepath.Join(dir, e.Name())}
		// A layer's blob is as fresh as the layer.
		if owner, ok := m.packs[dg]; ok {
			if st, err := os.Stat(owner); err == nil && st.ModTime().After(u.LastUsed) {
				u.LastUsed = st.ModTime()
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// mark finds the blobs that names in the store lead to, and those that layers
// know as their packed form.
func (m *maintainer) mark() error {
	m.refs, m.packs = map[digest.Digest]bool{}, map[digest.Digest]string{}
	index, err := m.store.Index()
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		m.reach(d)
	}
	memos, err := filepath.Glob(filepath.Join(m.root, "snapshots", "*", "packed-*"))
	if err != nil {
		return err
	}
	for _, name := range memos {
		dt, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var p memo
		if json.Unmarshal(dt, &p) == nil {
			m.packs[p.Descriptor.Digest] = filepath.Dir(name)
		}
	}
	return nil
}

func (m *maintainer) reach(d ocispecs.Descriptor) {
	if m.refs[d.Digest] {
		return
	}
	m.refs[d.Digest] = true
	var doc struct {
		Config    *ocispecs.Descriptor
		Layers    []ocispecs.Descriptor
		Manifests []ocispecs.Descriptor
	}
	switch d.MediaType {
	case ocispecs.MediaTypeImageIndex, ocispecs.MediaTypeImageManifest, layout.MediaTypeDockerIndex, layout.MediaTypeDockerManifest:
	default:
		return
	}
	dt, err := m.store.ReadBlob(d, maxDocument)
	if err != nil || json.Unmarshal(dt, &doc) != nil {
		return
	}
	if doc.Config != nil {
		m.refs[doc.Config.Digest] = true
	}
	for _, l := range doc.Layers {
		m.refs[l.Digest] = true
	}
	for _, c := range doc.Manifests {
		m.reach(c)
	}
}

func (m *maintainer) prune(opts PruneOptions) ([]Usage, error) {
	all, err := m.list()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, u := range all {
		total += u.Size
	}
	limit := time.Now().Add(-opts.OlderThan)
	var gone []Usage
	for _, u := range all {
		if u.Shared || u.LastUsed.After(limit) || opts.Keep > 0 && total <= opts.Keep {
			continue
		}
		if err := m.remove(u); err != nil {
			return gone, fmt.Errorf("remove %s %s: %w", u.Kind, u.ID, err)
		}
		total -= u.Size
		gone = append(gone, u)
	}
	return gone, m.pruneSmall(limit, opts)
}

// remove takes an entry out of sight at once and then deletes it.
func (m *maintainer) remove(u Usage) error {
	if u.Kind == "blob" {
		return os.Remove(u.path)
	}
	trash := scratch{parent: filepath.Join(m.root, "tmp")}
	p, err := trash.path("trash")
	if err != nil {
		return err
	}
	err = os.Rename(u.path, p)
	return errors.Join(err, trash.close())
}

// pruneSmall removes records and digests of files, which are too small to be
// counted, by the same rule.
func (m *maintainer) pruneSmall(limit time.Time, opts PruneOptions) error {
	if opts.Keep > 0 {
		return nil
	}
	for _, dir := range []string{"actions", "files"} {
		err := filepath.WalkDir(filepath.Join(m.root, dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return ignoreMissing(err)
			}
			if st, err := d.Info(); err == nil && st.ModTime().Before(limit) {
				return ignoreMissing(os.Remove(p))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// treeSize returns the bytes of all files below a directory, those with several
// names once.
func treeSize(dir string) int64 {
	var n int64
	seen := map[any]bool{}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return nil
		}
		if id := inode(st); id == nil || !seen[id] {
			seen[id] = id != nil
			n += st.Size()
		}
		return nil
	})
	return n
}

// VerifyStore reads the whole store again: every blob's digest, every record,
// every packed form. It returns what is wrong with it.
func VerifyStore(ctx context.Context, root string) ([]string, error) {
	store, err := layout.Open(root)
	if err != nil {
		return nil, err
	}
	var problems []string
	report, err := store.Verify(ctx, runtime.NumCPU(), true)
	if err != nil {
		return nil, err
	}
	for _, p := range report.Problems {
		problems = append(problems, p.String())
	}
	actions := cache.Open(filepath.Join(root, "actions"))
	bad, err := actions.Verify()
	problems = append(problems, bad...)
	return problems, err
}
