package source

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// benchTree makes a context of small files.
func benchTree(b *testing.B) (dir string, files int) {
	b.Helper()
	dirs, per := 500, 100
	if testing.Short() {
		dirs = 20
	}
	dir = b.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 6<<10)
	for i := range dirs {
		d := filepath.Join(dir, fmt.Sprintf("pkg%02d", i/25), fmt.Sprintf("dir%03d", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range per {
			for k := 0; k < len(buf); k += 64 {
				buf[k] = byte(r.Uint32())
			}
			if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file-%d.txt", j)), buf, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return dir, dirs * per
}

func scanOnce(b *testing.B, dir, index string) {
	b.Helper()
	l, err := OpenLocal(dir, LocalOptions{Index: index})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if err := l.Scan(context.Background(), "."); err != nil {
		b.Fatal(err)
	}
	if err := l.Save(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkScan(b *testing.B) {
	dir, _ := benchTree(b)
	time.Sleep(tick)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			scanOnce(b, dir, "")
		}
	})
	b.Run("cold-save", func(b *testing.B) {
		n := 0
		for b.Loop() {
			n++
			scanOnce(b, dir, filepath.Join(b.TempDir(), fmt.Sprint(n)))
		}
	})
	b.Run("warm", func(b *testing.B) {
		index := b.TempDir()
		scanOnce(b, dir, index)
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			scanOnce(b, dir, index)
		}
	})
	b.Run("walk", func(b *testing.B) {
		l, err := OpenLocal(dir, LocalOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		if err := l.Scan(context.Background(), "."); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			walkAll(b, l, ".")
		}
	})
}

func walkAll(b *testing.B, l *Local, path string) {
	names, err := l.ReadDir(path)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range names {
		p := n
		if path != "." {
			p = path + "/" + n
		}
		e, err := l.Lstat(p)
		if err != nil {
			b.Fatal(err)
		}
		if e.Type == '5' {
			walkAll(b, l, p)
		}
	}
}

func BenchmarkLargeFile(b *testing.B) {
	dir := b.TempDir()
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for i := int64(0); i < size; i += int64(len(buf)) {
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	f.Close()
	b.SetBytes(size)
	for b.Loop() {
		scanOnce(b, dir, "")
	}
}
