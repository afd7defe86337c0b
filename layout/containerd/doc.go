// Package containerd is containerd's content and image store as a place that
// images are read from and written to, by the gRPC services on its socket:
//
//	images   names -> descriptors, of one namespace
//	content  blobs by digest; labels on a document keep alive what it names
//	leases   what keeps content alive until a name leads to it
//
// containerd's collector deletes what neither an image, nor a label of content
// that is kept, nor a lease refers to. So everything is written under a lease
// that ends with [Store.Close], and documents get the labels that containerd's
// own importer gives them.
package containerd
