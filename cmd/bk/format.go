package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/template"
	"time"

	"github.com/docker/go-units"
)

const formatHelp = "print \"json\" or by a Go `TEMPLATE`, such as '{{.Digest}}'"

// printAs writes v as JSON, or by a template; text is the form for people.
func printAs(w io.Writer, format string, v any, text func(io.Writer) error) error {
	switch format {
	case "", "text", "table":
		return text(w)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	return execute(w, t, v)
}

// printEach is printAs for a list: the template applies to each element.
func printEach[T any](w io.Writer, format string, list []T, text func(io.Writer) error) error {
	switch format {
	case "", "text", "table", "json":
		if list == nil {
			list = []T{} // "[]" and not "null"
		}
		return printAs(w, format, list, text)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	for _, v := range list {
		if err := execute(w, t, v); err != nil {
			return err
		}
	}
	return nil
}

func parseTemplate(format string) (*template.Template, error) {
	funcs := template.FuncMap{"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	}}
	t, err := template.New("format").Funcs(funcs).Parse(format)
	if err != nil {
		return nil, fmt.Errorf("format %q: %w", format, err)
	}
	return t, nil
}

func execute(w io.Writer, t *template.Template, v any) error {
	if err := t.Execute(w, v); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// size is 1.5MB: decimal units, as registries count.
func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// ago is "3 hours ago".
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}
