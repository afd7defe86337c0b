package layout

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// completeHistory makes the history account for every layer exactly once and
// gives each entry a time, by BuildKit's rules:
//
//   - entries beyond the number of layers become empty ones, from the first
//     that has no layer left;
//   - layers beyond the number of entries get entries of their own;
//   - an entry without a time has its layer's; an empty entry the time of the
//     layer before it, or, before the first such, of the first new layer.
func completeHistory(history []ocispec.History, layers []LayerBlob) []ocispec.History {
	out := make([]ocispec.History, 0, len(history)+len(layers))
	n := 0 // layers accounted for
	for _, h := range history {
		if !h.EmptyLayer && n == len(layers) {
			h.EmptyLayer = true
		}
		if !h.EmptyLayer {
			if h.Created == nil {
				h.Created = layers[n].Created
			}
			n++
		}
		out = append(out, h)
	}
	for _, l := range layers[n:] {
		out = append(out, ocispec.History{Created: l.Created, CreatedBy: createdBy(l), Comment: "buildkit.exporter.image.v0"})
	}
	fillTimes(out)
	return out
}

// createdBy is the description of a layer that no entry describes.
func createdBy(l LayerBlob) string {
	if l.CreatedBy != "" {
		return l.CreatedBy
	}
	return "created by bk"
}

// fillTimes gives entries without a time that of the layer before them; those
// before the first new layer get the new layer's, so that an instruction on
// top of a base image does not look as old as the base.
func fillTimes(history []ocispec.History) {
	created := firstNewTime(history)
	gap := false
	for i, h := range history {
		if h.Created == nil {
			gap = true
			history[i].Created = created
		} else if gap {
			created = h.Created
		}
	}
}

// firstNewTime is the first time after an entry without one; if there is none
// such, the last time.
func firstNewTime(history []ocispec.History) *time.Time {
	var created *time.Time
	gap := false
	for _, h := range history {
		if h.Created == nil {
			gap = true
			continue
		}
		created = h.Created
		if gap {
			break
		}
	}
	return created
}

// clampHistory bounds times by the epoch. The entries that the image shares
// with its base, counted from the first, keep theirs.
func clampHistory(history, base []ocispec.History, epoch *time.Time) []ocispec.History {
	if epoch == nil {
		return history
	}
	limit := epoch.UTC()
	shared := true
	for i := range history {
		h := &history[i]
		if shared = shared && i < len(base) && sameEntry(*h, base[i]); shared {
			continue
		}
		if h.Created == nil || h.Created.After(limit) {
			h.Created = &limit
		}
	}
	return history
}

func sameEntry(a, b ocispec.History) bool {
	sameTime := a.Created == nil && b.Created == nil ||
		a.Created != nil && b.Created != nil && a.Created.Equal(*b.Created)
	a.Created, b.Created = nil, nil
	return sameTime && a == b
}
