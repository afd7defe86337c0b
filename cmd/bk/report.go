package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder"
	"bk.build/bk/layout/archive"
	"bk.build/bk/runner/host"
)

// buildMetadata is the content of --metadata-file, with BuildKit's keys.
type buildMetadata struct {
	ConfigDigest string               `json:"containerimage.config.digest,omitempty"` // of one platform
	Descriptor   *ocispecs.Descriptor `json:"containerimage.descriptor,omitempty"`
	Digest       string               `json:"containerimage.digest,omitempty"`
	Name         string               `json:"image.name,omitempty"` // separated by commas
	// Isolation is how RUN steps were isolated.
	Isolation host.Isolation `json:"bk.isolation"`
}

func newMetadata(done *built) buildMetadata {
	if done.image == nil {
		return buildMetadata{}
	}
	m := buildMetadata{
		Descriptor: &done.image.Descriptor,
		Digest:     done.image.Descriptor.Digest.String(),
		Name:       strings.Join(done.names, ","),
	}
	if !isIndex(done.image) {
		m.ConfigDigest = done.image.Configs[0].String()
	}
	return m
}

func isIndex(image *builder.Image) bool {
	return len(image.Manifests) != 1 || image.Manifests[0].Digest != image.Descriptor.Digest
}

// imageID is what other builders call an image's id: the digest of its
// configuration, or of the index when it has several platforms.
func (m buildMetadata) imageID() string { return orDefault(m.ConfigDigest, m.Digest) }

// reportBuild writes what was asked for beside the outputs.
func (e *env) reportBuild(plan *buildPlan, done *built) error {
	meta := newMetadata(done)
	meta.Isolation = plan.isolation
	if plan.metadata != "" {
		text, err := json.MarshalIndent(meta, "", "  ")
		if err != nil {
			return err
		}
		if err := writeText(plan.metadata, string(text)+"\n"); err != nil {
			return err
		}
	}
	if plan.iidFile != "" {
		if err := writeText(plan.iidFile, meta.imageID()); err != nil {
			return err
		}
	}
	if plan.quiet && done.image != nil && !plan.writesStdout() {
		_, err := fmt.Fprintln(e.stdout, meta.Digest)
		return err
	}
	return nil
}

func writeText(file, text string) error {
	return archive.File(file, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// writesStdout reports whether an output takes standard output.
func (p *buildPlan) writesStdout() bool {
	for _, o := range p.outputs {
		if o.dest == stdout {
			return true
		}
	}
	return false
}

// checkReports refuses an id file for a build that makes no image.
func (p *buildPlan) checkReports() error {
	if p.iidFile == "" {
		return nil
	}
	for _, o := range p.outputs {
		if o.isImage() {
			return nil
		}
	}
	return errors.New("iidfile: no output is an image: add -o type=image or type=oci")
}
