package netns

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener reads what a kernel socket has to tell, until it is stopped, and then
// what had arrived by that moment.
type listener struct {
	file *os.File
	raw  syscall.RawConn
	done chan struct{}
}

// listen opens a socket in the namespace with open and calls handle for each
// datagram, from one goroutine. A receive buffer that overran is told to handle
// with err (unix.ENOBUFS) and reading goes on.
func (n *Namespace) listen(open func() (fd int, err error), handle func(data []byte, from unix.Sockaddr, err error)) (*listener, error) {
	var fd int
	err := n.Do(func() error {
		var err error
		fd, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	// Bursts must fit. Not more than the limit without CAP_NET_ADMIN outside.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	}
	l := &listener{file: os.NewFile(uintptr(fd), "listener"), done: make(chan struct{})}
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	go func() {
		defer close(l.done)
		l.read(handle)
	}()
	return l, nil
}

func (l *listener) read(handle func([]byte, unix.Sockaddr, error)) {
	buf := make([]byte, 128<<10)
	// receive reads one datagram; false if there is none just now.
	receive := func(fd uintptr) bool {
		n, from, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINTR):
		default:
			handle(buf[:max(n, 0)], from, err)
		}
		return true
	}
	for l.raw.Read(receive) == nil {
	}
	// Stopped. Whatever the kernel has queued by now still counts.
	_ = l.raw.Control(func(fd uintptr) {
		for receive(fd) {
		}
	})
}

// stop ends the reading; every datagram that was queued by now has been handled
// when it returns. before is called with the socket before it is closed.
func (l *listener) stop(before func(fd int) error) error {
	if err := l.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("stopping a listener: %w", err)
	}
	<-l.done
	var err error
	if before != nil {
		control := l.raw.Control(func(fd uintptr) { err = before(int(fd)) })
		err = errors.Join(err, control)
	}
	return errors.Join(err, l.file.Close())
}
