//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"bk.build/bk/layout/view"
	"bk.build/bk/runner/oci"
)

func newRuntimeSpec(e *env) *cobra.Command {
	var l look
	var bundle string
	var rootless bool
	cmd := &cobra.Command{
		Use:   "spec [IMAGE]",
		Short: "Write a bundle's config.json, or unpack an image to a bundle",
		Long: `Write a config.json that runs a shell. With an image, its files go to the bundle's
directory rootfs, and config.json runs what the image says.

` + placesHelp + lookHelp,
		Example: "  bk runtime spec --bundle DIR\n  bk runtime spec --bundle web docker.io/library/nginx\n  bk runtime spec --rootless oci:out:v1",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "`directory` of the bundle; made when it's missing")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "for a user who is not root")
	l.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		config := filepath.Join(bundle, "config.json")
		if _, err := os.Lstat(config); err == nil {
			return fmt.Errorf("%s is there already: remove it first", config)
		}
		s := oci.Template()
		write := func() error {
			if rootless {
				oci.Rootless(s)
			}
			return writeConfig(config, s)
		}
		if len(args) == 0 {
			if err := os.MkdirAll(bundle, 0o755); err != nil {
				return err
			}
			return write()
		}
		return l.with(cmd.Context(), e, args[0], func(v *view.Image, _ string) error {
			rootfs := filepath.Join(bundle, "rootfs")
			if err := os.MkdirAll(bundle, 0o755); err != nil {
				return err
			}
			if err := os.Mkdir(rootfs, 0o755); err != nil {
				return err
			}
			if err := e.unpack(cmd.Context(), v, rootfs); err != nil {
				return err
			}
			if err := imageProcess(s, v, rootfs); err != nil {
				return err
			}
			return write()
		})
	}
	return cmd
}

func writeConfig(name string, s *specs.Spec) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// imageProcess turns an image's configuration into a runtime's, as the image
// specification's conversion.md says.
func imageProcess(s *specs.Spec, v *view.Image, rootfs string) error {
	c := v.Config.Config
	s.Process.Args = append(append([]string{}, c.Entrypoint...), c.Cmd...)
	if len(s.Process.Args) == 0 {
		return errors.New("the image has neither an entry point nor a command")
	}
	if len(c.Env) > 0 {
		s.Process.Env = c.Env
	}
	if c.WorkingDir != "" {
		s.Process.Cwd = filepath.Join("/", c.WorkingDir)
	}
	user, err := imageUser(rootfs, c.User)
	if err != nil {
		return err
	}
	s.Process.User = specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups}
	s.Process.Terminal, s.Root.Readonly = false, false
	s.Annotations = imageAnnotations(v)
	return nil
}

// imageAnnotations are those that conversion.md wants from the configuration,
// with the image's labels, which win.
func imageAnnotations(v *view.Image) map[string]string {
	a := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			a["org.opencontainers.image."+key] = value
		}
	}
	set("os", v.Config.OS)
	set("architecture", v.Config.Architecture)
	set("variant", v.Config.Variant)
	set("author", v.Config.Author)
	set("stopSignal", v.Config.Config.StopSignal)
	if v.Config.Created != nil {
		set("created", v.Config.Created.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"))
	}
	for k, value := range v.Config.Config.Labels {
		a[k] = value
	}
	return a
}
