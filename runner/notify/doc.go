// Package notify answers system calls of a step in its place, by the kernel's
// seccomp user notification.
//
// A step in a user namespace that holds one id can change neither its own ids nor
// those of files. With [Options] it runs as if it could: files have the owners
// that package ids remembers, and processes have virtual credentials. A system
// call goes through the package like this:
//
//	step                    kernel                  Supervisor
//	----                    ------                  ----------
//	chown("f", 33, 33) -->  Filter: notify     -->  read "f" in the step's memory
//	                                                resolve it in the step's root
//	                                                chown(0, 0), as the kernel would
//	                                                change more: copy-up, times, set-id bits
//	                                                remember 33:33 on the file
//	  0                <--                     <--  answer 0
//
// What a supervisor reads from a step's memory may change a moment later, and is
// read once. Paths are resolved by a thread whose root directory is the step's, so
// that no path leads out, whatever the step does meanwhile. Files are opened with
// O_PATH, which neither waits for a FIFO's other end nor has an effect on devices.
//
// # Credentials
//
// The credentials of a process are known by a number that the kernel itself hands
// on when a process forks or executes another program: the soft limit of
// RLIMIT_RTTIME, which has no effect on processes that can't have a real-time
// priority. No limit, as everywhere, is root. They are a process's, not a
// thread's, as the C libraries make it.
//
// # What is not exact
//
// Credentials bind nothing: the kernel goes on seeing the one user that there is,
// who owns all files and has all of the namespace's rights over them. A program that
// expects to be refused, as it would be with another user's permissions, is not.
// /proc, the peer credentials of sockets and auxiliary vectors show user 0. Only
// programs of the machine's own architecture and of its 32-bit predecessor are
// served, and stat(2) of the latter shows user 0.
package notify
