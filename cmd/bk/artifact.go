package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newArtifact(e *env) *cobra.Command {
	return group("artifact", "Push and pull files, charts and modules as OCI artifacts",
		"  bk artifact push registry.example/team/conf:v1 app.json:application/json certs/\n  bk artifact pull registry.example/team/conf:v1 -o out",
		newArtifactPush(e), newArtifactPull(e), newArtifactAttach(e), newArtifactDiscover(e))
}

// artifactPlacesHelp is placesHelp for artifacts.
const artifactPlacesHelp = `An artifact is named by its place: docker://[HOST/]NAME[:TAG][@DIGEST] or
oci://..., oci:DIR[:REF], oci-archive:FILE[:REF] or store:REF; a reference alone
is a registry's.`

// display are the flags of what shows a transfer.
type display struct {
	progress string
	quiet    bool
}

func (d *display) register(set *pflag.FlagSet, e *env) {
	set.StringVar(&d.progress, "progress", orDefault(e.getenv("BUILDKIT_PROGRESS"), "auto"), "show progress in `MODE` auto, tty, plain, quiet or rawjson")
	set.BoolVarP(&d.quiet, "quiet", "q", false, "show no progress")
}

// show runs f and shows what it transfers.
func (d *display) show(e *env, what string, f func(*transferView) error) error {
	mode := d.progress
	if d.quiet {
		mode = "quiet"
	}
	p, err := e.startProgress(mode)
	if err != nil {
		return err
	}
	defer p.close()
	view := p.transfer(what)
	err = f(view)
	view.done(err)
	return err
}

// annotationPairs parses values KEY=VALUE of a flag.
func annotationPairs(flag string, values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || strings.TrimSpace(key) == "" {
			return nil, fmt.Errorf("%s %q: want KEY=VALUE", flag, v)
		}
		m[key] = value
	}
	return m, nil
}

// epoch is the time that SOURCE_DATE_EPOCH says; nil: none.
func (e *env) epoch() (*time.Time, error) {
	text := e.getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	t := time.Unix(n, 0).UTC()
	return &t, nil
}

// artifactFile is a layer in what the artifact commands print.
type artifactFile struct {
	Title     string `json:"title,omitempty"`
	Path      string `json:"path,omitempty"` // of a pulled one
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
}

func newArtifactFile(desc ocispecs.Descriptor) artifactFile {
	return artifactFile{
		Title: desc.Annotations[ocispecs.AnnotationTitle], Digest: desc.Digest.String(),
		MediaType: desc.MediaType, Size: desc.Size,
	}
}

// artifactReport is what the artifact commands print as JSON.
type artifactReport struct {
	Name         string            `json:"name"` // NAME@DIGEST, or the digest alone
	Digest       string            `json:"digest"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Size         int64             `json:"size"` // of the manifest
	Subject      string            `json:"subject,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Files        []artifactFile    `json:"files"`
}

func newArtifactReport(name string, desc ocispecs.Descriptor, m ocispecs.Manifest) artifactReport {
	r := artifactReport{
		Name: name, Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size,
		ArtifactType: orDefault(m.ArtifactType, m.Config.MediaType), Annotations: m.Annotations, Files: []artifactFile{},
	}
	if m.Subject != nil {
		r.Subject = m.Subject.Digest.String()
	}
	return r
}
