package simulation

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

// real is the fake kernel that behaves as Linux does, with the real programmer
// on it.
type real struct {
	k       *netlinktest.Kernel
	log     *slog.Logger
	observe observer
	monitor *netlink.Conn
	done    chan struct{}
	ipv6    []netip.Prefix // what an operator adds again when the link has been down
	down    bool
}

func newReal(addrs []netip.Prefix, log *slog.Logger, observe observer) kernel {
	r := &real{k: netlinktest.New(), log: log, observe: observe, done: make(chan struct{})}
	r.k.AddLink("eth0")
	r.k.SetUp("eth0", true)
	for _, a := range addrs {
		r.addAddr(a)
	}
	var err error
	if r.monitor, err = r.k.Dial(unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE); err != nil {
		panic(err)
	}
	go r.listen()
	return r
}

// listen tells the observer what daemons change.
func (r *real) listen() {
	defer close(r.done)
	ours := map[netip.Prefix]netip.Addr{}
	for {
		messages, err := r.monitor.Receive()
		if err != nil {
			return // closed
		}
		for _, m := range messages {
			var route rtnetlink.RouteMessage
			if err := route.UnmarshalBinary(m.Data); err != nil {
				panic(fmt.Sprintf("a kernel's event cannot be read: %v", err))
			}
			if route.Protocol != netlinkx.DefaultProtocol {
				continue
			}
			dst, _ := netip.AddrFromSlice(route.Attributes.Dst)
			gateway, _ := netip.AddrFromSlice(route.Attributes.Gateway)
			w := way{netip.PrefixFrom(dst, int(route.DstLength)), gateway}
			var gone, came way
			if m.Header.Type == unix.RTM_DELROUTE {
				gone = w
				delete(ours, w.subnet)
			} else {
				came = w
				if m.Header.Flags&netlink.Replace != 0 && ours[w.subnet].IsValid() {
					gone = way{w.subnet, ours[w.subnet]}
				}
				ours[w.subnet] = w.gateway
			}
			// The kernel's own doing has no port, and an operator's port is one.
			if m.Header.PID > 1 {
				r.observe(gone, came)
			}
		}
	}
}

func (r *real) close() {
	_ = r.monitor.Close()
	<-r.done
}

func (r *real) programmer(u netlinkx.Uplink) (hostgw.RouteProgrammer, error) {
	return netlinkx.NewProgrammer(netlinkx.Config{Uplink: u, Dial: r.k.Dial, Logger: r.log})
}

func (r *real) routes() (ours, foreign map[netip.Prefix]netip.Addr) {
	ours, foreign = map[netip.Prefix]netip.Addr{}, map[netip.Prefix]netip.Addr{}
	for _, o := range r.k.Routes() {
		switch {
		case o.Table != unix.RT_TABLE_MAIN || !o.Gateway.IsValid():
		case o.Protocol == netlinkx.DefaultProtocol:
			ours[o.Dst] = o.Gateway
		default:
			foreign[o.Dst] = o.Gateway
		}
	}
	return ours, foreign
}

func (r *real) addForeign(w way) bool {
	return r.k.AddRoute(netlinktest.Route{Dst: w.subnet, Gateway: w.gateway, Protocol: unix.RTPROT_STATIC}) == nil
}

func (r *real) remove(p netip.Prefix, ours bool) bool {
	protocol := uint8(unix.RTPROT_STATIC)
	if ours {
		protocol = netlinkx.DefaultProtocol
	}
	return r.k.DelRoute(netlinktest.Route{Dst: p, Protocol: protocol}) == nil
}

func (r *real) addAddr(p netip.Prefix) {
	if p.Addr().Is6() {
		r.ipv6 = append(r.ipv6, p)
		if r.down {
			return
		}
	}
	r.k.AddAddr("eth0", p)
}

func (r *real) delAddr(p netip.Prefix) {
	var left []netip.Prefix
	for _, a := range r.ipv6 {
		if a != p {
			left = append(left, a)
		}
	}
	r.ipv6 = left
	if r.down && p.Addr().Is6() {
		return // it is gone already
	}
	r.k.DelAddr("eth0", p)
}

func (r *real) setUp(up bool) {
	r.k.SetUp("eth0", up)
	if r.down = !up; r.down {
		return
	}
	for _, a := range r.ipv6 {
		r.k.AddAddr("eth0", a)
	}
}
