package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"bk.build/bk/layout"
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
		Use:     "ls [oci:DIR]",
		Aliases: []string{"list"},
		Short:   "List the images of the store, or of an OCI layout",
		Example: "  bk image ls\n  bk image ls --format '{{.Name}} {{.Digest}}' oci:out",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only digests")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		arg := ""
		if len(args) == 1 {
			if arg = args[0]; !strings.HasPrefix(arg, "oci:") {
				return usagef(cmd, "%q: want oci:DIR", arg)
			}
		}
		if quiet {
			format = "{{.Digest}}"
		}
		return e.listImages(arg, format)
	}
	return cmd
}

func (e *env) listImages(arg, format string) error {
	loc, err := e.locate(arg)
	if err != nil {
		return err
	}
	index, err := loc.dir.Index()
	if err != nil {
		return err
	}
	var list []imageEntry
	for _, desc := range index.Manifests {
		list = append(list, loc.entry(desc))
	}
	return printEach(e.stdout, format, list, func(w io.Writer) error { return imageTable(w, list) })
}

// entry describes an entry of index.json. What is missing or broken leaves its
// field empty: "bk cache verify" says why.
func (l location) entry(desc ocispecs.Descriptor) imageEntry {
	entry := imageEntry{Name: entryName(desc), Digest: desc.Digest.String(), MediaType: desc.MediaType, Platforms: []string{}}
	if blobs, err := l.dir.Closure(desc); err == nil {
		for _, b := range blobs {
			entry.Size += b.Size
		}
	}
	images, err := layout.Images(desc, l.dir.ReadBlob)
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
	return &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Remove names of images",
		Long:    "Remove names of images. Their content stays until \"bk cache prune\".",
		Example: "  bk image rm app:old\n  bk image rm oci:out:v1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				loc, err := e.locate(arg)
				if err != nil {
					return err
				}
				if err := loc.dir.RemoveRef(loc.ref); err != nil {
					return err
				}
				if _, err := fmt.Fprintln(e.stdout, arg); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
