//go:build !unix

package layout

// openFlags: this system has none; openRegular looks before it opens.
const openFlags = 0
