package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
)

// Call is a question about a Dockerfile, asked instead of building it. The
// zero value asks nothing.
type Call struct {
	// Name is "lint", "outline", "targets" or "subrequests.describe".
	Name string
	// JSON asks for the answer as JSON.
	JSON bool
	// IgnoreStatus makes a check with warnings succeed.
	IgnoreStatus bool
}

// ErrCheck reports that a check found warnings; they are printed already.
var ErrCheck = errors.New("the check has found warnings")

// ParseCall parses the value of --call: NAME[,format=json][,ignorestatus].
// "build" asks nothing.
func ParseCall(s string) (Call, error) {
	name, rest, _ := strings.Cut(s, ",")
	var call Call
	switch name {
	case "", "build":
	case "check", "lint":
		call.Name = lint.RequestLint
	case "outline", "targets":
		call.Name = "frontend." + name
	case "subrequests.describe":
		call.Name = "frontend." + name
	default:
		return Call{}, fmt.Errorf("call %q: must be build, check, outline or targets", name)
	}
	call.Name = strings.TrimPrefix(call.Name, "frontend.")
	for rest != "" {
		var field string
		field, rest, _ = strings.Cut(rest, ",")
		if err := call.setField(field); err != nil {
			return Call{}, fmt.Errorf("call %q: %w", s, err)
		}
	}
	return call, nil
}

func (c *Call) setField(field string) error {
	key, value, has := strings.Cut(field, "=")
	switch key {
	case "format":
		if value != "json" && value != "text" {
			return fmt.Errorf("format %q: must be json or text", value)
		}
		c.JSON = value == "json"
	case "ignorestatus":
		if !has {
			value = "true"
		}
		v, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("ignorestatus %q: must be true or false", value)
		}
		c.IgnoreStatus = v
	default:
		return fmt.Errorf("unknown field %q", key)
	}
	return nil
}

// requestID returns the subrequest's name in the gateway protocol.
func (c Call) requestID() string {
	if c.Name == "" {
		return ""
	}
	return "frontend." + c.Name
}

// Print writes the frontend's answer. metadata returns a value of the result's
// metadata by its key. The error is [ErrCheck] when a check found warnings.
func (c Call) Print(w io.Writer, metadata func(key string) []byte) error {
	answer := metadata("result.json")
	if len(answer) == 0 {
		return fmt.Errorf("call %s: the frontend gave no answer", c.Name)
	}
	if c.Name == "lint" {
		return c.printLint(w, answer)
	}
	if c.JSON {
		return printJSON(w, answer)
	}
	switch c.Name {
	case "outline":
		return outline.PrintOutline(answer, w)
	case "targets":
		return targets.PrintTargets(answer, w)
	default:
		return subrequests.PrintDescribe(answer, w)
	}
}

// printLint writes a check's summary, its warnings, and the error that ended
// it if there is one.
func (c Call) printLint(w io.Writer, answer []byte) error {
	var results lint.LintResults
	if err := json.Unmarshal(answer, &results); err != nil {
		return fmt.Errorf("call check: %w", err)
	}
	if err := c.printWarnings(w, answer, &results); err != nil {
		return err
	}
	switch {
	case results.Error != nil:
		return checkError(&results)
	case len(results.Warnings) > 0 && !c.IgnoreStatus:
		return ErrCheck
	}
	return nil
}

func (c Call) printWarnings(w io.Writer, answer []byte, results *lint.LintResults) error {
	if c.JSON {
		return printJSON(w, answer)
	}
	switch n := len(results.Warnings); {
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	case results.Error == nil:
		fmt.Fprintln(w, "Check complete, no warnings found.")
	}
	return results.PrintTo(w, nil)
}

// checkError is the error that ended a check, with its place in the file.
func checkError(results *lint.LintResults) error {
	if i := results.Error.Location.SourceIndex; i < 0 || int(i) >= len(results.Sources) {
		return errors.New(results.Error.Message)
	}
	var text bytes.Buffer
	results.PrintErrorTo(&text, nil)
	return errors.New(strings.TrimSpace(text.String()))
}

func printJSON(w io.Writer, answer []byte) error {
	_, err := fmt.Fprintf(w, "%s\n", bytes.TrimSpace(answer))
	return err
}
