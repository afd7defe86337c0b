package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

var updateGolden = flag.Bool("update-golden", false, "rewrite testdata/golden")

// fixedImages writes two images, "one" and "two", whose digests never change.
func fixedImages(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images")
	d, err := layout.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	type f = [3]string // name, content, type
	base := fixedLayer(t, d, "ADD base.tar /", f{"etc/", "", "5"}, f{"etc/motd", "welcome\n"}, f{"bin/", "", "5"}, f{"bin/sh", strings.Repeat("sh", 3000)},
		f{"usr/share/doc/a", "a"}, f{"usr/share/doc/b", "bb"}, f{"lib", "usr/lib", "2"})
	top := fixedLayer(t, d, "RUN rm -rf /usr/share/doc &&\n  make   all # a command that is much longer than what fits into a line of a table",
		f{"usr/share/.wh.doc", ""}, f{"bin/sh", strings.Repeat("SH", 4000)}, f{"app/", "", "5"}, f{"app/a\x1b[31m", "1"}, f{"app/b", "22"}, f{"lib", "lib64", "2"})
	for i, img := range []layout.ImageSpec{
		{Config: []byte(`{"os":"linux","architecture":"amd64","created":"2020-01-01T00:00:00Z","config":{"Env":["PATH=/bin"],"Cmd":["sh"]}}`), Layers: []layout.LayerBlob{base}, Annotations: map[string]string{"a": "1"}},
		{Config: []byte(`{"os":"linux","architecture":"amd64","created":"2020-01-02T00:00:00Z","config":{"Env":["PATH=/bin:/app"],"Cmd":["app"],"User":"app"}}`), Layers: []layout.LayerBlob{base, top}},
	} {
		desc, _, err := d.WriteImage(img)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.SetRef([]string{"one", "two"}[i], desc); err != nil {
			t.Fatal(err)
		}
	}
	return "oci:" + path
}

func fixedLayer(t *testing.T, d *layout.Dir, by string, files ...[3]string) layout.LayerBlob {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f[0], Mode: 0o755, Size: int64(len(f[1])), Format: tar.FormatPAX}
		switch f[2] {
		case "5":
			h.Typeflag = tar.TypeDir
		case "2":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f[1], 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(f[1])[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	desc, err := d.PutBytes(ocispecs.MediaTypeImageLayer, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	created := time.Unix(1_577_836_800, 0).UTC()
	return layout.LayerBlob{Descriptor: desc, DiffID: digest.FromBytes(b.Bytes()), CreatedBy: by, Created: &created}
}

// runBK runs a command line in this process.
func runBK(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := t.TempDir()
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, lookup: func(name string) (string, bool) {
		return root, name == "BK_ROOT"
	}}
	code = run(args, e)
	return out.String(), errs.String(), code
}

// What people read of an image is laid out as the golden files have it, and has
// no control characters of the image's.
func TestGolden(t *testing.T) {
	images := fixedImages(t)
	one, two := images+":one", images+":two"
	for _, tt := range []struct {
		name string
		args []string
		code int
	}{
		{"layers", []string{"image", "layers", two}, 0},
		{"layers_all", []string{"image", "layers", "--all", two}, 0},
		{"layers_json", []string{"image", "layers", "--format", "json", two}, 0},
		{"diff", []string{"image", "diff", one, two}, 0},
		{"diff_back", []string{"image", "diff", "--all", "--exit-code", two, one}, 1},
		{"diff_json", []string{"image", "diff", "--format", "json", one, two}, 0},
		{"diff_same", []string{"image", "diff", "--exit-code", two, two}, 0},
		{"validate", []string{"image", "validate", images}, 0},
		{"validate_json", []string{"image", "validate", "--format", "json", "--fast", one}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code := runBK(t, tt.args...)
			if code != tt.code || stderr != "" {
				t.Errorf("exit code %d, want %d; stderr: %s", code, tt.code, stderr)
			}
			if strings.ContainsRune(stdout, '\x1b') && tt.args[len(tt.args)-2] != "json" {
				t.Error("a control character of the image is printed")
			}
			file := filepath.Join("testdata", "golden", tt.name+".txt")
			if *updateGolden {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(stdout), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stdout, string(want)); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// A damaged image has its problems on standard output, each on a line, and ends
// with 1 and without a message.
func TestValidateDamaged(t *testing.T) {
	images := fixedImages(t)
	dir, err := layout.Open(strings.TrimPrefix(images, "oci:"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := dir.Resolve("two")
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := dir.Closure(desc)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if layout.IsLayer(b.MediaType) {
			if err := dir.Remove(b.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	stdout, stderr, code := runBK(t, "image", "validate", images+":two")
	if code != exitFailed || stderr != "" || !strings.Contains(stdout, ": 2 problems\n") || strings.Count(stdout, "\n") != 3 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
