package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

func newImage(e *env) *cobra.Command {
	return group("image", "List, inspect, change and remove images", "  bk image ls\n  bk image inspect app",
		newImageLs(e), newImageInspect(e), newImageTree(e), newImageTag(e), newImageRm(e),
		newImageDiff(e), newImageLayers(e), newImageCat(e), newImageExport(e), newImageValidate(e),
		newImageFlatten(e), newImageRebase(e), newImageConvert(e))
}

// imageEntry is one line of "bk image ls".
type imageEntry struct {
	Name      string   `json:"name"`
	Digest    string   `json:"digest"`
	MediaType string   `json:"mediaType"`
	Platforms []string `json:"platforms"`
	Size      int64    `json:"size"` // of all blobs of the image, as they are stored
}

func newImageLs(e *env) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [PLACE]",
		Aliases: []string{"list"},
		Short:   "List the images of the store, or of another place",
		Long: `List the images of the store, of an OCI layout (oci:DIR), an archive
(oci-archive:FILE, docker-archive:FILE) or containerd ("containerd:").
"bk registry tags" lists those of a repository.`,
		Example: "  bk image ls\n  bk image ls --format '{{.Name}} {{.Digest}}' oci:out",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only digests")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		p := e.places(&reach{}, true)
		defer p.close(&err)
		if quiet {
			format = "{{.Digest}}"
		}
		list, err := p.list(cmd.Context(), args)
		if err != nil {
			return err
		}
		return printEach(e.stdout, format, list, func(w io.Writer) error { return imageTable(w, list) })
	}
	return cmd
}

// list describes the images of the place that is named, or of the store.
func (p *places) list(ctx context.Context, args []string) (list []imageEntry, err error) {
	src, entries, err := p.Images(ctx, strings.Join(args, ""))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	docs := documents{transfer.Fetch(ctx, src.Reader)}
	for _, desc := range entries {
		list = append(list, docs.entry(desc))
	}
	return list, nil
}

// entry describes an image. What is missing or broken leaves its field empty:
// "bk cache verify" and "bk image validate" say why.
func (d documents) entry(desc ocispecs.Descriptor) imageEntry {
	entry := imageEntry{Name: entryName(desc), Digest: desc.Digest.String(), MediaType: desc.MediaType, Platforms: []string{}}
	if blobs, err := layout.Closure(desc, d.fetch); err == nil {
		for _, b := range blobs {
			entry.Size += b.Size
		}
	}
	images, err := layout.Images(desc, d.fetch)
	if err != nil {
		return entry
	}
	for _, image := range images {
		if image.Platform != nil {
			entry.Platforms = append(entry.Platforms, platforms.FormatAll(*image.Platform))
		}
	}
	return entry
}

// entryName is the name of an entry of index.json: in full, or the tag.
func entryName(desc ocispecs.Descriptor) string {
	return orDefault(desc.Annotations[layout.AnnotationImageName], desc.Annotations[ocispecs.AnnotationRefName])
}

func imageTable(w io.Writer, list []imageEntry) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tPLATFORMS\tSIZE")
	for _, i := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", orDefault(familiar(i.Name), "<none>"), short(i.Digest), strings.Join(i.Platforms, ","), size(i.Size))
	}
	return t.Flush()
}

// familiar drops what Docker Hub's names have in common.
func familiar(name string) string {
	if rest, ok := strings.CutPrefix(name, "docker.io/library/"); ok {
		return rest
	}
	return strings.TrimPrefix(name, "docker.io/")
}

// short is a digest for people: its first 12 digits.
func short(dgst string) string {
	_, hex, _ := strings.Cut(dgst, ":")
	return hex[:min(12, len(hex))]
}

func newImageRm(e *env) *cobra.Command {
	var r reach
	cmd := &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove names of images",
		Long: `Remove names of images: from the store, from an OCI layout (oci:DIR:REF), or from
a registry (docker://REF), where a digest removes the manifest itself. Content
stays until "bk cache prune", or the registry's own collector, removes it.`,
		Example: "  bk image rm app:old\n  bk image rm oci:out:v1\n  bk image rm docker://registry.example/app:old",
		Args:    cobra.MinimumNArgs(1),
	}
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		p := e.places(&r, true)
		defer p.close(&err)
		for _, arg := range args {
			if err := p.Remove(cmd.Context(), arg); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(e.stdout, arg); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
