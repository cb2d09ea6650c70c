package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx"
)

// listener hears what happens to hostgwd's routes on the host.
type listener struct{ conn *netlink.Conn }

// event is a change of a route.
type event struct {
	subnet  netip.Prefix
	deleted bool
}

func added(e event) bool { return !e.deleted }

func (b *bench) listen() (*listener, error) {
	var l listener
	err := b.host.Do(func() (err error) {
		l.conn, err = netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: 1 << (unix.RTNLGRP_IPV4_ROUTE - 1)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening to the host's routes: %w", err)
	}
	// Room for all that comes while nobody reads.
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}); err != nil {
		return nil, err
	}
	return &l, serr
}

func (l *listener) close() { _ = l.conn.Close() }

// wait waits for n events that match, and returns when the last of them came.
func (l *listener) wait(ctx context.Context, n int, match func(event) bool) (time.Time, error) {
	deadline := time.Now().Add(patience)
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Now()) })
	defer stop()
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return time.Time{}, err
	}
	for seen := 0; seen < n; {
		messages, err := l.conn.Receive()
		if err != nil {
			return time.Time{}, fmt.Errorf("after %d route events of %d: %w", seen, n, err)
		}
		for _, m := range messages {
			var r rtnetlink.RouteMessage
			if err := r.UnmarshalBinary(m.Data); err != nil {
				return time.Time{}, err
			}
			addr, _ := netip.AddrFromSlice(r.Attributes.Dst)
			e := event{netip.PrefixFrom(addr, int(r.DstLength)), m.Header.Type == unix.RTM_DELROUTE}
			if r.Protocol == netlinkx.DefaultProtocol && match(e) {
				seen++
			}
		}
	}
	return time.Now(), nil
}

// ip runs the ip program on the host.
func (b *bench) ip(input []byte, args ...string) error {
	cmd := exec.Command("ip", args...)
	cmd.Stdin = bytes.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := b.host.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out.String())
	}
	return nil
}

// resident returns a process's resident memory in bytes, and the processor time
// it has used.
func resident(pid int) (memory int, used time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	var total, pages int
	if _, err := fmt.Sscan(string(text), &total, &pages); err != nil {
		return 0, 0, err
	}
	text, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	var user, system int64
	if _, err := fmt.Sscan(string(fields[11])+" "+string(fields[12]), &user, &system); err != nil {
		return 0, 0, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture Go runs on
	return pages * os.Getpagesize(), time.Duration(user+system) * tick, nil
}
