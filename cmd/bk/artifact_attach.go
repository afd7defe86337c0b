package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"bk.build/bk/layout/artifact"
	"bk.build/bk/layout/transfer"
)

func newArtifactAttach(e *env) *cobra.Command {
	var f artifactFlags
	var platform string
	cmd := &cobra.Command{
		Use:   "attach SUBJECT FILE[:MEDIATYPE]...",
		Short: "Attach files to an image or artifact as a referrer",
		Long: `Attach files to an image or artifact: they become an artifact beside it whose
subject it is (OCI 1.1; in a registry without the API for referrers also by the
tag sha256-HEX). The subject does not change. Files may be none, with annotations
alone.

` + artifactPlacesHelp,
		Example: `  bk artifact attach --artifact-type application/spdx+json registry.example/team/app:v1 app.spdx.json
  bk artifact attach --artifact-type application/vnd.example.approval --annotation by=qa oci:out:v1`,
		Args: cobra.MinimumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&platform, "platform", "", "attach to the image for `OS/ARCH` of an index, not to the index")
	f.register(flags, e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.artifactType == "" && f.config == "" {
			return usagef(cmd, "say what is attached: --artifact-type TYPE")
		}
		files, err := parseFiles(args[1:])
		if err != nil {
			return usage(cmd, err)
		}
		spec := artifact.Spec{Files: files}
		if err := f.complete(e, &spec); err != nil {
			return err
		}
		return f.attach(cmd.Context(), e, args[0], platform, spec)
	}
	return cmd
}

// attach brings an artifact to the place of its subject.
func (f *artifactFlags) attach(ctx context.Context, e *env, subject, platform string, spec artifact.Spec) (err error) {
	p := e.places(&f.reach, false)
	defer p.close(&err)
	img, err := p.narrow(ctx, subject, platform)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	spec.Subject = &img.desc
	packed, err := artifact.Pack(ctx, spec, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	beside, err := img.Beside("latest") // only the place counts: the artifact gets no name
	if err != nil {
		return fmt.Errorf("%w: copy it to a registry or an OCI layout, and attach there", err)
	}
	target, err := p.Target(ctx, beside.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if target.Writer == nil {
		return fmt.Errorf("%s is written as a whole: copy it to a registry or an OCI layout, and attach there", subject)
	}
	err = f.show(e, "attaching to "+img.Name, func(view *transferView) error {
		return transfer.Copy(ctx, target.Writer, packed, packed.Desc, []string{""}, transfer.Options{Progress: view.note})
	})
	if err != nil {
		return err
	}
	return f.report(e, target.At(packed.Desc.Digest), packed)
}

func newArtifactDiscover(e *env) *cobra.Command {
	var artifactType, platform, format string
	var r reach
	cmd := &cobra.Command{
		Use:   "discover REF",
		Short: "Show what refers to an image or artifact",
		Long: `Show what refers to an image or artifact, and what refers to that: by subject (OCI
1.1, also by the fallback tag) and by cosign's tags. "bk image tree" shows what
refers to the platforms of an index too.

` + artifactPlacesHelp,
		Example: `  bk artifact discover registry.example/team/app:v1
  bk artifact discover --artifact-type application/spdx+json --format json oci:out:v1`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&artifactType, "artifact-type", "", "show only what is of `TYPE`, and what leads there")
	flags.StringVar(&platform, "platform", "", "what refers to the image for `OS/ARCH` of an index")
	flags.StringVar(&format, "format", "", formatHelp)
	r.register(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		p := e.places(&r, false)
		defer p.close(&err)
		img, err := p.narrow(cmd.Context(), args[0], platform)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, img.Close()) }()
		root, err := artifact.Discover(cmd.Context(), img.Reader, img.desc)
		if err != nil {
			return err
		}
		tree := referrerTree(root.Referrers(artifactType))
		tree.Name = img.Name
		return printAs(e.stdout, format, tree, func(w io.Writer) error { return tree.print(w) })
	}
	return cmd
}

// referrerTree is a tree as it is printed.
func referrerTree(n *artifact.Node) *treeNode {
	t := newTreeNode(string(n.Kind), n.Desc)
	t.Tag, t.Missing = n.Tag, n.Missing
	for _, c := range n.Children {
		t.Children = append(t.Children, referrerTree(c))
	}
	return t
}
