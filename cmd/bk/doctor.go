package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"bk.build/bk/runner/host"
)

func newDoctor(e *env) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine allows to builds, and how to allow more",
		Long: `Try what builds need of this machine, and say which isolation RUN steps get:
root, rootless, single-id or chroot; what stands in the way of a better one; and
the command, or the field of a pod, that would allow it.

Exit codes: 0 steps can run, 1 they cannot.`,
		Example: "  bk doctor\n  bk doctor --format json\n  bk --root /mnt/store doctor --format '{{.Isolation}}'",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	cmd.RunE = func(*cobra.Command, []string) error {
		store, err := e.store()
		if err != nil {
			return err
		}
		report := host.Probe(host.Options{Store: store})
		if err := printAs(e.stdout, format, report, func(w io.Writer) error { return doctorTable(w, report) }); err != nil {
			return err
		}
		if report.Isolation == "" {
			return errFound
		}
		return nil
	}
	return cmd
}

func doctorTable(w io.Writer, r *host.Report) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "CHECK\tALLOWED\tDETAIL")
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Title, yesNo(c.OK), c.Detail)
	}
	fmt.Fprintln(t, "\t\t\nISOLATION\tALLOWED\tDETAIL")
	for _, m := range r.Modes {
		fmt.Fprintf(t, "%s\t%s\t%s\n", m.Isolation, yesNo(m.OK), modeDetail(m, r.Isolation))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return doctorAdvice(w, r)
}

// modeDetail says what an isolation lacks, or that it is the one.
func modeDetail(m host.Mode, used host.Isolation) string {
	switch {
	case !m.OK:
		return "needs " + strings.Join(m.Missing, ", ")
	case m.Isolation == used:
		return "used"
	}
	return ""
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// doctorAdvice prints what would allow what is not allowed.
func doctorAdvice(w io.Writer, r *host.Report) error {
	var b strings.Builder
	if r.Isolation == "" {
		b.WriteString("\nRUN steps cannot run here.\n")
	} else {
		fmt.Fprintf(&b, "\nRUN steps run with isolation %s.\n", r.Isolation)
	}
	for _, c := range r.Advice() {
		fmt.Fprintf(&b, "\nFor %s, one of:\n", c.Title)
		for _, fix := range c.Fix {
			fmt.Fprintf(&b, "  %s\n", fix)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
