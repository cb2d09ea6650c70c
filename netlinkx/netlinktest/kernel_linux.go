package netlinktest

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Kernel is a routing kernel. It starts as a fresh network namespace does, with
// nothing but a loopback interface, which is up. All methods may be called
// concurrently; none blocks.
//
// The methods that change links and addresses panic if there is no such link or
// address: the test is wrong then.
type Kernel struct {
	mu        sync.Mutex
	links     map[int]*link
	lastIndex int
	ipv4      *fib
	ipv6      *fib
	sockets   map[*socket]struct{}
	lastPID   uint32
	buffer    int
	fail      func(netlink.Message) error
	stats     Stats
}

// Stats counts what programs have asked of a Kernel since it was made.
type Stats struct {
	Sends     int // system calls that sent, each of one message or of a batch
	Receives  int // system calls that received something
	Messages  int // messages sent, of all types
	NewRoutes int // of them RTM_NEWROUTE
	DelRoutes int // of them RTM_DELROUTE
	Dumps     int // of them dumps
	Sockets   int // sockets open now
}

// Refusal is a kernel's answer to a request that it does not fulfil.
type Refusal struct {
	Errno syscall.Errno
	Text  string // in the extended acknowledgement, where the socket asked for those; may be empty
}

func (r *Refusal) Error() string {
	if r.Text == "" {
		return r.Errno.Error()
	}
	return fmt.Sprintf("%s: %v", r.Text, r.Errno)
}

// Unwrap returns the error number.
func (r *Refusal) Unwrap() error { return r.Errno }

// defaultBuffer is the receive buffer that Linux gives a socket
// (net.core.rmem_default).
const defaultBuffer = 212992

// New makes a Kernel.
func New() *Kernel {
	k := &Kernel{
		links:   make(map[int]*link),
		ipv4:    newFIB(),
		ipv6:    newFIB(),
		sockets: make(map[*socket]struct{}),
		lastPID: 1000,
		buffer:  defaultBuffer,
	}
	// These tables are there from the beginning; others come with the first
	// route.
	k.ipv4.table(unix.RT_TABLE_MAIN, true)
	k.ipv4.table(unix.RT_TABLE_LOCAL, true)
	k.ipv6.table(unix.RT_TABLE_MAIN, true)
	k.ipv6.table(unix.RT_TABLE_LOCAL, true)
	k.addLoopback()
	return k
}

// Dial opens a socket on k that has joined the groups. It is a
// netlinkx.DialFunc. The connection has the options that [netlink.Config]'s
// Strict sets, and those that SetOption, SetReadBuffer, JoinGroup and the
// deadlines change.
func (k *Kernel) Dial(groups ...uint32) (*netlink.Conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lastPID++
	s := newSocket(k, k.lastPID, k.buffer)
	for _, g := range groups {
		s.groups[g] = true
	}
	k.sockets[s] = struct{}{}
	return netlink.NewConn(s, s.pid), nil
}

// Fail makes f decide on every request before the kernel does. If f returns an
// error the request is answered with it and has no other effect: with its
// [syscall.Errno], and its text if it is a [Refusal]; an error without either
// is EIO. A nil f, or a nil error, lets the kernel do its work. f may use k. It
// is called by one sender at a time for each socket.
func (k *Kernel) Fail(f func(m netlink.Message) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = f
}

// Overrun makes every socket that is a member of a group lose the events that
// come until its reader has emptied the queue, and tells the reader with ENOBUFS
// at its next receive, as if the receive buffer had run over just now.
func (k *Kernel) Overrun() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for s := range k.sockets {
		s.overrunMember()
	}
}

// SetReceiveBuffer sets the size in bytes of the receive buffers of sockets
// dialled from now on. A message counts with its length and roughly what Linux
// adds to it.
func (k *Kernel) SetReceiveBuffer(bytes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buffer = bytes
}

// Stats returns the counts so far.
func (k *Kernel) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.stats
	s.Sockets = len(k.sockets)
	return s
}

// request is what the kernel is doing on whose behalf. The zero request is the
// kernel's own doing.
type request struct {
	from  *socket // nil for the control methods
	pid   uint32
	seq   uint32
	flags netlink.HeaderFlags
}

// receive does what a message of one send asks for, and answers it.
func (k *Kernel) receive(from *socket, m netlink.Message) {
	k.mu.Lock()
	fail := k.fail
	k.mu.Unlock()
	var err error
	if fail != nil {
		err = fail(m)
	}

	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.Messages++
	switch m.Header.Type {
	case unix.RTM_NEWROUTE:
		k.stats.NewRoutes++
	case unix.RTM_DELROUTE:
		k.stats.DelRoutes++
	}
	// Linux ignores what is no request, and control messages.
	if m.Header.Flags&netlink.Request == 0 || m.Header.Type < unix.NLMSG_MIN_TYPE {
		if m.Header.Flags&netlink.Acknowledge != 0 {
			from.answer(m, nil)
		}
		return
	}
	refusal := asRefusal(err)
	dumped := false
	if refusal == nil {
		req := request{from: from, pid: from.pid, seq: m.Header.Sequence, flags: m.Header.Flags}
		dumped, refusal = k.handle(req, m)
	}
	if refusal != nil || (!dumped && m.Header.Flags&netlink.Acknowledge != 0) {
		from.answer(m, refusal)
	}
}

func asRefusal(err error) *Refusal {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &Refusal{Errno: errno}
	}
	return &Refusal{Errno: unix.EIO, Text: err.Error()}
}

// handle does what m asks for. It reports whether that was a dump, which has no
// acknowledgement but its end.
func (k *Kernel) handle(req request, m netlink.Message) (dumped bool, r *Refusal) {
	// Dump is two bits that mean something else with the requests that change.
	dump := m.Header.Flags&netlink.Dump == netlink.Dump
	switch m.Header.Type {
	case unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE:
		if dump {
			k.stats.Dumps++
		}
	}
	switch m.Header.Type {
	case unix.RTM_GETLINK:
		if dump {
			return true, k.dumpLinks(req)
		}
		return false, k.getLink(req, m.Data)
	case unix.RTM_GETADDR:
		if dump {
			return true, k.dumpAddrs(req, m.Data)
		}
		return false, &Refusal{Errno: unix.EOPNOTSUPP}
	case unix.RTM_GETROUTE:
		if dump {
			return true, k.dumpRoutes(req, m.Data)
		}
		return false, k.getRoute(req, m.Data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c, r := parseRouteRequest(m.Data)
		if r != nil {
			return false, r
		}
		return false, k.changeRoute(req, m.Header.Type == unix.RTM_NEWROUTE, c)
	}
	return false, &Refusal{Errno: unix.EOPNOTSUPP}
}

// notify tells the members of a group. The requester is one of them like any
// other, unless it asked for an echo, which it then gets as an answer.
func (k *Kernel) notify(req request, group uint32, typ netlink.HeaderType, flags netlink.HeaderFlags, data func() []byte) {
	echo := req.from != nil && req.flags&netlink.Echo != 0
	var m *netlink.Message
	for s := range k.sockets {
		direct := echo && s == req.from
		if !direct && !s.member(group) {
			continue
		}
		if m == nil {
			b := data()
			m = &netlink.Message{
				Header: netlink.Header{
					Length:   uint32(unix.NLMSG_HDRLEN + len(b)),
					Type:     typ,
					Flags:    flags,
					Sequence: req.seq,
					PID:      req.pid,
				},
				Data: b,
			}
		}
		s.deliver([]netlink.Message{*m})
	}
}

// dump queues the messages of a dump, several to a datagram, and the message
// that ends it. A dump waits for its reader, so that nothing of it gets lost.
func (k *Kernel) dump(req request, typ netlink.HeaderType, flags netlink.HeaderFlags, items [][]byte) {
	const perDatagram = 100
	datagram := make([]netlink.Message, 0, min(perDatagram, len(items)+1))
	add := func(typ netlink.HeaderType, data []byte) {
		datagram = append(datagram, netlink.Message{
			Header: netlink.Header{
				Length:   uint32(unix.NLMSG_HDRLEN + len(data)),
				Type:     typ,
				Flags:    flags | netlink.Multi,
				Sequence: req.seq,
				PID:      req.pid,
			},
			Data: data,
		})
	}
	for _, data := range items {
		if len(datagram) == perDatagram {
			req.from.queueDump(datagram)
			datagram = make([]netlink.Message, 0, perDatagram)
		}
		add(typ, data)
	}
	add(netlink.Done, make([]byte, 4))
	req.from.queueDump(datagram)
}

// endDump answers a dump that fails, which Linux does with the message that ends
// it.
func (k *Kernel) endDump(req request, r *Refusal) {
	data := errnoBytes(r.Errno)
	flags := netlink.Multi
	if req.from.has(netlink.ExtendedAcknowledge) && r.Text != "" {
		flags |= netlink.AcknowledgeTLVs
		data = appendString(data, unix.NLMSGERR_ATTR_MSG, r.Text)
	}
	req.from.queueDump([]netlink.Message{{
		Header: netlink.Header{
			Length:   uint32(unix.NLMSG_HDRLEN + len(data)),
			Type:     netlink.Done,
			Flags:    flags,
			Sequence: req.seq,
			PID:      req.pid,
		},
		Data: data,
	}})
}
