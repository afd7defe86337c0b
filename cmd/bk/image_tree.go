package main

import (
	"context"
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
	"bk.build/bk/layout/artifact"
	"bk.build/bk/layout/transfer"
)

func newImageTree(e *env) *cobra.Command {
	var format string
	var layers bool
	var r reach
	cmd := &cobra.Command{
		Use:   "tree IMAGE",
		Short: "Show an image and all that refers to it",
		Long: `Show an image as a tree: the platforms of an index, and below each document the
signatures, attestations, SBOMs and other artifacts that refer to it, by subject
(OCI 1.1, also by the fallback tag) and by cosign's tags.

` + placesHelp + lookHelp,
		Example: "  bk image tree registry.example/team/app:v1\n  bk image tree --layers oci:out",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.Flags().BoolVar(&layers, "layers", false, "show configurations and layers too")
	r.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		p := e.places(&r, true)
		defer p.close(&err)
		img, err := p.image(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, img.Close()) }()
		tree, err := readTree(cmd.Context(), img, layers)
		if err != nil {
			return err
		}
		tree.Name = img.Name
		return printAs(e.stdout, format, tree, func(w io.Writer) error { return tree.print(w) })
	}
	return cmd
}

// treeNode is one document of "bk image tree".
type treeNode struct {
	Name         string            `json:"name,omitempty"` // of the root
	Kind         string            `json:"kind"`
	Digest       string            `json:"digest"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Platform     string            `json:"platform,omitempty"`
	Tag          string            `json:"tag,omitempty"`
	Size         int64             `json:"size"` // of the document
	Missing      bool              `json:"missing,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Children     []*treeNode       `json:"children,omitempty"`
}

// readTree discovers what belongs to an image, and with layers its blobs.
func readTree(ctx context.Context, img *image, layers bool) (*treeNode, error) {
	root, err := artifact.Discover(ctx, img.Reader, img.desc)
	if err != nil {
		return nil, err
	}
	docs := documents{transfer.Fetch(ctx, img.Reader)}
	var convert func(n *artifact.Node) (*treeNode, error)
	convert = func(n *artifact.Node) (*treeNode, error) {
		t := newTreeNode(string(n.Kind), n.Desc)
		t.Tag, t.Missing = n.Tag, n.Missing
		if layers && layout.IsManifest(n.Desc.MediaType) && !n.Missing {
			if err := t.addBlobs(docs, n.Desc); err != nil {
				return nil, err
			}
		}
		for _, c := range n.Children {
			child, err := convert(c)
			if err != nil {
				return nil, err
			}
			t.Children = append(t.Children, child)
		}
		return t, nil
	}
	return convert(root)
}

func newTreeNode(kind string, desc ocispecs.Descriptor) *treeNode {
	t := &treeNode{
		Kind: kind, Digest: desc.Digest.String(), MediaType: desc.MediaType, ArtifactType: desc.ArtifactType,
		Size: desc.Size, Annotations: desc.Annotations,
	}
	if desc.Platform != nil {
		t.Platform = platforms.FormatAll(*desc.Platform)
	}
	return t
}

// addBlobs adds the configuration and the layers of a manifest.
func (t *treeNode) addBlobs(docs documents, desc ocispecs.Descriptor) error {
	m, err := docs.manifest(desc)
	if err != nil {
		return err
	}
	t.Children = append(t.Children, newTreeNode("config", m.Config))
	for _, l := range m.Layers {
		t.Children = append(t.Children, newTreeNode("layer", l))
	}
	return nil
}

// print draws the tree.
func (t *treeNode) print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s %s %s\n", printable(t.Name), t.Digest, t.MediaType); err != nil {
		return err
	}
	return t.printChildren(w, "")
}

func (t *treeNode) printChildren(w io.Writer, indent string) error {
	for i, c := range t.Children {
		branch, next := "├── ", "│   "
		if i == len(t.Children)-1 {
			branch, next = "└── ", "    "
		}
		if _, err := fmt.Fprintf(w, "%s%s%s\n", indent, branch, printable(c.line())); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(c.Annotations)) {
			if c.Kind == string(artifact.KindPlatform) || c.Kind == "layer" {
				break
			}
			if _, err := fmt.Fprintf(w, "%s%s    %s\n", indent, next, printable(shorten(key+"="+c.Annotations[key], 100))); err != nil {
				return err
			}
		}
		if err := c.printChildren(w, indent+next); err != nil {
			return err
		}
	}
	return nil
}

// line describes a document in one line.
func (t *treeNode) line() string {
	words := []string{t.Kind, t.Platform, t.ArtifactType, t.Digest}
	switch t.Kind {
	case "config", "layer":
		words = []string{t.Kind, t.Digest, t.MediaType, size(t.Size)}
	}
	if t.Tag != "" {
		words = append(words, "("+t.Tag+")")
	}
	if t.Missing {
		words = append(words, "missing")
	}
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), " ")
}

// shorten cuts a text that is too long for a line.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
