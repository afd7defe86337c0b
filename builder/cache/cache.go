// Package cache is the action cache: what is known about an operation by the
// digest of all that influences its result.
//
// An entry is a small immutable JSON document in a file of its own, named by
// its key, written to a temporary name and renamed. Any number of processes may
// read and write the same directory without a lock: two that store the same key
// both did the same work and either answer is right. A file that cannot be
// read, is torn or of another version is a miss, never an error.
package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Key is the digest of an action: of an operation and what identifies its
// inputs.
type Key [sha256.Size]byte

func (k Key) String() string { return hex.EncodeToString(k[:]) }

// UnmarshalText reads what String wrote.
func (k *Key) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(k) {
		return fmt.Errorf("key of %d characters", len(text))
	}
	_, err := hex.Decode(k[:], text)
	return err
}

// Hasher computes a key from fields. Every field is framed by its length, so
// that two different lists of fields never give the same bytes.
type Hasher struct{ h hash.Hash }

// NewHasher starts a key of one kind of action. The kind carries the version of
// the engine's implementation: changing it makes all older entries misses.
func NewHasher(kind string) Hasher {
	h := Hasher{sha256.New()}
	h.Bytes([]byte(kind))
	return h
}

// Bytes adds a field.
func (h Hasher) Bytes(b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.h.Write(n[:])
	h.h.Write(b)
}

// String adds a field.
func (h Hasher) String(s string) { h.Bytes([]byte(s)) }

// Int adds a field.
func (h Hasher) Int(n int) { h.String(fmt.Sprint(n)) }

// Key adds a key as a field.
func (h Hasher) Key(k Key) { h.Bytes(k[:]) }

// Sum returns the key.
func (h Hasher) Sum() Key {
	var k Key
	h.h.Sum(k[:0])
	return k
}

// Record is what an action left: for each of its outputs the layers of its
// tree, bottom first, and what the key was made of.
type Record struct {
	Version int
	// Name is the step as people know it.
	Name string
	// Inputs tells the parts of the key, so that a later miss of the same
	// step can be explained.
	Inputs  []Input
	Outputs [][]string
	Created time.Time
}

// Input is one part of a key.
type Input struct {
	Name   string
	Digest string
}

// version is of the file format.
const version = 1

// maxEntry bounds an entry's file.
const maxEntry = 8 << 20

// Dir is an action cache in a directory.
type Dir struct{ path string }

// Open returns the cache in a directory; it need not exist yet.
func Open(path string) *Dir { return &Dir{path} }

func (d *Dir) file(k Key) string {
	s := k.String()
	return filepath.Join(d.path, s[:2], s)
}

// Get returns the record of a key.
func (d *Dir) Get(k Key) (*Record, bool) {
	var r Record
	if !d.read(k, &r) || r.Version != version {
		return nil, false
	}
	return &r, true
}

// Put stores the record of a key.
func (d *Dir) Put(k Key, r *Record) error {
	r.Version = version
	return d.write(k, r)
}

// Value is a digest that was computed once: Subkey's answer.
type value struct {
	Version int
	Value   string
}

// Value returns the string stored under a key by PutValue.
func (d *Dir) Value(k Key) (string, bool) {
	var v value
	if !d.read(k, &v) || v.Version != version || v.Value == "" {
		return "", false
	}
	return v.Value, true
}

// PutValue stores a string under a key.
func (d *Dir) PutValue(k Key, s string) error {
	return d.write(k, value{version, s})
}

func (d *Dir) read(k Key, into any) bool {
	name := d.file(k)
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxEntry {
		return false
	}
	b := make([]byte, st.Size())
	if n, err := f.Read(b); err != nil || n != len(b) {
		return false
	}
	if json.Unmarshal(b, into) != nil {
		return false
	}
	Touch(name, st.ModTime())
	return true
}

func (d *Dir) write(k Key, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	name := d.file(k)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("store cache entry: %w", err)
	}
	return WriteFile(name, b)
}

// WriteFile writes a file under a temporary name beside it and renames it. A
// directory that is missing is made: another process may rename a whole
// directory over one that is still empty, or remove it.
func WriteFile(name string, b []byte) error {
	const tries = 20
	for try := 1; ; try++ {
		err := writeFile(name, b)
		if !errors.Is(err, fs.ErrNotExist) || try == tries {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
}

func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// touchInterval is how exactly an entry's last use is known. A build that uses
// an entry again within it writes nothing.
const touchInterval = time.Hour

// Touch notes that a file of the store is in use, for the collector, unless
// that was noted lately.
func Touch(name string, mtime time.Time) {
	if now := time.Now(); now.Sub(mtime) > touchInterval {
		_ = os.Chtimes(name, now, now) // an entry that looks older than it is goes earlier
	}
}

// Verify reads all entries and returns what is wrong with those that can't be
// used.
func (d *Dir) Verify() ([]string, error) {
	var bad []string
	err := filepath.WalkDir(d.path, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		var v struct{ Version int }
		b, err := os.ReadFile(name)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case json.Unmarshal(b, &v) != nil || v.Version != version:
			bad = append(bad, fmt.Sprintf("cache entry %s cannot be read", e.Name()))
		}
		return nil
	})
	return bad, err
}
