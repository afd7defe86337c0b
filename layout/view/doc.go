// Package view looks into images: what their layers hold, how two differ, one
// file, all files. It reads from any [transfer.Reader] and never unpacks.
//
// An image is opened for one platform ([Open]). Each of its layers is then
// streamed once: decompressed, parsed by [layer.Read], and compared with its
// digest, its size and the diffID of the configuration. What remains in memory
// is a list of headers; the lists are merged from the bottom up:
//
//	Open     reference -> manifest and configuration
//	scan     layer     -> list of headers (side by side, a few at once)
//	merge    lists     -> tree: what a container would see, and who wrote it
//
// [Image.Layers], [Compare] and [Image.Entries] work on the tree; the last reads
// the layers a second time for the bytes of the files that are left. [Image.Cat]
// needs no tree: it reads from the top layer down until it knows.
//
// # What a layer does to those below
//
// Whiteouts and opaque marks are about the layers below, wherever in the tar
// they come. A path that comes twice counts as the last says, except that a
// directory stays one. A parent that the layer does not name is a directory, and
// replaces what is no directory below; one that is a symbolic link of the same
// layer is followed within the root. A hard link's target is looked for in the
// layer, then below; both names share the file until a layer replaces one.
// So does overlayfs when each layer is a directory of its own.
//
// # Memory
//
// Each entry of a layer takes about 120 bytes and its path: 48 for its header,
// some 60 in the tree; while slices grow, up to half as much again. 10 million entries, or 1 GiB of paths, link targets and
// extended attributes, are the most that is read of one image. The content of
// files is never held, except by Cat one file of at most 8 MiB.
package view
