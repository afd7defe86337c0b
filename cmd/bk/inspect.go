package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

func newImageInspect(e *env) *cobra.Command {
	var format, platform string
	var raw, config bool
	var r reach
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show an image: its index, manifests and configurations",
		Long: `Show an image of the store, a registry, an OCI layout, an archive.

` + placesHelp + lookHelp,
		Example: `  bk image inspect app
  bk image inspect --raw oci:out:latest
  bk image inspect --config --platform linux/arm64 docker://alpine:3
  bk image inspect --format '{{(index .Images 0).Config.Config.Cmd}}' app`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().StringVar(&platform, "platform", "", "show only `OS/ARCH`")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the manifest or index, byte for byte")
	cmd.Flags().BoolVar(&config, "config", false, "print the configuration, byte for byte")
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if (raw || config) && format != "" || raw && config {
			return usagef(cmd, "--raw, --config and --format cannot be combined")
		}
		p := e.places(&r, true)
		defer p.close(&err)
		img, err := p.narrow(cmd.Context(), args[0], platform)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, img.Close()) }()
		docs := documents{transfer.Fetch(cmd.Context(), img.Reader)}
		switch {
		case raw:
			return docs.printRaw(e.stdout, img.desc)
		case config:
			return docs.printConfig(e.stdout, img.desc)
		}
		info, err := docs.inspect(img.desc)
		if err != nil {
			return err
		}
		return printAs(e.stdout, format, info, func(w io.Writer) error { return info.print(w) })
	}
	return cmd
}

// imageInfo is what "bk image inspect" shows.
type imageInfo struct {
	Name        string            `json:"name,omitempty"`
	Digest      string            `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Annotations map[string]string `json:"annotations,omitempty"` // of the index
	Images      []platformInfo    `json:"images"`
}

// platformInfo is the image for one platform.
type platformInfo struct {
	Platform    string                `json:"platform"`
	Digest      string                `json:"digest"`
	MediaType   string                `json:"mediaType"`
	Size        int64                 `json:"size"` // of configuration and layers
	Annotations map[string]string     `json:"annotations,omitempty"`
	ConfigID    string                `json:"configDigest"`
	Config      ocispecs.Image        `json:"config"`
	Layers      []ocispecs.Descriptor `json:"layers"`
}

// documents reads an image's manifests and configurations.
type documents struct{ fetch layout.Fetch }

func (d documents) printRaw(w io.Writer, desc ocispecs.Descriptor) error {
	text, err := d.fetch(desc, layout.MaxManifest)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// printConfig prints the configuration of the one image, or of this machine's
// platform.
func (d documents) printConfig(w io.Writer, desc ocispecs.Descriptor) error {
	desc, err := layout.Select(desc, platforms.DefaultSpec(), d.fetch)
	if err != nil {
		return err
	}
	manifest, err := d.manifest(desc)
	if err != nil {
		return err
	}
	text, err := d.fetch(manifest.Config, layout.MaxConfig)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func (d documents) manifest(desc ocispecs.Descriptor) (ocispecs.Manifest, error) {
	text, err := d.fetch(desc, layout.MaxManifest)
	if err != nil {
		return ocispecs.Manifest{}, err
	}
	m, err := layout.ParseManifest(desc.MediaType, text)
	if err != nil {
		return m, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return m, nil
}

// inspect reads all documents of an image.
func (d documents) inspect(desc ocispecs.Descriptor) (*imageInfo, error) {
	info := &imageInfo{Name: entryName(desc), Digest: desc.Digest.String(), MediaType: desc.MediaType}
	if layout.IsIndex(desc.MediaType) {
		text, err := d.fetch(desc, layout.MaxManifest)
		if err != nil {
			return nil, err
		}
		index, err := layout.ParseIndex(desc.MediaType, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", desc.Digest, err)
		}
		info.Annotations = index.Annotations
	}
	images, err := layout.Images(desc, d.fetch)
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		p, err := d.platform(image)
		if err != nil {
			return nil, err
		}
		info.Images = append(info.Images, p)
	}
	return info, nil
}

// platform reads a manifest and its configuration.
func (d documents) platform(desc ocispecs.Descriptor) (platformInfo, error) {
	manifest, err := d.manifest(desc)
	if err != nil {
		return platformInfo{}, err
	}
	p := platformInfo{
		Digest: desc.Digest.String(), MediaType: desc.MediaType, Annotations: manifest.Annotations,
		ConfigID: manifest.Config.Digest.String(), Size: manifest.Config.Size, Layers: manifest.Layers,
	}
	text, err := d.fetch(manifest.Config, layout.MaxConfig)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p.Config); err != nil {
		return p, fmt.Errorf("config %s: %w", manifest.Config.Digest, err)
	}
	p.Platform = platforms.FormatAll(p.Config.Platform)
	for _, layer := range manifest.Layers {
		p.Size += layer.Size
	}
	return p, nil
}

// print writes the image for people.
func (i *imageInfo) print(w io.Writer) error {
	p := &lines{w: w}
	p.add("Name", i.Name)
	p.add("Digest", i.Digest)
	p.add("Media type", i.MediaType)
	p.pairs("Annotation", i.Annotations)
	for n := range i.Images {
		i.Images[n].print(p)
	}
	return p.err
}

func (i *platformInfo) print(p *lines) {
	p.add("", "")
	p.add("Platform", i.Platform)
	p.add("  Manifest", i.Digest)
	p.add("  Config", i.ConfigID)
	p.add("  Size", fmt.Sprintf("%s in %s", size(i.Size), plural(len(i.Layers), "layer")))
	if i.Config.Created != nil {
		p.add("  Created", i.Config.Created.UTC().Format("2006-01-02 15:04:05"))
	}
	p.pairs("  Annotation", i.Annotations)
	c := i.Config.Config
	p.add("  User", c.User)
	p.add("  Work dir", c.WorkingDir)
	p.add("  Entrypoint", strings.Join(quoted(c.Entrypoint), " "))
	p.add("  Command", strings.Join(quoted(c.Cmd), " "))
	p.add("  Ports", strings.Join(slices.Sorted(maps.Keys(c.ExposedPorts)), " "))
	p.add("  Volumes", strings.Join(slices.Sorted(maps.Keys(c.Volumes)), " "))
	p.add("  Stop signal", c.StopSignal)
	for _, v := range c.Env {
		p.add("  Env", v)
	}
	p.pairs("  Label", c.Labels)
	for _, l := range i.Layers {
		p.add("  Layer", fmt.Sprintf("%s %8s %s", l.Digest, size(l.Size), l.MediaType))
	}
}

func quoted(words []string) []string {
	var out []string
	for _, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\n\"'\\$") {
			word = fmt.Sprintf("%q", word)
		}
		out = append(out, word)
	}
	return out
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// lines prints "name: value" lines; values that are empty are left out.
type lines struct {
	w   io.Writer
	err error
}

func (p *lines) add(name, value string) {
	switch {
	case p.err != nil:
	case name == "":
		_, p.err = fmt.Fprintln(p.w)
	case value != "":
		_, p.err = fmt.Fprintf(p.w, "%-14s %s\n", name+":", printable(value))
	}
}

func (p *lines) pairs(name string, values map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		p.add(name, key+"="+values[key])
	}
}

// printable keeps an image's strings from writing control characters to a
// terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
