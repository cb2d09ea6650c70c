package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
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

// usage is what a process uses.
type usage struct {
	anonymous, mapped int // resident memory in bytes: its own, and that of files, mostly its program
	processor         time.Duration
}

func use(pid int) (u usage, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		var kib int
		switch name {
		case "RssAnon", "RssFile":
			if _, err := fmt.Sscan(value, &kib); err != nil {
				return u, err
			}
		}
		switch name {
		case "RssAnon":
			u.anonymous = kib << 10
		case "RssFile":
			u.mapped = kib << 10
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return u, err
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture Go runs on
	u.processor = time.Duration(user+system) * tick
	return u, nil
}
