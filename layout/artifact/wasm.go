package artifact

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// wasmConfig is the config of the CNCF's "Wasm OCI Artifact layout".
type wasmConfig struct {
	Created      time.Time        `json:"created"`
	Architecture string           `json:"architecture"`
	OS           string           `json:"os"`
	LayerDigests []digest.Digest  `json:"layerDigests"`
	Component    *wasmDescription `json:"component,omitempty"` // of wasip2
}

// wasmDescription is what a component exports and imports.
type wasmDescription struct {
	Exports []string `json:"exports"`
	Imports []string `json:"imports"`
}

// Wasm returns the artifact of a WebAssembly module (os wasip1) or component
// (wasip2), which the file's first bytes tell apart.
func Wasm(path string, epoch *time.Time) (Spec, error) {
	in, err := os.Open(path)
	if err != nil {
		return Spec{}, err
	}
	defer in.Close()
	c := wasmConfig{Created: time.Unix(0, 0).UTC(), Architecture: "wasm", OS: "wasip1"}
	if epoch != nil {
		c.Created = epoch.UTC()
	}
	if c.Component, err = readWasm(in); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", path, err)
	}
	if c.Component != nil {
		c.OS = "wasip2"
	}
	return Spec{
		ConfigType: TypeWasmConfig, Epoch: epoch,
		Files: []File{{Path: path, MediaType: TypeWasm, Title: filepath.Base(path)}},
		config: func(layers []layerFile) ([]byte, error) {
			for _, l := range layers {
				c.LayerDigests = append(c.LayerDigests, l.desc.Digest)
			}
			return json.Marshal(c)
		},
	}, nil
}

// Bounds on a component.
const (
	maxWasmSections = 100_000
	maxWasmNames    = 16 << 20 // bytes of a section of names
)

// readWasm reads a binary: nil of a module, names of a component
// (component-model, Binary.md).
func readWasm(in io.ReadSeeker) (*wasmDescription, error) {
	var head [8]byte
	if _, err := io.ReadFull(in, head[:]); err != nil || string(head[:4]) != "\x00asm" {
		return nil, errors.New("it is no WebAssembly binary")
	}
	switch version, kind := binary.LittleEndian.Uint16(head[4:]), binary.LittleEndian.Uint16(head[6:]); {
	case kind == 0 && version == 1:
		return nil, nil
	case kind != 1 || version != 13:
		return nil, fmt.Errorf("it is of version %d, layer %d: want a module of version 1 or a component of version 13", version, kind)
	}
	d := &wasmDescription{Exports: []string{}, Imports: []string{}}
	for range maxWasmSections {
		done, err := d.section(in)
		if err != nil {
			return nil, fmt.Errorf("parse component: %w", err)
		}
		if done {
			return d, nil
		}
	}
	return nil, fmt.Errorf("parse component: more than %d sections", maxWasmSections)
}

// Sections of a component that name what it takes and gives.
const (
	sectionImports = 10
	sectionExports = 11
)

// section reads one section; done at the end of the file.
func (d *wasmDescription) section(in io.ReadSeeker) (done bool, err error) {
	var id [1]byte
	if _, err := io.ReadFull(in, id[:]); err != nil {
		return err == io.EOF, noEOF(err)
	}
	size, err := uleb(byteReader{in})
	if err != nil {
		return false, err
	}
	if id[0] != sectionImports && id[0] != sectionExports {
		_, err := in.Seek(int64(size), io.SeekCurrent)
		return false, err
	}
	if size > maxWasmNames {
		return false, fmt.Errorf("a section of %d bytes, at most %d are read", size, maxWasmNames)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(in, b); err != nil {
		return false, err
	}
	p := &wasmParser{*bytes.NewReader(b)}
	if id[0] == sectionImports {
		d.Imports, err = p.names(d.Imports, p.externdesc)
	} else {
		d.Exports, err = p.names(d.Exports, p.exported)
	}
	return false, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// wasmParser parses the content of a section.
type wasmParser struct{ bytes.Reader }

// names parses a vector of names, each with what rest parses after it.
func (p *wasmParser) names(list []string, rest func() error) ([]string, error) {
	n, err := uleb(p)
	if err != nil {
		return nil, err
	}
	for range n {
		name, err := p.name()
		if err == nil {
			err = rest()
		}
		if err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, nil
}

func (p *wasmParser) name() (string, error) {
	kind, err := p.ReadByte()
	if err != nil {
		return "", err
	}
	if kind > 1 {
		return "", fmt.Errorf("a name of the unknown kind %d", kind)
	}
	n, err := uleb(p)
	if err != nil {
		return "", err
	}
	if int64(n) > int64(p.Len()) {
		return "", io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	_, err = io.ReadFull(p, b)
	return string(b), err
}

// externdesc parses the type of an import.
func (p *wasmParser) externdesc() error {
	kind, err := p.ReadByte()
	if err != nil {
		return err
	}
	switch kind {
	case 0: // a core module
		_, err = p.ReadByte()
	case 1, 4, 5: // a function, a component, an instance
	case 2, 3: // a value, a type
		bound, err := p.ReadByte()
		if err != nil {
			return err
		}
		if kind == 3 && bound == 1 {
			return nil
		}
	default:
		return fmt.Errorf("an import or export of the unknown kind %d", kind)
	}
	if err != nil {
		return err
	}
	_, err = uleb(p) // an index, or a primitive type
	return err
}

// exported parses what follows the name of an export.
func (p *wasmParser) exported() error {
	sort, err := p.ReadByte()
	if err == nil && sort == 0 {
		_, err = p.ReadByte()
	}
	if err == nil {
		_, err = uleb(p)
	}
	if err != nil {
		return err
	}
	typed, err := p.ReadByte()
	if err != nil || typed == 0 {
		return err
	}
	return p.externdesc()
}

// byteReader reads single bytes.
type byteReader struct{ r io.Reader }

func (b byteReader) ReadByte() (byte, error) {
	var one [1]byte
	_, err := io.ReadFull(b.r, one[:])
	return one[0], err
}

// uleb parses an unsigned number of at most 32 bits (LEB128).
func uleb(r io.ByteReader) (uint32, error) {
	var n uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			if n > 1<<32-1 {
				break
			}
			return uint32(n), nil
		}
	}
	return 0, errors.New("a number that is too large")
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
