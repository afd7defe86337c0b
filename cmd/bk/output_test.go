package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bk.build/bk/builder"
	"bk.build/bk/layout/layer"
)

func ptr[T any](v T) *T { return &v }

// Values of --output mean what they mean to docker buildx.
func TestParseOutput(t *testing.T) {
	pack := func(typ string, level *int, force bool) builder.CommitOptions {
		return builder.CommitOptions{PackOptions: builder.PackOptions{
			Compression: layer.Compression{Type: typ, Level: level}, Force: force,
		}}
	}
	docker := builder.CommitOptions{DockerTypes: true}
	for _, tt := range []struct {
		value string
		want  output
	}{
		{"out", output{kind: outLocal, dest: "out"}},
		{"out=1", output{kind: outLocal, dest: "out=1"}},
		{"-", output{kind: outTar, dest: stdout}},
		{"type=local,dest=out", output{kind: outLocal, dest: "out"}},
		{"type=local,dest=out,platform-split=false", output{kind: outLocal, dest: "out", split: ptr(false)}},
		{"type=tar", output{kind: outTar, dest: stdout}},
		{"type=tar,dest=a.tar", output{kind: outTar, dest: "a.tar"}},
		{`type=tar,"dest=a,b.tar"`, output{kind: outTar, dest: "a,b.tar"}},
		{"type=oci,dest=a.tar", output{kind: outOCI, dest: "a.tar"}},
		{"dest=a.tar,type=oci", output{kind: outOCI, dest: "a.tar"}},
		{"TYPE=oci,Dest=a", output{kind: outOCI, dest: "a"}},
		{"type=oci,dest=d,tar=false", output{kind: outOCI, dest: "d", dir: true}},
		{"type=docker", output{kind: outDocker, dest: stdout}},
		{"type=image", output{kind: outImage}},
		{"type=image,push=false", output{kind: outImage}},
		{"type=image,push=true,name=a", output{kind: outImage, push: true, names: []string{"docker.io/library/a:latest"}}},
		{"type=registry,registry.insecure=true", output{kind: outRegistry, push: true, away: true, insecure: true}},
		{"type=image,push=true,store=false", output{kind: outImage, push: true, away: true}},
		{"type=image,push=true,push-by-digest=true,name-canonical=true", output{kind: outImage, push: true, byDigest: true, canonical: true}},
		{"type=cacheonly", output{kind: outNone}},
		{`type=image,"name=a,b/c:1"`, output{kind: outImage, names: []string{"docker.io/library/a:latest", "docker.io/b/c:1"}}},
		{"type=image,compression=zstd,compression-level=19,force-compression=true", output{kind: outImage, commit: pack("zstd", ptr(19), true)}},
		{"type=image,compression-level=0", output{kind: outImage, commit: pack("", ptr(0), false)}},
		{"type=image,oci-mediatypes=false", output{kind: outImage, commit: docker}},
		{"type=image,oci-mediatypes=true", output{kind: outImage}},
		{"type=image,rewrite-timestamp=false", output{kind: outImage, keepTimes: true}},
		{"type=oci,annotation.a=1,annotation-index.b=2,annotation[linux/amd64].c=3", output{kind: outOCI, dest: stdout, commit: builder.CommitOptions{
			Annotations: map[string]string{"annotation.a": "1", "annotation-index.b": "2", "annotation[linux/amd64].c": "3"}}}},
	} {
		got, err := parseOutput(tt.value)
		if err != nil {
			t.Errorf("parseOutput(%q): %v", tt.value, err)
			continue
		}
		if diff := cmp.Diff(&tt.want, got, cmp.AllowUnexported(output{})); diff != "" {
			t.Errorf("parseOutput(%q) (-want +got):\n%s", tt.value, diff)
		}
	}
}

// What an output does not know is refused with its name, not ignored: the
// result would not be what was asked for.
func TestParseOutputErrors(t *testing.T) {
	for value, want := range map[string]string{
		"":                                   "want a directory",
		"dest=a,name=b":                      "type is missing",
		"type=":                              "type is missing",
		"type=zip,dest=a":                    `unknown type "zip"`,
		"type=registry,push=false":           "type=registry pushes",
		"type=image,push=maybe":              `push "maybe"`,
		"type=oci,push=true":                 `no attribute "push"`,
		"type=image,dest=a":                  `no attribute "dest"`,
		"type=image,tar=false":               `no attribute "tar"`,
		"type=docker,dest=a,tar=false":       `no attribute "tar"`,
		"type=local":                         "needs dest",
		"type=local,dest=-":                  "needs dest",
		"type=local,dest=a,compression=gzip": `no attribute "compression"`,
		"type=oci,tar=false":                 "needs dest",
		"type=oci,tar=maybe,dest=a":          `tar "maybe"`,
		"type=oci,dest=a,dest=b":             "given twice",
		"type=oci,dest":                      "want KEY=VALUE",
		"type=image,compression=estargz":     `compression "estargz"`,
		"type=image,compression-level=x":     `compression-level "x"`,
		"type=image,compression-level=10":    "levels 0 to 9",
		"type=image,compression-level=-1":    "levels 0 to 9",
		"type=image,compression=zstd,compression-level=23": "levels 0 to 22",
		"type=image,name=UPPER":                            `tag "UPPER"`,
		"type=image,annotation-foo.a=b":                    "unrecognized annotation type",
		"type=image,annotation=b":                          "want annotation",
		`type=tar,"dest=a`:                                 "",
	} {
		got, err := parseOutput(value)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseOutput(%q) = %+v, %v, want error %q", value, got, err, want)
		}
	}
}

// Without --output an image goes to the store; two outputs cannot share
// standard output.
func TestParseOutputs(t *testing.T) {
	outs, err := parseOutputs(nil)
	if err != nil || len(outs) != 1 || outs[0].kind != outImage {
		t.Errorf("no outputs: %+v, %v", outs, err)
	}
	if outs, err := parseOutputs([]string{"-", "type=oci"}); err == nil {
		t.Errorf("two streams: %+v", outs)
	}
}

// FuzzParseOutput: what is accepted is a known kind with somewhere to go, and
// nothing crashes.
func FuzzParseOutput(f *testing.F) {
	for _, s := range []string{"a", "-", "type=oci,dest=a,tar=false", `type=tar,"dest=a,b"`, "type=image,annotation[linux/amd64].a=b", "type=image,name=a", ",", `"`, "type=oci,=,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		o, err := parseOutput(value)
		if err != nil {
			return
		}
		if stored := o.kind == outImage || o.kind == outNone; stored != (o.dest == "") {
			t.Errorf("parseOutput(%q) = %+v", value, o)
		}
	})
}

// Annotations are translated to the exporter's attributes; the manifest is the
// default level.
func TestAnnotations(t *testing.T) {
	got, err := annotations([]string{
		"a=1", "org.x:y=2", "index:b=3", "index,manifest:c=4=5", "manifest[linux/amd64]:d=6", "manifest-descriptor:e=", "index-descriptor:f=7",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"annotation-manifest.a": "1", "annotation-manifest.org.x:y": "2", "annotation-index.b": "3",
		"annotation-index.c": "4=5", "annotation-manifest.c": "4=5", "annotation-manifest[linux/amd64].d": "6",
		"annotation-manifest-descriptor.e": "", "annotation-index-descriptor.f": "7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, v := range []string{"a", "=b", "index:=1", "manifest[a b]:c=1", "index,other:a=b"} {
		if got, err := annotations([]string{v}); err == nil {
			t.Errorf("annotations(%q) = %v, want an error", v, got)
		}
	}
}
