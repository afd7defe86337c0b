package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build; else the module's version is used.
var version = ""

// versionInfo is what "bk version --format json" prints.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  bk version --format json",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&format, "format", "text", `"text" or "json"`)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		info := readVersion()
		switch format {
		case "json":
			return json.NewEncoder(e.stdout).Encode(info)
		case "text":
			_, err := fmt.Fprintln(e.stdout, info)
			return err
		}
		return usagef(cmd, "format %q: must be text or json", format)
	}
	return cmd
}

// readVersion asks the binary itself.
func readVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok && v.Version == "" {
		v.Version = info.Main.Version
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	if ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

// String is the version on one line.
func (v versionInfo) String() string {
	s := "bk " + v.Version
	if v.Commit != "" {
		s += " (" + v.Commit[:min(12, len(v.Commit))]
		if v.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return s + " " + v.Go + " " + v.Platform
}
