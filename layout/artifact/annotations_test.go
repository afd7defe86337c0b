package artifact

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// An annotation file says what the manifest, the config and each file get.
func TestAnnotate(t *testing.T) {
	spec := Spec{Annotations: map[string]string{"a": "1", "b": "1"}, Files: []File{{Title: "f"}, {Title: "g"}}}
	if err := spec.Annotate([]byte(`{"$manifest":{"b":"2"},"$config":{"c":"3"},"f":{"d":"4"}}`)); err != nil {
		t.Fatal(err)
	}
	want := Spec{
		Annotations: map[string]string{"a": "1", "b": "2"}, ConfigAnnotations: map[string]string{"c": "3"},
		Files: []File{{Title: "f", Annotations: map[string]string{"d": "4"}}, {Title: "g"}},
	}
	if diff := cmp.Diff(want, spec, cmpopts.IgnoreUnexported(Spec{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		`{"x":{"a":"b"}}`:     `"x" names no file`,
		`{"f":{"a":1}}`:       "objects of strings",
		`[]`:                  "objects of strings",
		`{} {}`:               "more than one",
		`{"f":{" ":"x"}}`:     "without a key",
		"{\"f\":{\"\xff\":1}": "UTF-8",
	} {
		if err := spec.Annotate([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Annotate(%s) = %v, want %q", text, err, want)
		}
	}
}

// What an annotation file is read as is what it says when it is written again.
func FuzzAnnotations(f *testing.F) {
	f.Add([]byte(`{"$manifest":{"b":"2"},"f":{}}`))
	f.Add([]byte(`{"a":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseAnnotations(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseAnnotations(text)
		if diff := cmp.Diff(all, again); err != nil || diff != "" {
			t.Errorf("%v (-first +second):\n%s", err, diff)
		}
	})
}
