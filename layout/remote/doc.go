// Package remote is a client of registries (distribution-spec 1.1), to read and
// to write.
//
// [Client.Repository] turns a reference into a [Repository], which has all of
// the protocol: documents and blobs in both directions, mounts, referrers, tags,
// deletes. [Client.Resolve] goes from a reference to the image for a platform.
// What is read is verified against the digests that led to it, and bounded when
// it goes into memory; what is written is verified by its source as it is read,
// and by the registry.
//
// A request passes these stages, outermost first:
//
//	Repository   the places where the repository is to be had, one after the other
//	blobReader   resumes a broken download where it stopped, and hashes
//	upload       asks what has arrived after a failure, and goes on there
//	http.Client  follows redirects, of what is read only
//	bouncer      shows credentials, to the registry's own host only
//	retrier      sends again after resets, stalls, 429 and 5xx, as late as
//	             Retry-After says
//	patience     ends what is silent for too long, in either direction
//	guard        refuses plain HTTP and addresses that no registry has
//
// Credentials come from the client's keychain; they are bought for tokens at
// the server that the registry names, which may be on this machine only if the
// registry is, and gets a password only encrypted or where the registry itself
// speaks plain HTTP. Plain HTTP is used for a registry on this machine's
// loopback and for those listed as insecure.
package remote
