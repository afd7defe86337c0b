package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/remote"
)

// newPlaces returns an opener of layouts.
func newPlaces(t *testing.T) *place.Opener {
	t.Helper()
	client := &remote.Client{}
	t.Cleanup(client.Close)
	return &place.Opener{Remote: client, Store: func() (*layout.Dir, error) { return nil, errors.New("no store") }}
}

// source makes a layout with an index of two platforms under each name.
func newSource(t *testing.T, path string, names ...string) *layout.Dir {
	t.Helper()
	d, err := layout.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var manifests []ocispec.Descriptor
		for _, p := range []string{"linux/amd64", "linux/arm64"} {
			platform := platforms.MustParse(p)
			config := fmt.Sprintf(`{"os":"linux","architecture":%q,"author":%q}`, platform.Architecture, name)
			desc, _, err := d.WriteImage(layout.ImageSpec{Config: []byte(config)})
			if err != nil {
				t.Fatal(err)
			}
			manifests = append(manifests, desc)
		}
		index, err := d.WriteIndex(manifests, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.SetRef(name, index); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// states writes a report as "NAME STATE" in order.
func states(r *Report) string {
	var list []string
	for _, i := range r.Items {
		list = append(list, i.Source[strings.LastIndexByte(i.Source, '/')+1:]+" "+string(i.State))
	}
	return strings.Join(list, ", ")
}

// A list is mirrored once, is then up to date, and a changed or new tag alone is
// copied after that; a dry run says the same and writes nothing.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	src := newSource(t, filepath.Join(dir, "src"), "r.example/a/app:1.0", "r.example/a/app:1.1", "r.example/a/app:2.0", "r.example/b/tool:x")
	l, err := Parse([]byte("destination: oci:" + dir + "/dst\nimages:\n- {source: 'oci:" + dir + "/src', tags: ['1.*', '[x]']}\n"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(dry bool, want string) {
		t.Helper()
		rep, err := Run(t.Context(), l, Options{Places: newPlaces(t), DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		if got := states(rep); got != want {
			t.Errorf("Run (dry: %v): %s, want %s", dry, got, want)
		}
	}
	run(true, "app:1.0 copy, app:1.1 copy, tool:x copy")
	if _, err := os.Stat(filepath.Join(dir, "dst")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run made the destination: %v", err)
	}
	run(false, "app:1.0 copied, app:1.1 copied, tool:x copied")
	run(true, "app:1.0 up-to-date, app:1.1 up-to-date, tool:x up-to-date")
	run(false, "app:1.0 up-to-date, app:1.1 up-to-date, tool:x up-to-date")

	two, err := src.Resolve("r.example/a/app:2.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := src.SetRef("r.example/a/app:1.1", two); err != nil {
		t.Fatal(err)
	}
	run(true, "app:1.0 up-to-date, app:1.1 copy, tool:x up-to-date")
	run(false, "app:1.0 up-to-date, app:1.1 copied, tool:x up-to-date")

	dst, err := layout.Open(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dst.Resolve("r.example/a/app:1.1"); err != nil || got.Digest != two.Digest {
		t.Errorf("app:1.1 = %v, %v; want %s", got, err, two.Digest)
	}
	if rep, err := dst.Verify(t.Context(), 1, false); err != nil || len(rep.Problems) > 0 {
		t.Errorf("Verify: %v, %v", rep.Problems, err)
	}
}

// Of an index only the platforms that are asked for are copied.
func TestPlatforms(t *testing.T) {
	dir := t.TempDir()
	newSource(t, filepath.Join(dir, "src"), "r.example/a/app:1")
	l := &List{Destination: "oci:" + dir + "/dst", Images: []Image{{Source: "oci:" + dir + "/src", Tags: []string{"*"}, Platforms: []string{"linux/arm64"}}}}
	for _, want := range []string{"app:1 copied", "app:1 up-to-date"} {
		rep, err := Run(t.Context(), l, Options{Places: newPlaces(t)})
		if err != nil || states(rep) != want {
			t.Fatalf("Run: %s, %v; want %s", states(rep), err, want)
		}
	}
	dst, err := layout.Open(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := dst.Resolve("r.example/a/app:1")
	if err != nil {
		t.Fatal(err)
	}
	images, err := layout.Images(desc, dst.ReadBlob)
	if err != nil || len(images) != 1 || images[0].Platform.Architecture != "arm64" {
		t.Errorf("images %v, %v; want arm64 alone", images, err)
	}
}

// An error ends the run, or, when it keeps going, what it is about alone.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	src := newSource(t, filepath.Join(dir, "src"), "r.example/a/app:1", "r.example/a/app:2", "r.example/a/app:3")
	two, err := src.Resolve("r.example/a/app:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Remove(two.Digest); err != nil {
		t.Fatal(err)
	}
	l := &List{Destination: "oci:" + dir + "/dst", Images: []Image{
		{Source: "oci:" + dir + "/none", Tags: []string{"*"}},
		{Source: "oci:" + dir + "/src", Tags: []string{"*"}},
	}}
	var told []string
	rep, err := Run(t.Context(), l, Options{Places: newPlaces(t), KeepGoing: true, Done: func(i Item) { told = append(told, string(i.State)) }})
	if want := "none failed, app:1 copied, app:2 failed, app:3 copied"; states(rep) != want || err == nil {
		t.Errorf("Run: %s, %v; want %s", states(rep), err, want)
	}
	for _, want := range []string{"none", "app:2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one about %s", err, want)
		}
	}
	slices.Sort(told)
	if got, want := strings.Join(told, " "), "copied copied failed failed"; got != want {
		t.Errorf("told %s, want %s", got, want)
	}
	l.Images = l.Images[1:]
	rep, err = Run(t.Context(), l, Options{Places: newPlaces(t), Jobs: 1})
	if want := "app:1 up-to-date, app:2 failed, app:3 pending"; err == nil || states(rep) != want {
		t.Errorf("Run: %s, %v; want %s", states(rep), err, want)
	}
}

// Two sources never overwrite each other.
func TestCollision(t *testing.T) {
	dir := t.TempDir()
	newSource(t, filepath.Join(dir, "src"), "r.example/a/app:1", "s.example/a/app:1")
	l := &List{Images: []Image{{Source: "oci:" + dir + "/src", Tags: []string{"*"}, Destination: "localhost:1/x"}}}
	rep, err := Run(t.Context(), l, Options{Places: newPlaces(t), DryRun: true})
	if err == nil || !strings.Contains(err.Error(), "goes to docker://localhost:1/x:1 too") {
		t.Errorf("Run: %s, %v", states(rep), err)
	}
}
