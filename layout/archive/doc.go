// Package archive reads and writes images in other forms than a registry or a
// store: files that people carry around, and what other tools keep.
//
// Written is the closure of one descriptor: layers, configs, manifests and
// indexes. It comes from any transfer.Reader and becomes
//
//	[ExportDir]    an OCI layout directory, whose blobs share their bytes with
//	               a store's where the file system can do that
//	[WriteOCI]     a tar of an OCI layout ("oci-archive")
//	[WriteDocker]  a tar that docker load and podman load read
//	               ("docker-archive"): an OCI layout and manifest.json
//
// Archives are streamed: nothing but documents is held in memory. They are
// deterministic: entries are sorted by name, times are zero, owners are root.
// [File] gives a writer's output a file's name only when all of it was written.
//
// [Open] reads both kinds of archive. One pass over the headers lists where the
// files are; blobs are then read from there, verified, in any order. Nothing is
// unpacked. An archive is hostile until proven otherwise: names that lead
// elsewhere, entries that are there twice, sizes that lie and bombs are refused,
// and what is held in memory is bounded whatever the archive says.
package archive
