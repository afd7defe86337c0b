// Package artifact keeps things that are not images in places that hold images:
// files and directories, Helm charts, Flux sources, WebAssembly modules, and what
// refers to an image (image-spec, manifest.md, "Guidelines for Artifact Usage";
// conventions of oras, of Helm, of Flux and of the CNCF's wasm layout).
//
// Data goes in by
//
//	Spec            what the artifact is: files, type, config, annotations, subject
//	Pack            hashes the files; a directory becomes a tar in a temporary file
//	transfer.Copy   from the Packed, which is a Reader, to any Writer
//
// and out by [Pull], which writes files by their titles, below one directory and
// nowhere else. [Discover] says what refers to a manifest. [Helm], [Flux] and
// [Wasm] make the Spec of these kinds.
//
// A file is read twice, first for its digest, without which nothing can be
// written to a registry, then for its content. None is held in memory.
//
// Equal input gives equal digests: neither the clock, nor times and owners of
// files, nor the order of a directory enter an artifact. A time of creation
// (org.opencontainers.image.created) is there when the caller gives one.
package artifact
