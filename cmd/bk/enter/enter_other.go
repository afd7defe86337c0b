//go:build !linux

package enter

// Isolation returns "": only Linux has user namespaces.
func Isolation() string { return "" }
