package netlinkx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// skipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const skipStats = 1 << 3

// dump asks for everything of a kind and calls each with every answer of type
// want. A dump into which a change fell is repeated; each must stand that.
func (c *requestConn) dump(kind, want netlink.HeaderType, filter []byte, reset func(), each func(netlink.Message)) error {
	for range 4 {
		reset()
		c.seq++
		q := netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump, Sequence: c.seq},
			Data:   filter,
		}
		if _, err := c.Send(q); err != nil {
			return err
		}
		interrupted, err := c.receiveDump(want, each)
		if err != nil {
			return err
		}
		if !interrupted {
			return nil
		}
	}
	return nil // events tell about the rest
}

// receiveDump calls each with every answer of type want to the last message that was
// sent, and reports whether a change fell into them. Before them there may be answers
// that exchange took for lost, as this process was not scheduled for a while: each of
// them is all that one Receive returns, and would pass for an empty dump.
func (c *requestConn) receiveDump(want netlink.HeaderType, each func(netlink.Message)) (interrupted bool, err error) {
	for stale := true; stale; {
		stale = false
		for m, err := range c.ReceiveIter() {
			var refused *netlink.OpError
			switch {
			case errors.As(err, &refused) && refused.Sequence != 0 && refused.Sequence != c.seq:
				stale = true
			case err != nil:
				return false, err
			case m.Header.Sequence != c.seq:
				stale = true
			case m.Header.Type == want:
				interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
				each(m)
			}
		}
	}
	return interrupted, nil
}

// findLink returns the interface of that name, with its addresses. It reports
// false if there is none.
func (c *requestConn) findLink(name string) (Uplink, bool, error) {
	var u Uplink
	filter := make([]byte, unix.SizeofIfInfomsg)
	filter = appendUint32(filter, unix.IFLA_EXT_MASK, skipStats)
	reset := func() { u = Uplink{Name: name} }
	err := c.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, filter, reset, func(m netlink.Message) {
		if k, err := decodeLinkInfo(m.Data); err == nil && k.name == name {
			u.Index, u.MTU, u.Up, u.Running = k.index, k.mtu, k.up, k.running
		}
	})
	if err != nil {
		return Uplink{}, false, fmt.Errorf("netlinkx: dump links: %w", err)
	}
	if u.Index == 0 {
		return u, false, nil
	}
	filter = make([]byte, unix.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(filter[4:], uint32(u.Index))
	reset = func() { u.Addrs = nil }
	err = c.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, filter, reset, func(m netlink.Message) {
		if a, err := decodeAddressInfo(m.Data); err == nil && a.index == u.Index {
			u.Addrs = append(u.Addrs, a.onLink()...)
		}
	})
	if err != nil && !errors.Is(err, unix.ENODEV) { // gone meanwhile: the event comes
		return Uplink{}, false, fmt.Errorf("netlinkx: dump addresses of %s: %w", name, err)
	}
	slices.SortFunc(u.Addrs, comparePrefix)
	return u, true, nil
}

// routes calls each with every route of both families in table, or in all
// tables if table is zero.
func (c *requestConn) routes(table uint32, reset func(), each func(r kernelRoute, table uint32)) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		filter := make([]byte, unix.SizeofRtMsg)
		filter[0] = family
		if table != 0 {
			filter = appendUint32(filter, unix.RTA_TABLE, table)
		}
		err := c.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, filter, reset, func(m netlink.Message) {
			h, err := decodeRouteHeader(m.Data)
			if err != nil || h.cloned || h.family != family || table != 0 && h.table != shortTable(table) {
				return
			}
			r, more, in, err := decodeRoute(m.Data)
			switch {
			case err != nil || table != 0 && in != table:
			case len(more) > 0:
				for _, r := range more {
					each(r, in)
				}
			default:
				each(r, in)
			}
		})
		// A table that has never had a route does not exist, and a kernel may
		// come without IPv6.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("netlinkx: dump routes of table %d: %w", table, err)
		}
	}
	return nil
}
