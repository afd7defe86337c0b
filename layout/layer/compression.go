package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Values of Compression.Type.
const (
	Gzip         = "gzip"
	Zstd         = "zstd"
	Uncompressed = "uncompressed"
)

// Compression says how a tar is packed.
type Compression struct {
	// Type is "gzip" (also the zero value), "zstd" or "uncompressed".
	Type string
	// Level is the compressor's level; nil: its default. Gzip takes -2 to 9,
	// zstd 1 to 22; an uncompressed layer has none.
	Level *int
}

// Validate reports a Type or Level that Pack doesn't know.
func (c Compression) Validate() error {
	lo, hi := 0, 0
	switch c.kind() {
	case Gzip:
		lo, hi = flate.HuffmanOnly, flate.BestCompression
	case Zstd:
		lo, hi = 1, 22
	case Uncompressed:
		if c.Level != nil {
			return errors.New("an uncompressed layer has no compression level")
		}
	default:
		return fmt.Errorf("compression %q: want gzip, zstd or uncompressed", c.Type)
	}
	if c.Level != nil && (*c.Level < lo || *c.Level > hi) {
		return fmt.Errorf("%s compression level %d: want %d to %d", c.kind(), *c.Level, lo, hi)
	}
	return nil
}

// String returns the type and, when it isn't the default, the level: "gzip",
// "zstd-19". Equal strings mean that equal entries pack to equal bytes.
func (c Compression) String() string {
	if c.Level == nil || c.Type == Uncompressed || *c.Level == c.defaultLevel() {
		return c.kind()
	}
	return c.kind() + "-" + strconv.Itoa(*c.Level)
}

// MediaType returns the media type of a layer packed like this: that of the
// image specification, or of Docker's image manifest, version 2.
func (c Compression) MediaType(docker bool) string {
	base, sep := "application/vnd.oci.image.layer.v1.tar", "+"
	if docker {
		base, sep = "application/vnd.docker.image.rootfs.diff.tar", "."
	}
	if c.kind() == Uncompressed {
		return base
	}
	return base + sep + c.kind()
}

func (c Compression) kind() string {
	if c.Type == "" {
		return Gzip
	}
	return c.Type
}

func (c Compression) defaultLevel() int {
	if c.kind() == Zstd {
		return 3
	}
	return flate.DefaultCompression
}

func (c Compression) level() int {
	if c.Level == nil {
		return c.defaultLevel()
	}
	return *c.Level
}

// A compressor turns a chunk into a self-contained piece of the packed layer.
// It is used by one goroutine.
type compressor interface {
	// compress appends the packed src to dst.
	compress(dst, src []byte) ([]byte, error)
}

// compressor returns a new one; c is valid and not Uncompressed.
func (c Compression) compressor() (compressor, error) {
	if c.kind() == Zstd {
		enc, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level())),
			zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("start zstd: %w", err)
		}
		return zstdCompressor{enc}, nil
	}
	out := new(sliceWriter)
	fw, err := flate.NewWriter(out, c.level())
	if err != nil {
		return nil, fmt.Errorf("start gzip: %w", err)
	}
	return &gzipCompressor{out, fw}, nil
}

// zstdWindow holds a whole chunk, so that any decoder's limit is met.
const zstdWindow = 2 << 20

type zstdCompressor struct{ enc *zstd.Encoder }

func (z zstdCompressor) compress(dst, src []byte) ([]byte, error) {
	return z.enc.EncodeAll(src, dst), nil
}

// A gzip member of ours has one extra field (RFC 1952, section 2.3.1.1): "BK"
// with the length of the whole member, little-endian, so that a reader can find
// the next one without inflating this.
const (
	gzipHeaderSize  = 10
	gzipExtraSize   = 2 + 4 + 4 // XLEN, then SI1 SI2 LEN, then the length
	gzipLengthAt    = gzipHeaderSize + 6
	gzipPrologue    = gzipHeaderSize + gzipExtraSize
	gzipTrailerSize = 8
)

type gzipCompressor struct {
	out *sliceWriter
	fw  *flate.Writer
}

func (g *gzipCompressor) compress(dst, src []byte) ([]byte, error) {
	start := len(dst)
	g.out.b = append(dst,
		0x1f, 0x8b, 8, 4 /* FEXTRA */, 0, 0, 0, 0 /* no time */, 0, 255, /* unknown system */
		8, 0, 'B', 'K', 4, 0, 0, 0, 0, 0)
	g.fw.Reset(g.out)
	if _, err := g.fw.Write(src); err != nil {
		return nil, fmt.Errorf("deflate: %w", err)
	}
	if err := g.fw.Close(); err != nil {
		return nil, fmt.Errorf("deflate: %w", err)
	}
	b := binary.LittleEndian.AppendUint32(g.out.b, crc32.ChecksumIEEE(src))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(src)))
	binary.LittleEndian.PutUint32(b[start+gzipLengthAt:], uint32(len(b)-start))
	g.out.b = nil
	return b, nil
}

// sliceWriter appends to a slice that its user swaps.
type sliceWriter struct{ b []byte }

func (s *sliceWriter) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}
