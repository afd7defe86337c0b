//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// smallFile is the size of each file of a tree in bytes.
const smallFile = 6000

// writeTree writes dirs directories of files small files each, all different
// and the same in every run.
func writeTree(root string, dirs, files int) error {
	for d := range dirs {
		if err := os.MkdirAll(filepath.Dir(treeFile(root, d, 0)), 0o755); err != nil {
			return err
		}
		for f := range files {
			if err := writeFile(treeFile(root, d, f), uint64(d)<<20|uint64(f), smallFile, 1000); err != nil {
				return err
			}
		}
	}
	return nil
}

func treeFile(root string, dir, file int) string {
	return filepath.Join(root, fmt.Sprintf("d%03d", dir), fmt.Sprintf("f%03d", file))
}

// writeFile writes size bytes of content to a file.
func writeFile(path string, seed uint64, size int64, random int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, int(min(size, blockSize)))
	if _, err := io.CopyN(w, newContent(seed, random), size); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// blockSize is the length of a run of one kind of content.
const blockSize = 1 << 16

// content is an endless stream that depends on its seed alone: blocks of random
// bytes, which don't compress, among blocks of text like that of logs.
type content struct {
	bytes  *rand.ChaCha8
	random int // blocks of 1000 that are random
	owed   int // thousandths of a random block that are due
	text   bool
	left   int // bytes left of this block
	line   []byte
}

func newContent(seed uint64, random int) *content {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &content{bytes: rand.NewChaCha8(key), random: random}
}

// Read fills p; it never fails.
func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		c.left = blockSize
		c.owed += c.random
		c.text = c.owed < 1000
		if !c.text {
			c.owed -= 1000
		}
	}
	p = p[:min(len(p), c.left)]
	c.left -= len(p)
	if !c.text {
		return c.bytes.Read(p)
	}
	for n := 0; n < len(p); {
		if len(c.line) == 0 {
			c.line = c.logLine()
		}
		k := copy(p[n:], c.line)
		n, c.line = n+k, c.line[k:]
	}
	return len(p), nil
}

func (c *content) logLine() []byte {
	r := c.bytes.Uint64()
	levels := [4]string{"INFO", "DEBUG", "WARN", "INFO"}
	return fmt.Appendf(nil, "2026-11-%02d %02d:%02d:%02d %s request id=%04x path=/api/v1/items/%d status=%d took %d ms\n",
		1+r%28, r>>5%24, r>>10%60, r>>16%60, levels[r>>22%4], r>>24&0xffff, r>>40%512, 200+r>>49%4, r>>52%256)
}
