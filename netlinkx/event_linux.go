package netlinkx

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// event is something that the kernel told.
type event struct {
	kind    eventKind
	deleted bool
	route   routeEvent
	link    linkInfo
	address addressInfo
}

type eventKind uint8

const (
	eventRoute   eventKind = iota // of a route in scope
	eventOnLink                   // something else has become reachable without a gateway
	eventLink                     // of any interface
	eventAddress                  // of any interface
)

// queueLimit is how many events may wait. A full look costs less than more.
const queueLimit = 1 << 15

// listener receives events in a goroutine of its own, so that the socket is
// read while requests are under way, and skips what does not concern us.
type listener struct {
	conn  *netlink.Conn
	own   uint32 // port of the socket whose requests are ours
	table uint32
	scope atomic.Pointer[scope] // of routes; none concerns us while it is nil
	wake  chan struct{}         // capacity one: there is something to take

	mu      sync.Mutex
	queue   []event
	overrun bool // events were lost
	closing bool
}

// run receives until the socket is closed.
func (l *listener) run() error {
	draining := false
	for {
		var msgs []netlink.Message
		var drained bool
		var err error
		if draining {
			msgs, drained, err = receiveDraining(l.conn)
		} else {
			msgs, err = l.conn.Receive()
		}
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// More gets lost, without another error, until the socket has been
			// read empty. Only then is it of use to look at the kernel.
			draining = true
		case err != nil && l.isClosing():
			return nil
		case err != nil:
			return fmt.Errorf("netlinkx: receive events: %w", err)
		}
		for _, m := range msgs {
			if e, ok := l.decode(m); ok {
				l.push(e)
			}
		}
		if drained {
			draining = false
			l.lose()
		}
	}
}

// close makes run return.
func (l *listener) close() {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	_ = l.conn.Close()
}

func (l *listener) isClosing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing
}

func (l *listener) push(e event) {
	l.mu.Lock()
	full := len(l.queue) >= queueLimit
	if !full {
		l.queue = append(l.queue, e)
	}
	l.mu.Unlock()
	if full {
		l.lose()
		return
	}
	l.signal()
}

// lose notes that events were lost. Those that wait tell nothing that a look
// does not.
func (l *listener) lose() {
	l.mu.Lock()
	l.queue, l.overrun = nil, true
	l.mu.Unlock()
	l.signal()
}

func (l *listener) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the events that have come since it was last called.
func (l *listener) take() (events []event, overrun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	events, overrun = l.queue, l.overrun
	l.queue, l.overrun = nil, false
	return events, overrun
}

// decode reads one message. It reports false for what does not concern us, and
// for what it cannot read.
func (l *listener) decode(m netlink.Message) (event, bool) {
	if m.Header.PID == l.own && l.own != 0 {
		return event{}, false
	}
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return l.decodeRoute(m)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		k, err := decodeLinkInfo(m.Data)
		if err != nil {
			return event{}, false
		}
		return event{kind: eventLink, deleted: m.Header.Type == unix.RTM_DELLINK, link: k}, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := decodeAddressInfo(m.Data)
		if err != nil {
			return event{}, false
		}
		return event{kind: eventAddress, deleted: m.Header.Type == unix.RTM_DELADDR, address: a}, true
	}
	return event{}, false
}

func (l *listener) decodeRoute(m netlink.Message) (event, bool) {
	s := l.scope.Load()
	h, err := decodeRouteHeader(m.Data)
	if s == nil || err != nil || h.cloned {
		return event{}, false
	}
	inTable := h.table == shortTable(l.table)
	deleted := m.Header.Type == unix.RTM_DELROUTE
	if !inTable && (deleted || h.kind != routeUnicast) {
		return event{}, false
	}
	r, more, table, err := decodeRoute(m.Data)
	if err != nil {
		return event{}, false
	}
	if table == l.table && s.contains(r.protocol, r.subnet) {
		replace := m.Header.Flags&netlink.Replace != 0
		return event{kind: eventRoute, route: routeEvent{route: r, more: more, deleted: deleted, replace: replace}}, true
	}
	onLink := !deleted && r.kind == routeUnicast && r.plain && !r.gateway.IsValid()
	return event{kind: eventOnLink}, onLink
}
