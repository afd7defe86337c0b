// Package layout reads and writes OCI image layouts: the store, which is a
// layout at the root of bk's data directory, the layouts that a build reads
// (oci-layout:// contexts) and those that it exports.
//
// A layout is a directory (image-spec, image-layout.md):
//
//	oci-layout           {"imageLayoutVersion":"1.0.0"}
//	index.json           names -> descriptors
//	blobs/ALG/HEX        content, named by its digest
//	tmp/                 blobs that are being written, renamed into blobs/
//
// Data goes in through [Dir.NewBlob], which hashes while it writes, and out
// through [Dir.OpenBlob], whose reader fails at the end of the stream when the
// bytes are not those that the descriptor promised. So a blob is never trusted
// because of its name: one that a crash has torn, or that somebody has edited,
// is a [CorruptError], which satisfies errors.Is(err, fs.ErrNotExist), and in a
// layout that this program owns (see [Create]) it is also moved out of the way,
// so that it is made again.
//
// Any number of processes may write to a layout. Blobs are immutable and are
// renamed into place; index.json is replaced under a file lock. Blobs are not
// synced to disk, because a torn one is noticed; index.json is.
//
// Above the blobs are the documents: [ParseManifest] and [ParseIndex] accept
// only what cannot be read in two ways (CVE-2021-41190), [Dir.Platform] selects
// an image of an index, [Dir.WriteImage] and [Dir.WriteIndex] assemble a
// build's result, [Dir.Closure] lists what an image consists of, and
// [Dir.Verify], [Validate] and [Check] check what is there.
package layout
