package snapshot

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/layout/layer"
)

// manyFiles is a plan of n files in directories of 20, with known digests.
func manyFiles(n int) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		for i := range n {
			data := []byte(fmt.Sprint(i))
			dir := fmt.Sprintf("src/%03d/%03d", i/400, i/20%20)
			ent := &layer.Entry{
				Path: fmt.Sprintf("%s/file-%d.go", dir, i), Type: layer.Regular, Mode: 0o644, ModTime: time.Unix(1e9, 0),
				Size: int64(len(data)), Content: &memContent{data, sha256.Sum256(data)},
			}
			if !yield(ent, nil) {
				return
			}
		}
	}
}

func bigView(b *testing.B) *View {
	l, err := PlanLayer(manyFiles(50_000))
	if err != nil {
		b.Fatal(err)
	}
	v := NewView(l)
	for _, err := range Walk(v, ".") {
		if err != nil {
			b.Fatal(err)
		}
	}
	return v
}

var copyAll = &pb.FileActionCopy{
	Src: "/", Dest: "/app/", Mode: -1, Timestamp: -1, FollowSymlink: true, DirCopyContents: true,
	CreateDestPath: true, AllowWildcard: true, AllowEmptyWildcard: true,
}

// slowFS hides what the trees of this package do faster than any FS.
type slowFS struct{ FS }

func BenchmarkCopyDigest(b *testing.B) {
	v := bigView(b)
	for name, src := range map[string]FS{"view": v, "fs": slowFS{v}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := CopyDigest(b.Context(), src, copyAll); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCopy(b *testing.B) {
	v := bigView(b)
	for b.Loop() {
		e := NewEditor(Empty())
		if err := e.Copy(b.Context(), v, copyAll, nil); err != nil {
			b.Fatal(err)
		}
		for _, err := range e.Entries() {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkViewWalk(b *testing.B) {
	dir := b.TempDir()
	for i := range 20_000 {
		p := filepath.Join(dir, fmt.Sprintf("%d/%d/%d", i%7, i/20, i))
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for _, err := range Walk(NewView(DirLayer(dir)), ".") {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// 60 layers that all have files in the same 20 directories.
func BenchmarkViewManyLayers(b *testing.B) {
	tmp := b.TempDir()
	var layers []Layer
	for l := range 60 {
		dir := filepath.Join(tmp, fmt.Sprint(l))
		for i := range 400 {
			p := filepath.Join(dir, fmt.Sprintf("usr/%d/f%d", i%20, i+l*13))
			os.MkdirAll(filepath.Dir(p), 0o755)
			if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		layers = append(layers, DirLayer(dir))
	}
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			for _, err := range Walk(NewView(layers...), ".") {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			if _, err := NewView(layers...).Lstat("usr/7/f7"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
