//go:build !linux

package ids

// Links is empty: only Linux has what fills it.
type Links struct{}

// Load does nothing.
func (*Links) Load(string, Record) {}

// Record returns nothing.
func (*Links) Record(string) (Record, error) { return nil, nil }
