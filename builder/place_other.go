//go:build !linux

package builder

import "errors"

// places are what is put into a workTree for the time of a step.
type places struct{ w *workTree }

var errPlaces = errors.New("steps are run on Linux only")

func newPlaces(*workTree) (*places, error)        { return nil, errPlaces }
func (*places) point(string, bool) error          { return errPlaces }
func (*places) put(string, string, bool) error    { return errPlaces }
func (*places) settle() error                     { return errPlaces }
func (*places) restore() error                    { return errPlaces }
func makeDevices(string) (complete bool, _ error) { return false, errPlaces }
