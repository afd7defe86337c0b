package runner

import (
	"maps"
	"slices"
)

// MountOptions lists the options of mounts that are not parameters of a file
// system, sorted.
func MountOptions() []string {
	list := []string{"bind", "defaults", "rbind"}
	for o := range attrOptions() {
		list = append(list, o, "r"+o)
	}
	list = slices.AppendSeq(list, maps.Keys(propagationOptions()))
	slices.Sort(list)
	return slices.Compact(list)
}
