package netlinkx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// dialKernel is the DialFunc of the network namespace the process runs in.
func dialKernel(groups ...uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{
		// A fixed buffer saves a system call a message. The kernel fills at most
		// 32 KiB of it.
		MessageBufferSize: 64 << 10,
	})
	if err != nil {
		return nil, fmt.Errorf("netlinkx: open a netlink socket: %w", err)
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("netlinkx: join netlink group %d: %w", g, err)
		}
	}
	return c, nil
}

const (
	requestBuffer = 1 << 20
	eventBuffer   = 8 << 20
	batchSize     = 256
)

// dialRequests opens the socket for requests and dumps.
func dialRequests(dial DialFunc) (*requestConn, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	// Options that an old kernel does not know cost texts and speed only: what
	// is dumped too much is skipped here.
	_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	_ = c.SetOption(netlink.GetStrictCheck, true)
	_ = c.SetReadBuffer(requestBuffer)
	r := &requestConn{Conn: c, batch: batchSize, patience: patience}
	if n, err := c.ReadBuffer(); err == nil {
		r.batch = max(1, min(batchSize, n/answerSize))
	}
	return r, nil
}

// dialEvents opens the socket for events. It is large, because a socket that
// overruns costs a full look; the kernel only uses what is queued.
func dialEvents(dial DialFunc) (*netlink.Conn, error) {
	c, err := dial(unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, err
	}
	_ = c.SetReadBuffer(eventBuffer)
	return c, nil
}

// muteEchoes makes the kernel drop the events on c that requests from the
// socket pid caused. Without it they are dropped here, which costs more.
func muteEchoes(c *netlink.Conn, pid uint32) {
	const offsetPID = 12 // in struct nlmsghdr, in the host's byte order
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], pid)
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetPID, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1<<32 - 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return
	}
	_ = c.SetBPF(filter)
}

// receiveDraining is c.Receive on a socket that lost messages: it returns true
// once c is read empty, for only then does the kernel deliver to it again.
func receiveDraining(c *netlink.Conn) ([]netlink.Message, bool, error) {
	if empty, ok := isEmpty(c); ok {
		if empty {
			return nil, true, nil
		}
		msgs, err := c.Receive()
		return msgs, false, err
	}
	// Not a socket of the system: silence has to do.
	const idle = 5 * time.Millisecond
	if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return nil, true, nil
	}
	msgs, err := c.Receive()
	_ = c.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, true, nil
	}
	return msgs, false, err
}

// isEmpty asks the kernel whether nothing is queued on c. Waiting for a while and
// hearing nothing does not tell: a process that was not scheduled meanwhile hears
// nothing either. ok is false if c cannot be asked.
func isEmpty(c *netlink.Conn) (empty, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, false
	}
	var one [1]byte
	var perr error
	err = raw.Control(func(fd uintptr) {
		_, _, perr = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return errors.Is(perr, unix.EAGAIN), err == nil
}
