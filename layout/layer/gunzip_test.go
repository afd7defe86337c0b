package layer

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func zip(t testing.TB, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unzip is the standard library's view of b.
func unzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Members inflated at once, and others before or after them, are one file.
func TestGunzipMembers(t *testing.T) {
	ours, _ := pack(t, randomTree(11, 30, 400<<10), PackOptions{})
	for what, b := range map[string][]byte{
		"ours":         ours,
		"ours, theirs": append(bytes.Clone(ours), zip(t, "more")...),
		"theirs, ours": append(zip(t, "first"), ours...),
		"all mixed":    append(append(bytes.Clone(ours), zip(t, "more")...), ours...),
		"an empty one": append(bytes.Clone(ours), zip(t, "")...),
	} {
		want, err := unzip(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decompressAll(b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", what, len(got), err, len(want))
		}
	}
}

// A length field that lies is an error: it must not make us read other bytes
// than everybody else.
func TestGunzipLyingLength(t *testing.T) {
	ours, _ := pack(t, randomTree(11, 30, 400<<10), PackOptions{})
	first := binary.LittleEndian.Uint32(ours[gzipLengthAt:])
	second := binary.LittleEndian.Uint32(ours[first+gzipLengthAt:])
	for _, n := range []uint32{first - 1, first + 1, first + second, gzipPrologue + gzipTrailerSize, uint32(len(ours)) + 1} {
		b := bytes.Clone(ours)
		binary.LittleEndian.PutUint32(b[gzipLengthAt:], n)
		if _, err := decompressAll(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("length %d for %d: error %v, want ErrInvalid", n, first, err)
		}
	}
}

// A reader that is given up early leaves nothing behind that blocks.
func TestGunzipCloseEarly(t *testing.T) {
	ours, _ := pack(t, randomTree(11, 60, 400<<10), PackOptions{})
	for _, n := range []int64{0, 1, 5 << 20} {
		r, err := Decompress(bytes.NewReader(ours))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What Decompress reads of a gzip file is what the standard library reads.
func FuzzDecompress(f *testing.F) {
	c, err := Compression{}.compressor()
	if err != nil {
		f.Fatal(err)
	}
	one, err := c.compress(nil, []byte("one member"))
	if err != nil {
		f.Fatal(err)
	}
	two, err := c.compress(bytes.Clone(one), []byte("another"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add(two)
	f.Add(append(bytes.Clone(two), zip(f, "theirs")...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			return
		}
		got, err := decompressAll(data)
		if err != nil {
			return
		}
		if want, err := unzip(data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d, %v", len(got), len(want), err)
		}
	})
}
