package child

import (
	"syscall"
	"unsafe"
)

// listener prepares the load of the program whose notifications the runner
// answers, and the hand-over of the descriptor that they come from. The system
// calls of the step that follow may be such already.
func (s *step) listener(q *Process) {
	if q.Notify == "" {
		return
	}
	load := s.program("load the filter that notifies", q.Notify, q.NotifyFlags)
	// A control message with one descriptor, which the first call fills in.
	control := &struct {
		head syscall.Cmsghdr
		fd   int32
		_    int32
	}{}
	control.head.Level, control.head.Type = syscall.SOL_SOCKET, syscall.SCM_RIGHTS
	control.head.SetLen(syscall.CmsgLen(4))
	load.store = &control.fd
	body := frame(ReportListener, 0, "")
	iov := &syscall.Iovec{Base: &body[0]}
	iov.SetLen(len(body))
	message := &syscall.Msghdr{Iov: iov, Control: (*byte)(unsafe.Pointer(control))}
	message.Iovlen = 1
	message.SetControllen(syscall.CmsgSpace(4))
	s.ref(unsafe.Pointer(control))
	s.ref(unsafe.Pointer(iov))
	s.ref(unsafe.Pointer(&body[0]))
	s.add("hand over the listener", sysSendmsg, ControlFD, s.ref(unsafe.Pointer(message)), syscall.MSG_NOSIGNAL)
}
