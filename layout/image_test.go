package layout

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func fakeLayer(name string, created *time.Time) LayerBlob {
	return LayerBlob{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(name), Size: 7,
			Annotations: map[string]string{"containerd.io/uncompressed": "x", "keep": "yes",
				"containerd.io/distribution.source.docker.io": "library/x", "buildkit/createdat": "2020"}},
		DiffID:  digest.FromString("diff " + name),
		Created: created,
	}
}

// The image is complete and the same every time: a golden digest.
func TestWriteImage(t *testing.T) {
	d := newLayout(t)
	img := ImageSpec{
		Config: []byte(`{"os":"linux","architecture":"arm","variant":"v7","future":{"z":1,"a":[true]},"config":{"Env":["A=<b>"],"Cmd":["x"],"OnlyDocker":1},` +
			`"history":[{"created_by":"COPY a"},{"created_by":"ENV B","empty_layer":true}]}`),
		Layers:                []LayerBlob{fakeLayer("a", timeAt("2024-05-01T10:00:00Z"))},
		Annotations:           map[string]string{"note": "x"},
		DescriptorAnnotations: map[string]string{"on": "descriptor"},
		InlineCache:           []byte(`{"cache":true}`),
	}
	desc, config, err := d.WriteImage(img)
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.ReadBlob(desc, MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseManifest(desc.MediaType, b)
	if err != nil {
		t.Fatal(err)
	}
	want := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config, Size: m.Config.Size},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("a"), Size: 7,
			Annotations: map[string]string{"keep": "yes"}}},
		Annotations: map[string]string{"note": "x"},
	}
	want.SchemaVersion = 2
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, desc.Platform); diff != "" || desc.Annotations["on"] != "descriptor" {
		t.Errorf("descriptor: %s %v", diff, desc.Annotations)
	}
	b, err = d.ReadBlob(m.Config, MaxConfig)
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := `{"architecture":"arm","config":{"Env":["A=\u003cb\u003e"],"Cmd":["x"],"OnlyDocker":1},"created":"2024-05-01T10:00:00Z",` +
		`"future":{"z":1,"a":[true]},"history":[{"created":"2024-05-01T10:00:00Z","created_by":"COPY a"},` +
		`{"created":"2024-05-01T10:00:00Z","created_by":"ENV B","empty_layer":true}],"moby.buildkit.cache.v0":"eyJjYWNoZSI6dHJ1ZX0=","os":"linux",` +
		`"rootfs":{"type":"layers","diff_ids":["` + digest.FromString("diff a").String() + `"]},"variant":"v7"}`
	if diff := cmp.Diff(wantConfig, string(b)); diff != "" {
		t.Error(diff)
	}
	const golden = "sha256:561e077f157ea3a61d5eb2376a56920efd1549bc66e592780c90089438c5af06"
	if desc.Digest != golden {
		t.Errorf("manifest digest %s, want %s: an image of the same inputs has changed", desc.Digest, golden)
	}
	if again, _, err := newLayout(t).WriteImage(img); err != nil || again.Digest != desc.Digest {
		t.Errorf("the second time: %s, %v", again.Digest, err)
	}
}

// Docker's media types replace OCI's everywhere, and have no annotations on
// layers.
func TestWriteImageDocker(t *testing.T) {
	d := newLayout(t)
	desc, _, err := d.WriteImage(ImageSpec{Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}, Docker: true,
		Layers: []LayerBlob{fakeLayer("a", nil)}})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := d.ReadBlob(desc, MaxManifest)
	m, err := ParseManifest(MediaTypeDockerManifest, b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.MediaType != MediaTypeDockerConfig || m.Layers[0].MediaType != MediaTypeDockerLayerGzip || m.Layers[0].Annotations != nil {
		t.Errorf("manifest %+v", m)
	}
	list, err := d.WriteIndex([]ocispec.Descriptor{desc}, nil, true)
	if err != nil || list.MediaType != MediaTypeDockerIndex {
		t.Errorf("WriteIndex = %v, %v", list, err)
	}
	if _, err := d.WriteIndex(nil, map[string]string{"a": "b"}, true); err == nil {
		t.Error("a manifest list with annotations is written")
	}
	if _, err := d.WriteIndex([]ocispec.Descriptor{{Digest: "x"}}, nil, false); err == nil {
		t.Error("an index with an invalid entry is written")
	}
}

// An image without layers has empty lists where null would break readers.
func TestWriteImageScratch(t *testing.T) {
	d := newLayout(t)
	desc, config, err := d.WriteImage(ImageSpec{Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := d.ReadBlob(desc, MaxManifest)
	if !strings.Contains(string(b), `"layers": []`) {
		t.Errorf("manifest %s", b)
	}
	size, _ := d.Stat(config)
	b, _ = d.ReadBlob(ocispec.Descriptor{Digest: config, Size: size}, MaxConfig)
	want := `{"architecture":"amd64","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},` +
		`"created":null,"history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	if err := Validate(t.Context(), d, desc); err != nil {
		t.Error(err)
	}
}

// What cannot be an image is not written.
func TestWriteImageRefuses(t *testing.T) {
	good := `{"os":"linux","architecture":"amd64"}`
	for _, tt := range []struct {
		want string
		img  ImageSpec
	}{
		{"neither a config nor a platform", ImageSpec{}},
		{"parse config", ImageSpec{Config: []byte(`{`)}},
		{"no os or no architecture", ImageSpec{Config: []byte(`{"architecture":"amd64"}`)}},
		{"no os or no architecture", ImageSpec{Config: []byte(`{"os":"linux"}`)}},
		{"no os or no architecture", ImageSpec{Config: []byte(`null`)}},
		{"parse config", ImageSpec{Config: []byte(`{"os":"linux","architecture":"amd64","created":7}`)}},
		{"parse base config", ImageSpec{Config: []byte(good), BaseConfig: []byte(`{"history":7}`)}},
		{"diffID", ImageSpec{Config: []byte(good), Layers: []LayerBlob{{Descriptor: descriptorOf("x")}}}},
		{"layer 0: digest", ImageSpec{Config: []byte(good), Layers: []LayerBlob{{DiffID: someDigest}}}},
	} {
		_, _, err := newLayout(t).WriteImage(tt.img)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("WriteImage: %v, want %q", err, tt.want)
		}
	}
}

// History and layers are made to agree by BuildKit's rules.
func TestHistory(t *testing.T) {
	t1, t2, t3 := timeAt("2021-01-01T00:00:00Z"), timeAt("2022-01-01T00:00:00Z"), timeAt("2023-01-01T00:00:00Z")
	h := func(by string, created *time.Time) ocispec.History {
		return ocispec.History{CreatedBy: by, Created: created}
	}
	empty := func(by string, created *time.Time) ocispec.History {
		return ocispec.History{CreatedBy: by, Created: created, EmptyLayer: true}
	}
	for name, tt := range map[string]struct {
		history []ocispec.History
		layers  []LayerBlob
		base    []ocispec.History
		epoch   *time.Time
		want    []ocispec.History
	}{
		"times of the layers": {
			history: []ocispec.History{h("base", t1), h("RUN", nil)},
			layers:  []LayerBlob{fakeLayer("a", t2), fakeLayer("b", t3)},
			want:    []ocispec.History{h("base", t1), h("RUN", t3)},
		},
		"metadata before the first new layer looks as new as it": {
			history: []ocispec.History{h("base", t1), empty("ENV", nil), h("RUN", nil), empty("CMD", nil)},
			layers:  []LayerBlob{fakeLayer("a", t1), fakeLayer("b", t3)},
			want:    []ocispec.History{h("base", t1), empty("ENV", t3), h("RUN", t3), empty("CMD", t3)},
		},
		"metadata alone has the base's time": {
			history: []ocispec.History{h("base", t1), empty("ENV", nil)},
			layers:  []LayerBlob{fakeLayer("a", t1)},
			want:    []ocispec.History{h("base", t1), empty("ENV", t1)},
		},
		"layers without entries": {
			history: []ocispec.History{h("base", t1)},
			layers:  []LayerBlob{fakeLayer("a", t1), {CreatedBy: "COPY x", Created: t2}, fakeLayer("c", t3)},
			want: []ocispec.History{h("base", t1),
				{CreatedBy: "COPY x", Created: t2, Comment: "buildkit.exporter.image.v0"},
				{CreatedBy: "created by bk", Created: t3, Comment: "buildkit.exporter.image.v0"}},
		},
		"entries without layers": {
			history: []ocispec.History{h("base", t1), h("squashed", t2)},
			layers:  []LayerBlob{fakeLayer("a", t1)},
			want:    []ocispec.History{h("base", t1), empty("squashed", t2)},
		},
		"epoch bounds what is new": {
			history: []ocispec.History{h("base", t3), h("RUN", nil), empty("CMD", nil)},
			layers:  []LayerBlob{fakeLayer("a", nil), fakeLayer("b", t3)},
			base:    []ocispec.History{h("base", t3)},
			epoch:   t2,
			want:    []ocispec.History{h("base", t3), h("RUN", t2), empty("CMD", t2)},
		},
		"epoch bounds all after the first difference from the base": {
			history: []ocispec.History{h("other", t3), h("same", t3)},
			layers:  []LayerBlob{fakeLayer("a", nil), fakeLayer("b", nil)},
			base:    []ocispec.History{h("base", t3), h("same", t3)},
			epoch:   t2,
			want:    []ocispec.History{h("other", t2), h("same", t2)},
		},
		"epoch keeps older times and sets missing ones": {
			history: []ocispec.History{h("a", t1), h("b", nil)},
			layers:  []LayerBlob{fakeLayer("a", nil), fakeLayer("b", nil)},
			epoch:   t2,
			want:    []ocispec.History{h("a", t1), h("b", t1)},
		},
		"no times at all": {
			history: []ocispec.History{h("a", nil)},
			layers:  []LayerBlob{fakeLayer("a", nil)},
			want:    []ocispec.History{h("a", nil)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := clampHistory(completeHistory(tt.history, tt.layers), tt.base, tt.epoch)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// created is the config's own or the last of the history, no later than the
// epoch.
func TestCreated(t *testing.T) {
	history := `"history":[{"created":"2022-01-01T00:00:00Z"}]`
	for name, tt := range map[string]struct {
		config string
		epoch  *time.Time
		want   string
	}{
		"own":            {`{"os":"l","architecture":"a","created":"2020-01-01T00:00:00Z",` + history + `}`, nil, "2020-01-01T00:00:00Z"},
		"of the history": {`{"os":"l","architecture":"a",` + history + `}`, nil, "2022-01-01T00:00:00Z"},
		"own, clamped":   {`{"os":"l","architecture":"a","created":"2023-01-01T00:00:00+01:00"}`, timeAt("2021-06-01T00:00:00+02:00"), "2021-05-31T22:00:00Z"},
		"own, earlier":   {`{"os":"l","architecture":"a","created":"2020-01-01T00:00:00.5Z"}`, timeAt("2021-06-01T00:00:00Z"), "2020-01-01T00:00:00.5Z"},
		"clamped":        {`{"os":"l","architecture":"a",` + history + `}`, timeAt("1970-01-01T00:00:00Z"), "1970-01-01T00:00:00Z"},
	} {
		b, _, err := patchConfig(ImageSpec{Config: []byte(tt.config), Epoch: tt.epoch})
		var got struct{ Created string }
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		if err != nil || got.Created != tt.want {
			t.Errorf("%s: created %q, %v; want %q", name, got.Created, err, tt.want)
		}
	}
}
