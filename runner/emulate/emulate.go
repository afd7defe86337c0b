// Package emulate finds what runs programs of foreign platforms.
package emulate

// Emulator is a user-mode emulator for one architecture.
type Emulator struct {
	// Path is the host's path of a statically linked emulator.
	Path string
	// Registration is the line that makes it known to binfmt_misc, with
	// [Interpreter] for the emulator's path.
	Registration string
}
