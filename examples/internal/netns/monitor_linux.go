package netns

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RouteEvent is a change of a route, as the kernel told it.
type RouteEvent struct {
	At      time.Time // when it was read
	Deleted bool      // else added or replaced
	Route   Route
}

// String writes the event as ip monitor does.
func (e RouteEvent) String() string {
	if e.Deleted {
		return "Deleted " + e.Route.String()
	}
	return e.Route.String()
}

// RouteMonitor records every change of a route in a namespace.
type RouteMonitor struct {
	ns       *Namespace
	listener *listener
	names    map[uint32]string // of the interfaces seen in events
	events   []RouteEvent
	err      error
}

// MonitorRoutes starts recording. When it returns, no later change is missed.
func (n *Namespace) MonitorRoutes() (*RouteMonitor, error) {
	m := &RouteMonitor{ns: n, names: make(map[uint32]string)}
	listener, err := n.listen(func() (int, error) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return -1, err
		}
		groups := uint32(1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1))
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}, m.handle)
	if err != nil {
		return nil, fmt.Errorf("monitoring routes of %s: %w", n.Name, err)
	}
	m.listener = listener
	return m, nil
}

func (m *RouteMonitor) handle(data []byte, _ unix.Sockaddr, err error) {
	if err != nil {
		m.err = err
		return
	}
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		m.err = err
		return
	}
	for _, message := range messages {
		kind := message.Header.Type
		if kind != unix.RTM_NEWROUTE && kind != unix.RTM_DELROUTE {
			continue
		}
		r, err := parseRoute(message.Data)
		if err != nil {
			m.err = err
			continue
		}
		if m.names[r.index] == "" {
			// Now, because the interface may be gone when the monitor is stopped.
			_ = m.ns.Do(func() error {
				ifi, err := net.InterfaceByIndex(int(r.index))
				if err == nil {
					m.names[r.index] = ifi.Name
				}
				return err
			})
		}
		r.Device = m.names[r.index]
		m.events = append(m.events, RouteEvent{At: time.Now(), Deleted: kind == unix.RTM_DELROUTE, Route: r})
	}
}

// Stop ends the recording and returns all that changed in the main table until
// now, in order. An error means that events may be missing. Call it once.
func (m *RouteMonitor) Stop() ([]RouteEvent, error) {
	err := m.listener.stop(nil)
	if m.err != nil {
		err = m.err
	}
	if err != nil {
		return nil, fmt.Errorf("monitoring routes of %s: %w", m.ns.Name, err)
	}
	var events []RouteEvent
	for _, e := range m.events {
		// Clones are what the kernel learns about single destinations.
		if e.Route.Table == unix.RT_TABLE_MAIN && e.Route.Flags&unix.RTM_F_CLONED == 0 {
			events = append(events, e)
		}
	}
	return events, nil
}
