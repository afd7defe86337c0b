package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
)

// memo remembers the state of the tar's SHA-256 after each chunk of a layer, so
// that the unchanged start of a layer needn't be read to know its diffID.
//
// A chunk's place is named by its chain: the hash of the chain before it and of
// its own key. The states of one layer are kept as one value under a key made
// from its first chunk's: when that chunk differs there is nothing to skip, and
// of several layers that start alike the last one is kept.
type memo struct {
	store ChunkStore

	// Used by the goroutine that cuts.
	started bool
	broken  bool // a chunk without a key came by
	chain   [32]byte
	known   map[[32]byte][]byte

	// Used by the goroutine that hashes.
	key     [32]byte
	records []byte
	changed bool
}

const (
	stateSize   = 108 // of crypto/sha256, as it is marshaled
	memoRecord  = sha256.Size + stateSize
	memoRecords = 16 << 10 // at most; 16 GiB of tar at least
)

func newMemo(store ChunkStore) *memo { return &memo{store: store} }

// look sets the chain of c and, when it is known, the state after it.
func (m *memo) look(c *chunk) {
	m.broken = m.broken || !c.keyed
	if m.broken {
		return
	}
	h := sha256.New()
	h.Write([]byte("chain\n"))
	h.Write(m.chain[:])
	h.Write(c.key[:])
	h.Sum(m.chain[:0])
	c.chain, c.chains = m.chain, true
	if !m.started {
		m.started = true
		m.key = m.chain
		m.load()
	}
	if c.state = m.known[c.chain]; c.state == nil {
		m.known = nil // all chunks after it follow another state
	}
}

// load reads the records of the layer that last began with the same chunk.
func (m *memo) load() {
	v, ok := m.store.Get(m.key)
	if !ok {
		return
	}
	v, ok = unseal(v)
	if !ok || len(v)%memoRecord != 0 || len(v) > memoRecord*memoRecords {
		return
	}
	m.known = make(map[[32]byte][]byte, len(v)/memoRecord)
	for ; len(v) > 0; v = v[memoRecord:] {
		m.known[[32]byte(v)] = bytes.Clone(v[sha256.Size:memoRecord])
	}
}

// record notes the state after c; h has it when c doesn't.
func (m *memo) record(c *chunk, h hash.Hash) {
	if !c.chains || len(m.records) >= memoRecord*memoRecords {
		return
	}
	state := c.state
	if state == nil {
		m.changed = true
		var err error
		if state, err = h.(encoding.BinaryMarshaler).MarshalBinary(); err != nil || len(state) != stateSize {
			return
		}
	}
	m.records = append(append(m.records, c.chain[:]...), state...)
}

// save puts the records in the store when there is something new in them.
func (m *memo) save() {
	if m.changed {
		m.store.Put(m.key, seal(m.records))
	}
}

// setState sets h to a state that MarshalBinary gave.
func setState(h hash.Hash, state []byte) error {
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return fmt.Errorf("restore the state of the layer's hash: %w", err)
	}
	return nil
}

// seal appends a checksum, so that a cache may hold garbage without harm.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// unseal returns what was sealed, and whether it is as it was.
func unseal(b []byte) ([]byte, bool) {
	if len(b) < 4 {
		return nil, false
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	return body, binary.LittleEndian.Uint32(sum) == crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
}
