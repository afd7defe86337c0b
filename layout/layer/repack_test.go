package layer

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
)

// Repack keeps every byte, whatever the size, and writes the same with any number
// of workers.
func TestRepack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, chunkMax - 1, chunkMax, chunkMax + 1, 3*chunkMax + 5} {
		src := make([]byte, size)
		for i := range src {
			src[i] = byte(random.IntN(4))
		}
		for _, kind := range []string{Gzip, Zstd, Uncompressed} {
			c := Compression{Type: kind}
			var one, many bytes.Buffer
			p, err := Repack(t.Context(), &one, iotest.HalfReader(bytes.NewReader(src)), c, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Repack(t.Context(), &many, bytes.NewReader(src), c, 3); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one.Bytes(), many.Bytes()) {
				t.Errorf("%s of %d bytes: workers change the result", kind, size)
			}
			if p.Digest != digest.FromBytes(one.Bytes()) || p.DiffID != digest.FromBytes(src) || p.Size != int64(one.Len()) || p.UncompressedSize != int64(size) {
				t.Errorf("%s of %d bytes: %+v", kind, size, p)
			}
			r, err := Decompress(&one)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s of %d bytes: %d bytes come back, %v", kind, size, len(got), err)
			}
			r.Close()
		}
	}
}

// A source that breaks off is an error, whatever it says, and not the end.
func TestRepackBrokenSource(t *testing.T) {
	for _, broken := range []error{io.ErrUnexpectedEOF, errors.New("broken")} {
		src := io.MultiReader(bytes.NewReader(make([]byte, chunkMax+100)), iotest.ErrReader(broken))
		if _, err := Repack(t.Context(), io.Discard, src, Compression{}, 2); !errors.Is(err, broken) {
			t.Errorf("Repack = %v, want %v", err, broken)
		}
	}
}
