// Package edit makes new images of old ones without building them: fewer layers
// ([Flatten]), another base ([Rebase]), other media types or another compression
// ([Convert]); and it edits manifest lists ([List]).
//
// An image is read from any [transfer.Reader]. Blobs and documents that are new
// are written to an OCI layout; what stays is not read, but stays where it is
// until somebody copies it:
//
//	Flatten, Rebase, Convert   image -> Result: its descriptor, what to say, and
//	                           a Reader of all that it consists of
//	transfer.Copy              Result -> any Writer
//
// All of them take an index as well and edit each of its images, side by side.
// The results depend on what goes in alone: neither the clock, nor the machine,
// nor the number of workers enter.
package edit
