package layer

// ApplyOptions configures Apply. The zero value writes an unpacked layer.
type ApplyOptions struct {
	// Merged writes onto a whole file tree instead of making a layer for
	// overlayfs: what the entries remove is removed from dir, which need not be
	// empty.
	Merged bool
	// Export writes onto a user's directory: as Merged, but whiteouts are left
	// out, so that nothing is removed but what a file of another type replaces.
	Export bool
	// NoOwner leaves all files to the calling user. It is implied when that
	// isn't root.
	NoOwner bool
	// Remember keeps what this process's user namespace has no ids for; nil:
	// files get their owners, and devices are made. It is called for every file
	// that is made, with the path that it has in dir, and keeps e's owner and, for
	// a device, of which an empty regular file was made, its type and number. fd
	// is the file, open, or -1 for a symbolic link or a FIFO. The extended
	// attribute in which it keeps them, RememberAttr, is not taken from entries.
	Remember     func(fd int, path string, e *Entry) error
	RememberAttr string
}

// Applied says what Apply did.
type Applied struct {
	// Implied are the directories that the stream needs but doesn't name, in
	// bytewise order; the root (".") is one unless it is named or opts.Merged. They were made with mode 0755, owner 0:0 and time 0; their
	// real attributes are those of the layer below.
	Implied []string
	// OpaqueRoot says that the root is opaque. overlayfs doesn't see that mark on
	// a layer's own root: the caller must leave out the layers below.
	OpaqueRoot bool
	// Lost says what could not be written with the privileges that the caller
	// has or on this file system, such as "dev/null: device: operation not
	// permitted": devices and extended attributes.
	Lost []string
}
