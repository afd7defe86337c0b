package view

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"bk.build/bk/layout/layer"
)

// What a layer adds, changes and removes is counted against the layers below,
// and bytes that a later layer replaces or removes count as wasted once.
func TestLayers(t *testing.T) {
	img := newImage(t,
		[]header{dir("d"), file("d/a", "12345"), file("d/b", "123"), file("k", "1234567"), hardlink("h", "k"), symlink("l", "k")},
		[]header{file("d/a", "x"), file("d/.wh.b", ""), file("n", "12")},
		[]header{file(".wh.d", ""), file(".wh.k", ""), file("n", "new"), file("twice", "1"), file("twice", "22")},
	)
	l, err := img.Layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type counts struct {
		Added, Changed, Removed int
		Bytes, Wasted           int64
		CreatedBy               string
	}
	var got []counts
	for _, y := range l.Layers {
		got = append(got, counts{y.Added, y.Changed, y.Removed, y.Bytes, y.Wasted, y.CreatedBy})
		if y.Unpacked%512 != 0 || y.Unpacked < y.Bytes {
			t.Errorf("unpacked size %d", y.Unpacked)
		}
	}
	want := []counts{
		{5, 0, 0, 15, 8, "step 1"}, // k's bytes are still there as h
		{1, 1, 1, 3, 3, "step 2"},
		{1, 1, 2, 6, 0, "step 3"},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("layers (-got +want)\n%s", diff)
	}
	waste := []Waste{{"d/a", 2, 6}, {"d/b", 1, 3}, {"n", 1, 2}}
	if diff := cmp.Diff(l.Waste, waste); diff != "" {
		t.Errorf("waste (-got +want)\n%s", diff)
	}
	if l.Files != 4 || l.Bytes != 12 || l.Written != 24 || l.Wasted != 11 || fmt.Sprintf("%.3f", l.Efficiency) != "0.542" {
		t.Errorf("Layers = %+v", l)
	}
	if _, err := json.Marshal(l); err != nil {
		t.Error(err)
	}
}

// An image without layers is all efficient and has an empty map.
func TestLayersOfNothing(t *testing.T) {
	l, err := newImage(t).Layers(t.Context())
	if err != nil || l.Efficiency != 1 || len(l.Layers) != 0 {
		t.Fatalf("Layers = %+v, %v", l, err)
	}
	if err := l.WriteHTML(&bytes.Buffer{}, "x"); err != nil {
		t.Error(err)
	}
}

// The names of files and commands come from strangers: on the page they are text
// and nothing else, and nothing is loaded from anywhere.
func TestHTMLHostile(t *testing.T) {
	evil := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `'onload='alert(1)`, "</title></svg><script>alert(1)</script>",
		"{{.}}", "`${alert(1)}`", "\u202egnp.exe", "\xff\xfe", "javascript:alert(1)", "]]>", "&lt;b&gt;",
	}
	var headers []header
	for _, name := range evil {
		headers = append(headers, header{name: "d/" + strings.ReplaceAll(name, "/", "_"), content: strings.Repeat("x", 1000), mode: 0o644})
	}
	img := newImage(t, headers, []header{file("d/<b>", "1"), file("d/.wh."+strings.ReplaceAll(evil[0], "/", "_"), "")})
	img.Config.History[0].CreatedBy = strings.Join(evil, " ")
	l, err := img.Layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := l.WriteHTML(&page, strings.Join(evil, " ")); err != nil {
		t.Fatal(err)
	}
	doc, err := html.Parse(strings.NewReader(page.String()))
	if err != nil {
		t.Fatal(err)
	}
	scripts, boxes := 0, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			if scripts++; n.FirstChild.Data != pageScript {
				t.Errorf("a script: %q", n.FirstChild.Data)
			}
		case "g":
			boxes++
		case "img", "b", "a", "link", "iframe", "object":
			if n.Data != "b" || n.Parent.Data != "div" {
				t.Errorf("an element <%s> %v", n.Data, n.Attr)
			}
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" || a.Key == "style" {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	if scripts != 1 || boxes < len(evil) {
		t.Errorf("%d scripts, %d boxes", scripts, boxes)
	}
	if strings.ContainsRune(page.String(), '\u202e') {
		t.Error("the page has a character that reorders text")
	}
}

// The boxes of the map lie within those around them and have the area of their
// bytes.
func TestTreemap(t *testing.T) {
	var headers []header
	for i := range 60 {
		headers = append(headers, header{name: fmt.Sprintf("d%d/e/f%d", i%7, i), content: strings.Repeat("x", 100*(i+1)), mode: 0o644})
	}
	l, err := newImage(t, headers).Layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	around := map[string]box{}
	boxes := l.tree.treemap()
	files := 0
	for _, b := range boxes {
		if b.Layer < 0 && !b.Rest {
			around[b.Path] = b
		}
		dir := b.Path[:strings.LastIndex(strings.TrimSuffix(b.Path, "/"), "/")+1]
		if p, ok := around[dir]; ok && b.Path != "/" {
			const eps = 0.01
			if b.X < p.X-eps || b.Y < p.Y-eps || b.X+b.W > p.X+p.W+eps || b.Y+b.H > p.Y+p.H+eps {
				t.Errorf("%s (%v) is not within %s (%v)", b.Path, b, dir, p)
			}
		}
		if b.Layer == 0 {
			files++
		}
	}
	if boxes[0].Bytes != l.Bytes || files != 60 {
		t.Errorf("%d bytes in %d files, want %d in 60", boxes[0].Bytes, files, l.Bytes)
	}
}

// The parts of a rectangle have the areas of their sizes and fill it.
func TestSquarify(t *testing.T) {
	for _, sizes := range [][]float64{{1}, {6, 6, 4, 3, 2, 2, 1}, {1, 1, 1, 1000}, {1e-9, 1e12}} {
		r := rect{10, 20, 600, 400}
		total, area := 0.0, 0.0
		for _, s := range sizes {
			total += s
		}
		for i, part := range squarify(sizes, r) {
			if want := sizes[i] / total * 600 * 400; part.w*part.h < want*0.999-1e-6 || part.w*part.h > want*1.001+1e-6 {
				t.Errorf("squarify(%v)[%d] has area %f, want %f", sizes, i, part.w*part.h, want)
			}
			area += part.w * part.h
		}
		if area < 600*400*0.999 || area > 600*400*1.001 {
			t.Errorf("squarify(%v) fills %f", sizes, area)
		}
	}
}

// The headers of a layer of a million files and their tree take the memory that
// the package says.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("short: a layer of a million files")
	}
	const entries = 1_000_000
	lim := &budget{}
	before := heap()
	l := &lister{list: &list{extras: make([]extra, 1)}, budget: lim}
	text := 0
	for i := range entries {
		e := &layer.Entry{Path: fmt.Sprintf("usr/lib/modules/%03d/%03d/file-%07d.ko", i/10_000, i/100%100, i), Type: layer.Regular, Mode: 0o644, Size: 100}
		text += len(e.Path)
		if err := l.add(e); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := merge([]*list{l.list})
	if err != nil {
		t.Fatal(err)
	}
	per := (int64(heap()) - int64(before) - int64(text)) / entries
	t.Logf("%d bytes for each entry beside its path of %d", per, text/entries)
	if per > 200 { // slices may have room for half as much again
		t.Errorf("an entry takes %d bytes, want at most 200", per)
	}
	if tr.stats[0].added != entries {
		t.Errorf("%d files, want %d", tr.stats[0].added, entries)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What one image may make us hold is bounded.
func TestBudget(t *testing.T) {
	var b budget
	b.entries.Store(maxEntries - 1)
	if err := b.take(1); err != nil {
		t.Error(err)
	}
	if err := b.take(1); err == nil {
		t.Error("one entry too many is taken")
	}
	var c budget
	if err := c.take(maxText + 1); err == nil {
		t.Error("too much text is taken")
	}
}

// Whatever two layers are, merging them neither fails in another way than by an
// error nor makes a tree that is not one.
func FuzzMerge(f *testing.F) {
	f.Add(tarOf(f, []header{dir("a"), file("a/b", "1"), hardlink("c", "a/b"), symlink("d", "a")}), tarOf(f, []header{file(".wh.a", ""), file("d/x", "2"), hardlink("e", "c")}))
	f.Add(tarOf(f, []header{symlink("a", "../b"), file("a/.wh..wh..opq", ""), {name: "x", typ: tar.TypeChar, major: 1}}), tarOf(f, []header{dir("a"), file("a", "1"), dir("a")}))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var lists []*list
		var b budget
		for _, text := range [][]byte{one, two} {
			l := &lister{list: &list{extras: make([]extra, 1)}, budget: &b}
			for e, err := range layer.Read(bytes.NewReader(text), layer.Limits{Entries: 1000, Size: 1 << 20}) {
				if err != nil {
					return
				}
				if err := l.add(e); err != nil {
					return
				}
			}
			lists = append(lists, l.list)
		}
		tr, err := merge(lists)
		if err != nil {
			return
		}
		links := make([]uint32, len(tr.inodes))
		seen := map[string]bool{}
		for n, p := range tr.all() {
			if seen[p] {
				t.Fatalf("%q is there twice", p)
			}
			seen[p] = true
			in := tr.nodes[n].inode
			if in == 0 {
				t.Fatalf("%q is there and is not", p)
			}
			links[in]++
			if parent := tr.nodes[n].parent; n != 0 && tr.rec(parent).typ != layer.Directory {
				t.Fatalf("%q is below what is no directory", p)
			}
		}
		for in := 1; in < len(links); in++ {
			if links[in] != tr.inodes[in].links {
				t.Fatalf("inode %d has %d names, and says %d", in, links[in], tr.inodes[in].links)
			}
		}
		tr.treemap()
	})
}
