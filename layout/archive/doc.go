// Package archive exports images from a layout.
//
// What is exported is the closure of one descriptor: layers, configs,
// manifests and indexes. It becomes
//
//	[ExportDir]    an OCI layout directory, whose blobs share their bytes with
//	               the store's where the file system can do that
//	[WriteOCI]     a tar of an OCI layout ("oci-archive")
//	[WriteDocker]  a tar that docker load and podman load read
//	               ("docker-archive"): an OCI layout and manifest.json
//
// Archives are streamed: nothing but documents is held in memory. They are
// deterministic: entries are sorted by name, times are zero, owners are root.
// [File] gives a writer's output a file's name only when all of it was written.
package archive
