package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/layout/edit"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

func newManifest(e *env) *cobra.Command {
	return group("manifest", "Create and change multi-platform indexes (manifest lists)",
		"  bk manifest create registry.example/app:v1 registry.example/app:v1-amd64 registry.example/app:v1-arm64\n  bk manifest rm registry.example/app:v1 linux/386",
		newManifestCreate(e), newManifestAdd(e), newManifestAnnotate(e), newManifestRm(e))
}

// listHelp says what a LIST is.
const listHelp = `LIST is where the index is: docker://REF, oci:DIR:REF or store:REF; a reference
alone is a registry's. A change writes a new index, makes the name lead to it and
prints it. What a list consists of is brought to its place, and mounted from other
repositories of the same registry.`

// listFlags are those of all commands that write a list.
type listFlags struct {
	reach
	display
	format string
}

func (f *listFlags) register(set *pflag.FlagSet, e *env) {
	set.SortFlags = false
	set.StringVar(&f.format, "format", "", formatHelp)
	f.display.register(set, e)
	f.reach.register(set)
}

// listJob is a list on its way from what it was to what it becomes.
type listJob struct {
	*places
	e     *env
	flags *listFlags
	arg   string
	list  *edit.List
	parts []edit.Part
	close []func() error
}

// changeList opens a list, lets f change it, and writes the result. A list that
// is made anew is not read.
func (f *listFlags) changeList(ctx context.Context, e *env, arg string, anew *edit.List, change func(*listJob) error) (err error) {
	p := e.places(&f.reach, false)
	defer p.close(&err)
	job := &listJob{places: p, e: e, flags: f, arg: arg, list: anew}
	defer func() {
		for _, c := range job.close {
			err = errors.Join(err, c())
		}
	}()
	if anew == nil {
		old, err := p.image(ctx, arg)
		if err != nil {
			return err
		}
		job.close = append(job.close, old.Close)
		if job.list, err = edit.ReadList(ctx, old.Reader, old.desc); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	if err := change(job); err != nil {
		return err
	}
	return job.write(ctx)
}

// add adds the images of a place to the list; what they replace is told.
func (j *listJob) add(ctx context.Context, arg string, change edit.Change, artifacts bool) error {
	img, err := j.image(ctx, arg)
	if err != nil {
		return err
	}
	j.close = append(j.close, img.Close)
	entries, err := edit.Entries(ctx, img.Reader, img.desc)
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	for _, entry := range entries {
		if entry, err = change.Apply(entry); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		if entry.Platform == nil && !artifacts {
			return fmt.Errorf("%s: %s says no platform: name one with --os and --arch, or add it with --artifact", arg, entry.Digest)
		}
		replaced, err := j.list.Add(entry)
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		for _, old := range replaced {
			j.e.print("%s: %s replaces %s\n", platforms.FormatAll(*old.Platform), entry.Digest, old.Digest)
		}
		j.parts = append(j.parts, edit.Part{Reader: img.Reader, Desc: entry})
	}
	return nil
}

// write brings what is new to the list's place, and the list.
func (j *listJob) write(ctx context.Context) (err error) {
	target, err := j.Target(ctx, j.arg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if target.Writer == nil {
		return fmt.Errorf("%s is written as a whole and cannot be changed", j.arg)
	}
	var desc ocispecs.Descriptor
	err = j.flags.show(j.e, "writing "+j.arg, func(view *transferView) error {
		desc, err = j.list.Write(ctx, target.Writer, j.parts, []string{target.Ref}, transfer.Options{Progress: view.note})
		return err
	})
	if err != nil {
		return err
	}
	return j.flags.report(j.e, target.At(desc.Digest), desc, j.list)
}

// listReport is what the commands print as JSON.
type listReport struct {
	Name      string                `json:"name"`
	Digest    digest.Digest         `json:"digest"`
	MediaType string                `json:"mediaType"`
	Size      int64                 `json:"size"`
	Manifests []ocispecs.Descriptor `json:"manifests"`
}

func (f *listFlags) report(e *env, name string, desc ocispecs.Descriptor, l *edit.List) error {
	r := listReport{Name: name, Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Manifests: l.Manifests()}
	return printAs(e.stdout, f.format, r, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, name)
		return err
	})
}

// listTarget checks the place of a list before anything else is done.
func listTarget(cmd *cobra.Command, arg string) error {
	p, err := place.Parse(arg)
	if err != nil {
		return usage(cmd, err)
	}
	switch p.Kind {
	case place.Bare, place.Registry, place.Layout, place.Store:
		return nil
	}
	return usagef(cmd, "list %q: want docker://REF, oci:DIR:REF or store:REF", arg)
}
