package snapshot

import "strings"

// overlayClasses are the prefixes of the attributes in which overlayfs keeps
// its notes.
var overlayClasses = [...]string{"trusted.overlay.", "user.overlay."}

// overlayNote returns the name of a note of overlayfs.
func overlayNote(key string) (note string, ok bool) {
	for _, class := range overlayClasses {
		if note, ok = strings.CutPrefix(key, class); ok {
			return note, true
		}
	}
	return "", false
}

// ownXattrs returns the attributes that a layer may hold: all but overlayfs's,
// which would change what the layer means. The map is shared unless it has
// some of these.
func ownXattrs(xattrs map[string]string) map[string]string {
	foreign := false
	for key := range xattrs {
		_, note := overlayNote(key)
		foreign = foreign || note
	}
	if !foreign {
		return xattrs
	}
	own := map[string]string{}
	for key, value := range xattrs {
		if _, note := overlayNote(key); !note {
			own[key] = value
		}
	}
	return own
}
