// Package remote reads images from registries (distribution-spec).
//
// [Client.Resolve] turns a reference into descriptors and documents,
// [Client.Blob] streams content. Both verify what they deliver against the
// digests that led to it, both bound what they hold in memory.
//
// A request passes these stages, outermost first:
//
//	blobReader   resumes a broken body where it stopped, hashes, gives up on a stall
//	http.Client  follows redirects
//	transport    go-containerregistry's: credentials, for the registry's own host only
//	retrier      sends again after resets, 429 and 5xx, as late as Retry-After says
//	guard        refuses plain HTTP and addresses that no registry has
//
// Credentials come from Docker's or Podman's configuration. Plain HTTP is used
// for a registry on this machine's loopback and for those listed as insecure.
package remote
