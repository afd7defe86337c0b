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

// ownXattrs returns the attributes that a layer may hold: not overlayfs's,
// which would change what the layer means, and not the machine's. The map is
// shared unless it has some of these.
func ownXattrs(xattrs map[string]string) map[string]string {
	foreign := false
	for key := range xattrs {
		foreign = foreign || isForeign(key)
	}
	if !foreign {
		return xattrs
	}
	own := map[string]string{}
	for key, value := range xattrs {
		if !isForeign(key) {
			own[key] = value
		}
	}
	return own
}

func isForeign(key string) bool {
	_, note := overlayNote(key)
	return note || ofMachine(key)
}

// ofMachine reports whether an attribute is about the machine that the file is
// on: security labels and signatures, which no other machine has.
func ofMachine(key string) bool {
	return key == "security.selinux" || key == "security.evm" || strings.HasPrefix(key, "security.SMACK64")
}

// canonicalXattr returns a file capability (capabilities(7)) that is the
// initial user namespace's own in the shorter form without a root user id, as
// it is written outside of user namespaces.
func canonicalXattr(key, value string) string {
	const size2, size3 = 20, 24
	if key == "security.capability" && len(value) == size3 && value[3] == 3 && value[size2:] == "\x00\x00\x00\x00" {
		return value[:3] + "\x02" + value[4:size2]
	}
	return value
}
