package builder

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder/cache"
	"bk.build/bk/layout"
)

// chunks lets a layer that is packed again take unchanged chunks from the blob
// that the same step was packed to before. Nothing is stored twice: the index
// of a step names places in a blob of the store. It is a [layer.ChunkStore], and
// the writer that the packed layer goes through, which is where the places of
// new chunks are seen.
type chunks struct {
	file  string // of the index
	store *layout.Dir
	out   io.Writer

	blob *layout.BlobReader // that the index is of; nil without one
	old  chunkIndex

	mu      sync.Mutex
	next    chunkIndex
	pending map[sum]parcel // what was put or given and not yet written
	free    [][]byte       // memory for what is given
	largest int            // of what is given
	off     int64
}

// sum tells chunks apart while they are on their way through the packer.
type sum struct {
	crc  uint32
	size int
}

type parcel struct {
	key   [32]byte
	value []byte
	given bool // the value is in our memory
}

// chunkIndex is what is kept of one packed layer.
type chunkIndex struct {
	Blob   ocispecs.Descriptor
	Places map[key]span
	// Values are put by the packer and are no part of the blob.
	Values map[key][]byte
}

type span struct {
	Off  int64
	Size int
	CRC  uint32
}

// key is a chunk's key, readable in JSON.
type key [32]byte

func (k key) MarshalText() ([]byte, error)     { return []byte(cache.Key(k).String()), nil }
func (k *key) UnmarshalText(text []byte) error { return (*cache.Key)(k).UnmarshalText(text) }

// sealSize is the length of the checksum (CRC-32C, little-endian) that the
// packer puts at the end of what it keeps.
const sealSize = 4

// maxChunk is the size of the largest chunk that the packer makes.
const maxChunk = 3 << 20

// openChunks reads the index of a step, if there is one.
func (s *layers) openChunks(lineage string, out io.Writer) *chunks {
	c := &chunks{
		file: filepath.Join(s.dir, "..", "chunks", lineage), store: s.store, out: out,
		pending: map[sum]parcel{},
		next:    chunkIndex{Places: map[key]span{}, Values: map[key][]byte{}},
	}
	dt, err := os.ReadFile(c.file)
	if err != nil || json.Unmarshal(dt, &c.old) != nil {
		return c
	}
	if r, err := s.store.OpenBlob(c.old.Blob); err == nil {
		c.blob = r
		for _, p := range c.old.Places {
			if int64(p.Size) <= r.Size() {
				c.largest = max(c.largest, p.Size+sealSize)
			}
		}
		c.largest = min(c.largest, maxChunk)
	}
	return c
}

// Get implements layer.ChunkStore.
func (c *chunks) Get(k [32]byte) ([]byte, bool) {
	if v, ok := c.old.Values[k]; ok {
		c.mu.Lock()
		c.next.Values[k] = v
		c.mu.Unlock()
		return v, true
	}
	p, ok := c.old.Places[k]
	if !ok || c.blob == nil || p.Size < 0 || int64(p.Size) > c.blob.Size() {
		return nil, false
	}
	v := c.memory(p.Size + sealSize)[:p.Size]
	if _, err := c.blob.ReadAt(v, p.Off); err != nil {
		return nil, false
	}
	v = binary.LittleEndian.AppendUint32(v, p.CRC)
	c.await(parcel{k, v, true})
	return v, true
}

// memory returns room for n bytes.
func (c *chunks) memory(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, b := range c.free {
		if cap(b) >= n {
			c.free = slices.Delete(c.free, i, i+1)
			return b
		}
	}
	c.free = nil
	return make([]byte, 0, max(n, c.largest))
}

// Put implements layer.ChunkStore.
func (c *chunks) Put(k [32]byte, value []byte) { c.await(parcel{k, value, false}) }

func (c *chunks) await(p parcel) {
	n := len(p.value) - sealSize
	s := sum{binary.LittleEndian.Uint32(p.value[n:]), n}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[s] = p
}

// Write takes one packed chunk.
func (c *chunks) Write(p []byte) (int, error) {
	s := sum{crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)), len(p)}
	c.mu.Lock()
	w, ok := c.pending[s]
	given := ok && w.given && len(p) > 0 && &p[0] == &w.value[0] // not another's of the same bytes
	if ok {
		c.next.Places[w.key] = span{c.off, s.size, s.crc}
		delete(c.pending, s)
	}
	c.off += int64(len(p))
	c.mu.Unlock()
	n, err := c.out.Write(p)
	if given {
		c.mu.Lock()
		c.free = append(c.free, w.value)
		c.mu.Unlock()
	}
	return n, err
}

func (c *chunks) close() {
	if c.blob != nil {
		c.blob.Close()
	}
}

// save keeps the index of the blob that was written. What was put and never
// written is the packer's own memory.
func (c *chunks) save(blob ocispecs.Descriptor) error {
	if len(c.next.Places) == 0 {
		return nil
	}
	for _, w := range c.pending {
		c.next.Values[w.key] = w.value
	}
	c.next.Blob = blob
	dt, err := json.Marshal(&c.next)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file), 0o700); err != nil {
		return err
	}
	return cache.WriteFile(c.file, dt)
}
