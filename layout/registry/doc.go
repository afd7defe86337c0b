// Package registry serves an OCI layout as a registry: the whole of the OCI
// distribution specification, version 1.1, over one directory that other
// programs may read and write at the same time.
//
// A request goes
//
//	parseRoute        path -> what is asked for; names, tags and digests are parsed
//	                  by the specification's grammar before anything else sees them
//	Registry          method, users (htpasswd), read-only
//	manifests, blobs, uploads, lists
//
// and a failure comes back as the specification's JSON with one of its codes.
//
// # How a layout is a registry
//
// Blobs and manifests are one pool for all repositories: what is there can be
// had by its digest from each of them, and a mount always succeeds. Repositories
// and tags are what the entries of index.json say, in this order:
//
//   - the annotation io.containerd.image.name, "docker.io/library/app:latest", is
//     the tag latest of the repository "app", which is also "library/app";
//     "localhost:5000/team/app:v1" is the tag v1 of "team/app": the registry's
//     host goes away, and so does its default in Docker's names;
//   - the annotation org.opencontainers.image.ref.name, when it is a full name;
//   - else, as a tag, in the repository that is called as the directory is.
//
// An entry without a name is not a tag: it is there by its digest.
//
// A pushed tag takes over the entries that were served as this tag and keeps
// their names, so that there is never more than one answer; a new one is entered
// as REPOSITORY:TAG. A manifest that is pushed by its digest alone becomes an
// entry without a name, until an index that contains it is pushed; one with a
// subject keeps an entry for good, because referrers are found by the entries.
//
// Deleting a tag removes its entries. Deleting a manifest removes its entries in
// the repository and those without a name, and the document, unless another
// repository's entry leads to it. Deleting a blob removes it.
//
// # Uploads
//
// An upload is a file in the layout's tmp/, named by the random id of the
// session and nothing else: it survives a restart of the server and may go on in
// another process. It becomes a blob by a rename after its digest was found
// right. Unfinished uploads are bounded in number and are swept by age.
package registry
