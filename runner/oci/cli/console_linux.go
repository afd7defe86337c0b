package cli

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unsafe"
)

// console shows a container's terminal on this process's own.
type console struct{ ours *os.File } // the socket that the master comes by

// newConsole returns a console and the socket that the container gets.
func newConsole() (*console, *os.File, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return &console{os.NewFile(uintptr(pair[0]), "console")}, os.NewFile(uintptr(pair[1]), "console"), nil
}

// start copies between the terminals until the function that it returns is
// called. A nil console does nothing.
func (c *console) start() (stop func()) {
	if c == nil {
		return func() {}
	}
	defer c.ours.Close()
	master, err := receiveFile(c.ours)
	if err != nil {
		return func() {}
	}
	restore := raw(os.Stdin)
	resize := make(chan os.Signal, 1)
	signal.Notify(resize, syscall.SIGWINCH)
	go func() {
		copySize(os.Stdin, master)
		for range resize {
			copySize(os.Stdin, master)
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(os.Stdout, master) // it ends with an error: EIO
	}()
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	return func() {
		<-done
		signal.Stop(resize)
		restore()
		master.Close()
	}
}

// receiveFile takes a descriptor from a socket.
func receiveFile(socket *os.File) (*os.File, error) {
	name, control := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := syscall.Recvmsg(int(socket.Fd()), name, control, syscall.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		if fds, err := syscall.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return os.NewFile(uintptr(fds[0]), "terminal"), nil
		}
	}
	return nil, errors.New("no terminal came")
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// raw hands all keys through and returns what undoes it. What is no terminal
// stays as it is.
func raw(f *os.File) (restore func()) {
	var old syscall.Termios
	if ioctl(f, syscall.TCGETS, unsafe.Pointer(&old)) != nil {
		return func() {}
	}
	t := old
	t.Iflag &^= syscall.IGNBRK | syscall.BRKINT | syscall.PARMRK | syscall.ISTRIP | syscall.INLCR | syscall.IGNCR | syscall.ICRNL | syscall.IXON
	t.Oflag &^= syscall.OPOST
	t.Lflag &^= syscall.ECHO | syscall.ECHONL | syscall.ICANON | syscall.ISIG | syscall.IEXTEN
	t.Cflag = t.Cflag&^(syscall.CSIZE|syscall.PARENB) | syscall.CS8
	t.Cc[syscall.VMIN], t.Cc[syscall.VTIME] = 1, 0
	_ = ioctl(f, syscall.TCSETS, unsafe.Pointer(&t))
	return func() { _ = ioctl(f, syscall.TCSETS, unsafe.Pointer(&old)) }
}

// copySize gives a terminal the size of another.
func copySize(from, to *os.File) {
	var size [4]uint16
	if ioctl(from, syscall.TIOCGWINSZ, unsafe.Pointer(&size)) == nil {
		_ = ioctl(to, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
	}
}
