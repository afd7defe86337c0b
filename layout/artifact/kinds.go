package artifact

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/transfer"
)

// Media types of artifacts that other tools define.
const (
	TypeHelmConfig     = "application/vnd.cncf.helm.config.v1+json"
	TypeHelmChart      = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	typeHelmChartOld   = "application/tar+gzip" // of Helm before 3.7
	TypeHelmProvenance = "application/vnd.cncf.helm.chart.provenance.v1.prov"
	TypeFluxConfig     = "application/vnd.cncf.flux.config.v1+json"
	TypeFluxContent    = "application/vnd.cncf.flux.content.v1.tar+gzip"
	TypeWasmConfig     = "application/vnd.wasm.config.v0+json"
	TypeWasm           = "application/wasm"
)

// maxKindConfig bounds the configurations that are read for the names of files.
const maxKindConfig = 1 << 20

// namer gives layers the names that they are pulled as.
type namer struct {
	chart string // NAME-VERSION, of a Helm chart
}

func newNamer(ctx context.Context, r transfer.Reader, m ocispec.Manifest) (namer, error) {
	if m.Config.MediaType != TypeHelmConfig {
		return namer{}, nil
	}
	b, err := transfer.ReadDocument(ctx, r, m.Config, maxKindConfig)
	if err != nil {
		return namer{}, err
	}
	var c struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return namer{}, fmt.Errorf("parse the chart's config: %w", err)
	}
	if c.Name == "" || c.Version == "" || path.Base(c.Name) != c.Name {
		return namer{}, fmt.Errorf("the chart's config has the name %q and the version %q", c.Name, c.Version)
	}
	return namer{chart: c.Name + "-" + c.Version}, nil
}

// name says what becomes of a layer: its title counts, then what the media type
// means; without either it is not pulled.
func (n namer) name(l ocispec.Descriptor) planned {
	p := planned{Pulled: Pulled{Desc: l, Title: l.Annotations[ocispec.AnnotationTitle]}}
	switch {
	case p.Title != "":
		p.Directory = l.Annotations[annotationUnpack] == "true"
		p.prefix = p.Title
	case n.chart != "" && (l.MediaType == TypeHelmChart || l.MediaType == typeHelmChartOld):
		p.Title = n.chart + ".tgz"
	case n.chart != "" && l.MediaType == TypeHelmProvenance:
		p.Title = n.chart + ".tgz.prov"
	case l.MediaType == TypeFluxContent:
		p.Title, p.prefix, p.Directory = ".", ".", true
	case l.MediaType == TypeWasm:
		p.Title = "module.wasm"
	}
	return p
}
