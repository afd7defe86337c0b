package dockerfile

import (
	"fmt"
	"io"

	"github.com/moby/buildkit/solver/errdefs"
)

// Describe writes err for a person: for each place in a Dockerfile that it
// names, the lines around it with ">>>" before those that are at fault, then
// "ERROR: " and the message.
func Describe(w io.Writer, err error) error {
	seen := map[string]bool{}
	for _, source := range errdefs.Sources(err) {
		key := fmt.Sprint(source.Info.GetFilename(), source.Ranges)
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := source.Print(w); err != nil {
			return err
		}
	}
	_, werr := fmt.Fprintf(w, "ERROR: %s\n", err)
	return werr
}
