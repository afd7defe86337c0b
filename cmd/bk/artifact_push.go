package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"bk.build/bk/layout"
	"bk.build/bk/layout/artifact"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// artifactFlags are those of the commands that make an artifact.
type artifactFlags struct {
	reach
	display
	artifactType   string
	annotations    []string
	annotationFile string
	config         string
	format         string
}

func (f *artifactFlags) register(set *pflag.FlagSet, e *env) {
	set.SortFlags = false
	set.StringVar(&f.artifactType, "artifact-type", "", "`TYPE` of the artifact (default: what the config says, or "+artifact.DefaultType+")")
	set.StringArrayVar(&f.annotations, "annotation", nil, "annotate the manifest with `KEY=VALUE`")
	set.StringVar(&f.annotationFile, "annotation-file", "", "JSON `FILE` of annotations for \"$manifest\", \"$config\" and files by name, as oras has it")
	set.StringVar(&f.config, "config", "", "configuration: `FILE[:MEDIATYPE]`")
	set.StringVar(&f.format, "format", "", formatHelp)
	f.display.register(set, e)
	f.reach.register(set)
}

// complete adds to an artifact what the flags say.
func (f *artifactFlags) complete(e *env, spec *artifact.Spec) error {
	if f.artifactType != "" {
		spec.ArtifactType = f.artifactType
	}
	if f.config != "" {
		if spec.ConfigType != "" {
			return errors.New("an artifact of this type has a config of its own")
		}
		if err := readConfig(f.config, spec); err != nil {
			return err
		}
	}
	if f.annotationFile != "" {
		b, err := readSmall(f.annotationFile, layout.MaxManifest)
		if err != nil {
			return err
		}
		if err := spec.Annotate(b); err != nil {
			return fmt.Errorf("%s: %w", f.annotationFile, err)
		}
	}
	more, err := annotationPairs("annotation", f.annotations)
	if err != nil {
		return err
	}
	for k, v := range more {
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		spec.Annotations[k] = v
	}
	if spec.Epoch == nil {
		spec.Epoch, err = e.epoch()
	}
	return err
}

// readConfig reads the configuration FILE[:MEDIATYPE].
func readConfig(arg string, spec *artifact.Spec) error {
	name, mediaType := artifact.CutMediaType(arg)
	b, err := readSmall(name, layout.MaxConfig)
	if err != nil {
		return err
	}
	spec.Config, spec.ConfigType = b, orDefault(mediaType, "application/vnd.unknown.config.v1+json")
	return nil
}

// readSmall reads a file of at most max bytes.
func readSmall(name string, max int64) ([]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: it has more than %d bytes", name, max)
	}
	return b, err
}

// parseFiles parses arguments FILE[:MEDIATYPE].
func parseFiles(args []string) ([]artifact.File, error) {
	var files []artifact.File
	for _, arg := range args {
		f, err := artifact.ParseFile(arg)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// pushFlags are those of "bk artifact push".
type pushFlags struct {
	artifactFlags
	kind             string
	source, revision string
}

func newArtifactPush(e *env) *cobra.Command {
	var f pushFlags
	cmd := &cobra.Command{
		Use:   "push REF FILE[:MEDIATYPE]...",
		Short: "Push files and directories as an artifact",
		Long: `Push files and directories as an artifact. A directory becomes a packed layer, and
a directory again when it is pulled, by bk or by oras. Names must be relative and
are what files are pulled as. Equal files give equal digests: no time enters the
artifact but SOURCE_DATE_EPOCH.

--type helm takes a chart that "helm package" made, with its .prov file; REF gets
the chart's version as tag if it has none, and as oci://HOST/PREFIX, as for "helm
push", the chart's name too. --type flux takes a directory for an OCIRepository.
--type wasm takes a WebAssembly module or component.

` + artifactPlacesHelp,
		Example: `  bk artifact push registry.example/team/conf:v1 app.json:application/json certs/
  bk artifact push --artifact-type application/vnd.example.model oci:out:v1 model.bin
  bk artifact push --type helm oci://registry.example/charts web-1.2.3.tgz
  bk artifact push --type flux --source "$URL" --revision "main@sha1:$SHA" registry.example/deploy:v1 ./deploy
  bk artifact push --type wasm registry.example/filter:v1 filter.wasm`,
		Args: cobra.MinimumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "type", "", "`KIND` of the artifact: helm, flux or wasm (default: files)")
	flags.StringVar(&f.source, "source", "", "with --type flux: `URL` of the repository that the files are from")
	flags.StringVar(&f.revision, "revision", "", "with --type flux: `REVISION` there, such as main@sha1:HEX")
	f.artifactFlags.register(flags, e)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (f.source != "" || f.revision != "") && f.kind != "flux" {
			return usagef(cmd, "--source and --revision go with --type flux")
		}
		to, err := place.Parse(args[0])
		if err != nil {
			return usage(cmd, err)
		}
		if f.kind != "" && len(args) != 2 {
			return usagef(cmd, "--type %s takes one file or directory", f.kind)
		}
		spec, to, err := f.spec(cmd, e, args[0], to, args[1:])
		if err != nil {
			return err
		}
		if err := f.complete(e, &spec); err != nil {
			return err
		}
		return f.push(cmd.Context(), e, spec, to)
	}
	return cmd
}

// spec makes the artifact of a kind, and says where it goes.
func (f *pushFlags) spec(cmd *cobra.Command, e *env, ref string, to place.Place, args []string) (spec artifact.Spec, _ place.Place, err error) {
	epoch, err := e.epoch()
	if err != nil {
		return spec, to, err
	}
	switch f.kind {
	case "":
		files, err := parseFiles(args)
		return artifact.Spec{Files: files}, to, usage(cmd, err)
	case "helm":
		spec, chart, err := artifact.Helm(cmd.Context(), args[0], epoch)
		return spec, chartPlace(ref, to, chart), err
	case "flux":
		if fi, err := os.Stat(args[0]); err != nil {
			return spec, to, err
		} else if !fi.IsDir() {
			return spec, to, usagef(cmd, "%s: --type flux takes a directory", args[0])
		}
		return artifact.Flux(args[0], f.source, f.revision, epoch), to, nil
	case "wasm":
		spec, err = artifact.Wasm(args[0], epoch)
		return spec, to, err
	}
	return spec, to, usagef(cmd, "type %q: want helm, flux or wasm", f.kind)
}

// chartPlace completes the place of a chart as Helm does.
func chartPlace(ref string, to place.Place, chart artifact.Chart) place.Place {
	if strings.HasPrefix(ref, "oci://") {
		to.Rest = strings.TrimSuffix(to.Rest, "/") + "/" + chart.Name + ":" + chart.Tag()
		return to
	}
	base := to.Rest[strings.LastIndexByte(to.Rest, '/')+1:]
	if to.Kind == place.Layout {
		base = filepath.ToSlash(to.Rest)
	}
	if !strings.ContainsAny(base, ":@") {
		to.Rest += ":" + chart.Tag()
	}
	return to
}

// push packs an artifact and brings it to its place.
func (f *artifactFlags) push(ctx context.Context, e *env, spec artifact.Spec, to place.Place) (err error) {
	p := e.places(&f.reach, false)
	defer p.close(&err)
	packed, err := artifact.Pack(ctx, spec, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	target, err := p.Target(ctx, to.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	err = f.show(e, "pushing "+to.String(), func(view *transferView) error {
		return target.Put(ctx, packed, packed.Desc, transfer.Options{Progress: view.note})
	})
	if err != nil {
		return err
	}
	return f.report(e, target.At(packed.Desc.Digest), packed)
}

// report prints what was pushed.
func (f *artifactFlags) report(e *env, name string, packed *artifact.Packed) error {
	r := newArtifactReport(name, packed.Desc, packed.Manifest)
	for _, l := range packed.Manifest.Layers {
		r.Files = append(r.Files, newArtifactFile(l))
	}
	return printAs(e.stdout, f.format, r, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, name)
		return err
	})
}
