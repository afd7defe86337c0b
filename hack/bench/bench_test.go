//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The median is the middle value whatever the order, so one slow round doesn't
// move it.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []int64
		want   int64
	}{{nil, 0}, {[]int64{7}, 7}, {[]int64{9, 1, 2}, 2}, {[]int64{4, 100, 2, 6}, 5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %d, want %d", c.values, got, c.want)
		}
	}
}

// Content depends on its seed alone, not on how it is read, so every round and
// every machine measures the same bytes; the share of text compresses.
func TestContent(t *testing.T) {
	read := func(seed uint64) []byte {
		data, err := io.ReadAll(io.LimitReader(newContent(seed, 500), 20*blockSize))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := read(1)
	if again, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(newContent(1, 500), 20*blockSize))); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same seed gives different content (%v)", err)
	}
	if bytes.Equal(first, read(2)) {
		t.Error("different seeds give the same content")
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(first)
	z.Close()
	if share := float64(packed.Len()) / float64(len(first)); share < 0.5 || share > 0.7 {
		t.Errorf("half random content packs to %.2f, want 0.5 to 0.7", share)
	}
}

// The CPU time of a daemon includes the children that it waited for, and a name
// with blanks and parentheses doesn't shift the fields.
func TestParseCPU(t *testing.T) {
	stat := "12 (a (b) c) S 1 12 12 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7"
	if got, want := parseCPU(stat), 1270*time.Millisecond; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// An output that lacks layers, has another compression, or doesn't follow a
// change is no result, however fast it came.
func TestCheckOutput(t *testing.T) {
	layers := func(mediaType, content string) *output {
		return &output{images: [][]ocispec.Descriptor{{{MediaType: mediaType, Digest: digest.FromString(content)}}}}
	}
	one := &scenario{layers: 1}
	changed := &phase{change: func(string, uint64) error { return nil }}
	first := layers(ocispec.MediaTypeImageLayerGzip, "1")
	for _, c := range []struct {
		name   string
		s      *scenario
		p      *phase
		before *output
		ok     bool
	}{
		{"cold", one, &phase{}, nil, true},
		{"too few layers", &scenario{layers: 2}, &phase{}, nil, false},
		{"other compression", &scenario{layers: 1, compression: "zstd"}, &phase{}, nil, false},
		{"too few images", &scenario{layers: 1, platforms: "linux/amd64,linux/arm64"}, &phase{}, nil, false},
		{"unchanged", one, &phase{}, first, true},
		{"unchanged differs", one, &phase{}, layers(ocispec.MediaTypeImageLayerGzip, "2"), false},
		{"changed", one, changed, layers(ocispec.MediaTypeImageLayerGzip, "2"), true},
		{"change unnoticed", one, changed, first, false},
	} {
		if err := first.check(c.s, c.p, c.before); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A target is against the fastest builder that isolates its steps; kaniko, which
// doesn't, counts only where the target names it; a failed builder doesn't.
func TestVerdict(t *testing.T) {
	s := &scenario{name: "s", title: "s"}
	p := &phase{name: "cold", target: target{ratio: 0.5, kaniko: true}}
	took := func(d time.Duration) *result { return &result{samples: []sample{{wall: d, peak: int64(d)}}} }
	for _, c := range []struct {
		name             string
		bk, kaniko, peer *result
		want             []string
	}{
		{"reached", took(4), took(5), took(10), []string{"0.400", "yes"}},
		{"slower than kaniko", took(4), took(3), took(10), []string{"0.400", "no"}},
		{"ratio missed", took(6), took(7), took(10), []string{"0.600", "no"}},
		{"no peer", took(4), took(5), &result{err: errors.New("failed")}, []string{"n/a", "n/a"}},
		{"bk failed", &result{err: errors.New("failed")}, took(5), took(10), []string{"n/a", "n/a"}},
	} {
		b := &bench{
			flags:     &flags{withKaniko: true},
			scenarios: []*scenario{s},
			builders:  []builder{&bk{}, &buildah{}, &kaniko{}},
			results:   map[key]*result{{"s", "cold", "bk"}: c.bk, {"s", "cold", "kaniko"}: c.kaniko, {"s", "cold", "buildah"}: c.peer},
		}
		ratio, reached := b.verdict(s, p)
		if diff := cmp.Diff(c.want, []string{ratio, reached}); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// The clock of a push starts when the last instruction has ended, not when a
// source was read or the image is exported.
func TestLastStep(t *testing.T) {
	said := `{"vertexes":[{"name":"[internal] load build context","completed":"2026-01-01T00:00:09Z"}]}
not JSON
{"vertexes":[{"name":"[1/2] FROM busybox","completed":"2026-01-01T00:00:08Z"},{"name":"[2/2] COPY a /","started":"2026-01-01T00:00:01Z"}]}
{"vertexes":[{"name":"[2/2] COPY a /","completed":"2026-01-01T00:00:03.5Z"}]}
{"vertexes":[{"name":"exporting to image","completed":"2026-01-01T00:00:07Z"}]}
`
	got, err := lastStep(said)
	if want := time.Date(2026, 1, 1, 0, 0, 3, 500_000_000, time.UTC); err != nil || !got.Equal(want) {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if _, err := lastStep("{}\n"); err == nil {
		t.Error("an output without steps has a last step")
	}
}

// Who builds does not move, and the other way round; bk does both. Each is in the
// tables of what it takes part in.
func TestSections(t *testing.T) {
	b := &bench{
		flags:    &flags{},
		builders: []builder{&bk{}, &buildkitd{}, &buildah{}, &kaniko{}, &mover{program: "crane"}},
		scenarios: []*scenario{
			{name: "b"}, {name: "k", kaniko: true}, {name: "m", kind: moves}, {name: "p", kind: pushes},
		},
	}
	var got []string
	for _, s := range b.sections() {
		got = append(got, strings.Join(s.each(func(name string) string { return name }), " "))
	}
	want := []string{"bk buildkitd buildah kaniko", "bk crane", "bk buildkitd"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A target that names a peer is against that one, however fast others are.
func TestVerdictOfPeer(t *testing.T) {
	s := &scenario{name: "s", kind: moves}
	p := &phase{name: "p", target: target{ratio: 0.9, of: "crane"}}
	took := func(d time.Duration) *result { return &result{samples: []sample{{wall: d}}} }
	b := &bench{
		flags: &flags{}, builders: []builder{&bk{}, &mover{program: "crane"}, &mover{program: "oras"}},
		results: map[key]*result{{"s", "p", "bk"}: took(8), {"s", "p", "crane"}: took(10), {"s", "p", "oras"}: took(5)},
	}
	if ratio, reached := b.verdict(s, p); ratio != "0.800" || reached != "yes" || p.target.String() != "≤ 0.90 crane" {
		t.Errorf("%s, %s, %s", ratio, reached, p.target)
	}
}

// Times keep three digits from milliseconds to minutes, so that ratios can be
// checked from the table.
func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		41_234 * time.Microsecond: "0.041 s",
		1234 * time.Millisecond:   "1.23 s",
		26_040 * time.Millisecond: "26.0 s",
		126 * time.Second:         "126 s",
	} {
		if got := seconds(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// Tables line up as text too, with marks of more than one byte.
func TestRender(t *testing.T) {
	got := render([][]string{{"a", "target"}, {"long cell", "≤ 0.1"}})
	want := strings.Join([]string{
		"| a         | target |",
		"|-----------|--------|",
		"| long cell | ≤ 0.1  |", "",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
