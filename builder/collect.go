package builder

import (
	"os"
	"path/filepath"
	"time"

	"bk.build/bk/builder/cache"
	"bk.build/bk/layout"
)

// collectInterval is how often a store's size is looked at.
const collectInterval = time.Hour

// minStore is what a store may hold on the smallest disk.
const minStore = 2 << 30

// collect keeps the store within its limit: Options.StoreLimit, or a fifth of
// the disk that it is on. It runs after a build, at most once in a while, and
// only when no other build uses the store; what it cannot do now the next
// build's end will.
func (b *build) collect() error {
	stamp := filepath.Join(b.opts.Root, "collected")
	switch st, err := os.Stat(stamp); {
	case os.IsNotExist(err):
		return cache.WriteFile(stamp, nil) // a new store
	case err != nil || time.Since(st.ModTime()) < collectInterval:
		return err
	}
	lock, err := os.Open(filepath.Join(b.opts.Root, lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	if lockFile(lock, true, false) != nil {
		return nil
	}
	now := time.Now()
	if err := os.Chtimes(stamp, now, now); err != nil {
		return err
	}
	limit := b.opts.StoreLimit
	if limit == 0 {
		limit = max(diskSize(b.opts.Root)/5, minStore)
	}
	store, err := layout.Open(b.opts.Root)
	if err != nil {
		return err
	}
	m := maintainer{root: b.opts.Root, store: store}
	_, err = m.prune(PruneOptions{Keep: limit})
	return err
}
