package netlinktest

import (
	"errors"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// socket is one program's end of a Kernel, behind a netlink.Conn. The errors it
// returns are of the shapes that netlink's own socket on Linux returns.
type socket struct {
	k   *Kernel
	pid uint32

	sending sync.Mutex // one send at a time

	mu        sync.Mutex
	readable  sync.Cond
	queue     []datagram
	bytes     int // of the queue's datagrams that count
	limit     int
	congested bool // lost something, and the queue has not been empty since
	overrun   bool // ENOBUFS to be told
	closed    bool
	groups    map[uint32]bool
	options   map[netlink.ConnOption]bool
	filter    *bpf.VM     // of what is delivered
	expired   bool        // the read deadline is over
	timer     *time.Timer // the read deadline to come
}

type datagram struct {
	messages []netlink.Message
	size     int // in the receive buffer; zero for parts of dumps
}

// messageOverhead is about what Linux adds to the size of a short message when
// it accounts for it in the receive buffer: a socket buffer is allocated for the
// longest that the message could be, and has a header of its own.
const messageOverhead = 768

// errClosing is what a receive that is under way when its socket is closed
// returns on Linux: it is not os.ErrClosed.
var errClosing = errors.New("use of closed file")

func newSocket(k *Kernel, pid uint32, limit int) *socket {
	s := &socket{
		k:      k,
		pid:    pid,
		limit:  limit,
		groups: make(map[uint32]bool),
		options: map[netlink.ConnOption]bool{
			netlink.ExtendedAcknowledge: true,
			netlink.GetStrictCheck:      true,
		},
	}
	s.readable.L = &s.mu
	return s
}

func (s *socket) Close() error {
	s.k.mu.Lock()
	delete(s.k.sockets, s)
	s.k.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stopTimer()
	s.readable.Broadcast()
	return nil
}

func (s *socket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

func (s *socket) SendMessages(messages []netlink.Message) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return os.NewSyscallError("sendmsg", unix.EBADF)
	}
	// Linux takes a batch only as a whole, so that one message that cannot be
	// written keeps all of them.
	for _, m := range messages {
		if _, err := m.MarshalBinary(); err != nil {
			return err
		}
	}
	s.k.mu.Lock()
	s.k.stats.Sends++
	s.k.mu.Unlock()
	for _, m := range messages {
		m.Data = append([]byte(nil), m.Data...)
		s.k.receive(s, m)
	}
	return nil
}

func (s *socket) Receive() ([]netlink.Message, error) {
	var messages []netlink.Message
	for m, err := range s.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// ReceiveIter waits for one datagram.
func (s *socket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		messages, err := s.next()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range messages {
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (s *socket) next() ([]netlink.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, os.NewSyscallError("recvmsg", unix.EBADF)
	}
	for {
		switch {
		case s.closed:
			return nil, errClosing
		case s.expired:
			return nil, os.ErrDeadlineExceeded
		case s.overrun:
			// The error comes before what is still queued.
			s.overrun = false
			return nil, os.NewSyscallError("recvmsg", unix.ENOBUFS)
		case len(s.queue) > 0:
			d := s.queue[0]
			s.queue[0] = datagram{}
			s.queue = s.queue[1:]
			s.bytes -= d.size
			if len(s.queue) == 0 {
				s.queue = nil
				s.congested = false
			}
			s.countReceive()
			return d.messages, nil
		}
		s.congested = false
		s.readable.Wait()
	}
}

// countReceive takes the kernel's lock, which comes before the socket's.
func (s *socket) countReceive() {
	s.mu.Unlock()
	s.k.mu.Lock()
	s.k.stats.Receives++
	s.k.mu.Unlock()
	s.mu.Lock()
}

// deliver queues one datagram, or loses it.
func (s *socket) deliver(messages []netlink.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.passes(messages) {
		return
	}
	size := messageOverhead
	for _, m := range messages {
		size += int(m.Header.Length)
	}
	if s.congested || s.bytes > s.limit {
		s.lose()
		return
	}
	s.bytes += size
	s.queue = append(s.queue, datagram{messages, size})
	s.readable.Signal()
}

func (s *socket) queueDump(messages []netlink.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.passes(messages) {
		return
	}
	s.queue = append(s.queue, datagram{messages: messages})
	s.readable.Signal()
}

// passes reports whether the socket's filter lets a datagram in.
func (s *socket) passes(messages []netlink.Message) bool {
	if s.filter == nil {
		return true
	}
	var b []byte
	for _, m := range messages {
		b = appendHeader(b, m.Header)
		b = append(b, m.Data...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	n, err := s.filter.Run(b)
	return err == nil && n > 0
}

func (s *socket) lose() {
	if !s.congested && !s.options[netlink.NoENOBUFS] {
		s.overrun = true
		s.readable.Signal()
	}
	s.congested = true
}

func (s *socket) overrunMember() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.groups) > 0 {
		s.lose()
	}
}

// answer queues the acknowledgement of m, or the refusal, as nlmsgerr.
func (s *socket) answer(m netlink.Message, r *Refusal) {
	var data []byte
	var flags netlink.HeaderFlags
	whole := r != nil && !s.has(netlink.CapAcknowledge)
	if r == nil {
		data = errnoBytes(0)
	} else {
		data = errnoBytes(r.Errno)
	}
	data = appendHeader(data, m.Header)
	if whole {
		data = append(data, m.Data...)
		data = append(data, make([]byte, align(len(data))-len(data))...)
	} else {
		flags |= netlink.Capped
	}
	if r != nil && r.Text != "" && s.has(netlink.ExtendedAcknowledge) {
		flags |= netlink.AcknowledgeTLVs
		data = appendString(data, unix.NLMSGERR_ATTR_MSG, r.Text)
	}
	s.deliver([]netlink.Message{{
		Header: netlink.Header{
			Length:   uint32(unix.NLMSG_HDRLEN + len(data)),
			Type:     netlink.Error,
			Flags:    flags,
			Sequence: m.Header.Sequence,
			PID:      s.pid,
		},
		Data: data,
	}})
}

func (s *socket) has(o netlink.ConnOption) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.options[o]
}

func (s *socket) member(group uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[group]
}

func (s *socket) JoinGroup(group uint32) error  { return s.setGroup(group, true) }
func (s *socket) LeaveGroup(group uint32) error { return s.setGroup(group, false) }

func (s *socket) setGroup(group uint32, member bool) error {
	return s.setsockopt(func() {
		if member {
			s.groups[group] = true
		} else {
			delete(s.groups, group)
		}
	})
}

func (s *socket) SetBPF(filter []bpf.RawInstruction) error {
	program, ok := bpf.Disassemble(filter)
	if !ok {
		return os.NewSyscallError("setsockopt", unix.EINVAL)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		return os.NewSyscallError("setsockopt", unix.EINVAL)
	}
	return s.setsockopt(func() { s.filter = vm })
}

func (s *socket) RemoveBPF() error {
	return s.setsockopt(func() { s.filter = nil })
}

func (s *socket) SetOption(o netlink.ConnOption, enable bool) error {
	return s.setsockopt(func() { s.options[o] = enable })
}

// SetReadBuffer sets the limit to twice the bytes, as Linux does to have room
// for its own overhead.
func (s *socket) SetReadBuffer(bytes int) error {
	return s.setsockopt(func() { s.limit = 2 * bytes })
}

func (s *socket) SetWriteBuffer(int) error { return s.setsockopt(func() {}) }

func (s *socket) ReadBuffer() (n int, err error) {
	err = s.setsockopt(func() { n = s.limit })
	return n, err
}

func (s *socket) WriteBuffer() (int, error) { return defaultBuffer, s.setsockopt(func() {}) }

func (s *socket) setsockopt(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.NewSyscallError("setsockopt", unix.EBADF)
	}
	f()
	return nil
}

func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetWriteDeadline does nothing: no send ever waits.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosing
	}
	s.stopTimer()
	s.expired = false
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		s.expired = true
	default:
		var timer *time.Timer
		timer = time.AfterFunc(left, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.timer == timer {
				s.expired = true
				s.readable.Broadcast()
			}
		})
		s.timer = timer
	}
	s.readable.Broadcast()
	return nil
}

func (s *socket) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}
