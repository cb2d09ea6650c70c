package netlinktest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// host is what both kernels are, the fake one and the real one.
type host interface {
	Dial(groups ...uint32) (*netlink.Conn, error)
	AddLink(name string) int
	RemoveLink(name string)
	SetUp(name string, up bool)
	SetCarrier(name string, carrier bool)
	SetMTU(name string, mtu int)
	Rename(name, to string)
	AddAddr(link string, p netip.Prefix)
	DelAddr(link string, p netip.Prefix)
}

var (
	_ host = (*namespace)(nil)
	_ host = (*netlinktest.Kernel)(nil)
)

func newFake() *netlinktest.Kernel {
	k := netlinktest.New()
	k.AddLink("eth0")
	k.AddLink("eth1")
	return k
}

// witness does things to a host and says what came of them, in words that are
// the same whichever kernel it is.
type witness struct {
	t       testing.TB
	h       host
	c       *netlink.Conn // sends
	events  *netlink.Conn // hears
	names   map[uint32]string
	links   map[string]linkState
	carrier map[string]bool
	addrs   []netip.Prefix // that came
}

type linkState struct {
	up, running bool
	mtu         uint32
}

// outcome is what one step came to.
type outcome struct {
	refused string   // error number and extended text
	events  []string // sorted
	routes  []string // of all tables
}

func newWitness(t testing.TB, h host) *witness {
	t.Helper()
	w := &witness{
		t: t, h: h,
		names:   make(map[uint32]string),
		links:   make(map[string]linkState),
		carrier: map[string]bool{"eth0": true, "eth1": true},
	}
	var err error
	if w.events, err = h.Dial(unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.events.Close() })
	if w.c, err = h.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.c.Close() })
	answer, err := w.c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range answer {
		w.event(m, 0)
	}
	// Both start with the links up and running.
	w.do("up eth0")
	w.do("up eth1")
	return w
}

// do does what the words say:
//
//	add|replace|append|prepend|change|del ROUTE
//	up|down|plug|unplug|remove|create LINK
//	addr|deladdr PREFIX LINK
//	mtu LINK N
//	rename LINK TO
func (w *witness) do(words string) outcome {
	w.t.Helper()
	verb, rest, _ := strings.Cut(words, " ")
	f := strings.Fields(rest)
	var o outcome
	var seq uint32
	var wait func() bool
	state := func(link string, up bool) func() bool {
		running := up && w.carrier[link]
		return func() bool { s := w.links[link]; return s.up == up && s.running == running }
	}
	switch verb {
	case "add":
		seq, o.refused = w.route(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, rest)
	case "replace":
		seq, o.refused = w.route(unix.RTM_NEWROUTE, netlink.Create|netlink.Replace, rest)
	case "append":
		seq, o.refused = w.route(unix.RTM_NEWROUTE, netlink.Create|netlink.Append, rest)
	case "prepend":
		seq, o.refused = w.route(unix.RTM_NEWROUTE, netlink.Create, rest)
	case "change":
		seq, o.refused = w.route(unix.RTM_NEWROUTE, netlink.Replace, rest)
	case "del":
		seq, o.refused = w.route(unix.RTM_DELROUTE, 0, rest)
	case "up":
		w.h.SetUp(rest, true)
		wait = state(rest, true)
	case "down":
		w.h.SetUp(rest, false)
		wait = state(rest, false)
	case "plug", "unplug":
		w.h.SetCarrier(rest, verb == "plug")
		w.carrier[rest] = verb == "plug"
		wait = state(rest, w.links[rest].up)
	case "create":
		w.h.AddLink(rest)
		w.carrier[rest] = true
	case "remove":
		w.h.RemoveLink(rest)
	case "addr":
		p := netip.MustParsePrefix(f[0])
		w.h.AddAddr(f[1], p)
		if p.Addr().Is6() {
			// Linux is done with it only a little later.
			w.addrs = nil
			wait = func() bool { return slices.Contains(w.addrs, p) }
		}
	case "deladdr":
		w.h.DelAddr(f[1], netip.MustParsePrefix(f[0]))
	case "mtu":
		mtu, _ := strconv.Atoi(f[1])
		w.h.SetMTU(f[0], mtu)
	case "rename":
		w.h.Rename(f[0], f[1])
	default:
		w.t.Fatalf("no such verb: %q", words)
	}
	o.events = w.heard(words, seq, wait)
	o.routes = w.dump()
	return o
}

// marker is a route that comes and goes in a table of its own. It is told of after
// everything that was done before.
const (
	markerTable = " table 4242"
	marker      = "blackhole 203.0.113.0/24 proto 99" + markerTable
)

// heard returns the events up to now; of a link that changed several times only
// what became of it.
func (w *witness) heard(words string, seq uint32, wait func() bool) []string {
	w.t.Helper()
	if err := w.events.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	var events []string
	last := make(map[string]string)
	read := func() (marked bool) {
		messages, err := w.events.Receive()
		if err != nil {
			w.t.Fatalf("after %q: events: %v", words, err)
		}
		for _, m := range messages {
			e, link := w.event(m, seq)
			switch {
			case strings.Contains(e, markerTable):
				marked = marked || m.Header.Type == unix.RTM_DELROUTE
			case link != "":
				last[link] = e
			case e != "":
				events = append(events, e)
			}
		}
		return marked
	}
	for wait != nil && !wait() {
		read()
	}
	for _, typ := range []netlink.HeaderType{unix.RTM_NEWROUTE, unix.RTM_DELROUTE} {
		if _, refused := w.route(typ, netlink.Create, marker); refused != "" {
			w.t.Fatalf("marker: %s", refused)
		}
	}
	for !read() {
	}
	for _, e := range last {
		events = append(events, e)
	}
	slices.Sort(events)
	return events
}

// event puts a message into words. link is its name if it is about one.
func (w *witness) event(m netlink.Message, seq uint32) (words, link string) {
	w.t.Helper()
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		var l rtnetlink.LinkMessage
		if err := l.UnmarshalBinary(m.Data); err != nil {
			w.t.Fatal(err)
		}
		if l.Family != unix.AF_UNSPEC {
			return "", ""
		}
		name := l.Attributes.Name
		w.names[l.Index] = name
		if m.Header.Type == unix.RTM_DELLINK {
			delete(w.links, name)
			return "-link " + name, name
		}
		s := linkState{l.Flags&unix.IFF_UP != 0, l.Flags&unix.IFF_RUNNING != 0, l.Attributes.MTU}
		w.links[name] = s
		return fmt.Sprintf("link %s up=%t running=%t mtu=%d", name, s.up, s.running, s.mtu), name
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		var a rtnetlink.AddressMessage
		if err := a.UnmarshalBinary(m.Data); err != nil {
			w.t.Fatal(err)
		}
		ip, _ := netip.AddrFromSlice(a.Attributes.Address)
		sign := "+"
		if m.Header.Type == unix.RTM_DELADDR {
			sign = "-"
		} else {
			w.addrs = append(w.addrs, netip.PrefixFrom(ip, int(a.PrefixLength)))
		}
		words := fmt.Sprintf("%saddr %v/%d %s", sign, ip, a.PrefixLength, w.names[a.Index])
		if ip.Is4() && a.Attributes.Flags&unix.IFA_F_SECONDARY != 0 {
			words += " secondary"
		}
		return words, ""
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		sign := "+"
		switch {
		case m.Header.Type == unix.RTM_DELROUTE:
			sign = "-"
		case m.Header.Flags&netlink.Replace != 0:
			sign = "="
		case m.Header.Flags&netlink.Append != 0:
			sign = "&"
		}
		words := sign + w.words(m.Data)
		switch {
		case m.Header.PID == 0:
		case m.Header.PID == w.c.PID() && m.Header.Sequence == seq:
			words += " (asked)"
		case !strings.Contains(words, markerTable):
			words += fmt.Sprintf(" (of %d, sequence %d)", m.Header.PID, m.Header.Sequence)
		}
		return words, ""
	}
	return fmt.Sprintf("message of type %d", m.Header.Type), ""
}

// words puts a route into the words that route reads.
func (w *witness) words(data []byte) string {
	var r rtnetlink.RouteMessage
	if err := r.UnmarshalBinary(data); err != nil {
		w.t.Fatal(err)
	}
	a := r.Attributes
	dst, ok := netip.AddrFromSlice(a.Dst)
	if !ok {
		dst = netip.IPv6Unspecified()
		if r.Family == unix.AF_INET {
			dst = netip.IPv4Unspecified()
		}
	}
	s := fmt.Sprintf("%v/%d", dst, r.DstLength)
	if name, ok := typeNames[r.Type]; ok {
		s = name + " " + s
	}
	way := func(gateway []byte, index uint32, flags uint32) {
		if gateway != nil {
			g, _ := netip.AddrFromSlice(gateway)
			s += fmt.Sprintf(" via %v", g)
		}
		if index != 0 {
			s += " dev " + w.names[index]
		}
		if flags&unix.RTNH_F_ONLINK != 0 {
			s += " onlink"
		}
		if flags&unix.RTNH_F_DEAD != 0 {
			s += " dead"
		}
		if flags&unix.RTNH_F_LINKDOWN != 0 {
			s += " linkdown"
		}
	}
	way(a.Gateway, a.OutIface, r.Flags)
	s += fmt.Sprintf(" proto %d", r.Protocol)
	if r.Scope != 0 {
		s += fmt.Sprintf(" scope %d", r.Scope)
	}
	if a.Table != unix.RT_TABLE_MAIN {
		s += fmt.Sprintf(" table %d", a.Table)
	}
	if a.Priority != 0 {
		s += fmt.Sprintf(" metric %d", a.Priority)
	}
	if a.Src != nil {
		src, _ := netip.AddrFromSlice(a.Src)
		s += fmt.Sprintf(" src %v", src)
	}
	for _, h := range a.Multipath {
		s += " nexthop"
		way(h.Gateway, h.Hop.IfIndex, uint32(h.Hop.Flags))
	}
	return s
}

var typeNames = map[uint8]string{
	unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_ANYCAST: "anycast",
}

// route sends a request about a route and returns its sequence number and what
// it was refused with.
func (w *witness) route(typ netlink.HeaderType, flags netlink.HeaderFlags, words string) (seq uint32, refused string) {
	w.t.Helper()
	m := w.routeMessage(typ, flags|netlink.Acknowledge, words)
	sent, err := w.c.Send(m)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.c.Receive()
	return sent.Header.Sequence, refusal(err)
}

func refusal(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		s = unix.ErrnoName(errno)
	}
	if op, ok := errors.AsType[*netlink.OpError](err); ok && op.Message != "" {
		s += ": " + op.Message
	}
	return s
}

// routeMessage makes a request out of words. What it does not say is as in ip
// route.
func (w *witness) routeMessage(typ netlink.HeaderType, flags netlink.HeaderFlags, words string) netlink.Message {
	w.t.Helper()
	add := typ == unix.RTM_NEWROUTE
	f := strings.Fields(words)
	rtm := make([]byte, unix.SizeofRtMsg)
	ae := netlink.NewAttributeEncoder()
	rtm[7] = 0
	if add {
		rtm[5], rtm[7] = unix.RTPROT_BOOT, unix.RTN_UNICAST
	}
	for number, name := range typeNames {
		if f[0] == name {
			rtm[7] = number
			f = f[1:]
			break
		}
	}
	dst, bits, _ := strings.Cut(f[0], "/")
	ip := netip.MustParseAddr(dst)
	n, err := strconv.Atoi(bits)
	if err != nil {
		w.t.Fatalf("%q: %v", words, err)
	}
	rtm[0], rtm[1] = unix.AF_INET6, byte(n)
	if ip.Is4() {
		rtm[0] = unix.AF_INET
	}
	ae.Bytes(unix.RTA_DST, ip.AsSlice())
	gateway, scope := false, -1
	var flag uint32
	rtm[4] = unix.RT_TABLE_MAIN
	for f = f[1:]; len(f) > 0; f = f[1:] {
		number := func() uint32 {
			v, err := strconv.ParseUint(f[1], 10, 32)
			if err != nil {
				w.t.Fatalf("%q: %v", words, err)
			}
			return uint32(v)
		}
		switch f[0] {
		case "via":
			gateway = true
			ae.Bytes(unix.RTA_GATEWAY, netip.MustParseAddr(f[1]).AsSlice())
		case "src":
			ae.Bytes(unix.RTA_PREFSRC, netip.MustParseAddr(f[1]).AsSlice())
		case "dev":
			index := uint32(9999)
			for i, name := range w.names {
				if _, there := w.links[name]; there && name == f[1] && (index == 9999 || i > index) {
					index = i
				}
			}
			ae.Uint32(unix.RTA_OIF, index)
		case "proto":
			rtm[5] = byte(number())
		case "scope":
			scope = int(number())
		case "metric":
			ae.Uint32(unix.RTA_PRIORITY, number())
		case "table":
			rtm[4] = unix.RT_TABLE_UNSPEC
			ae.Uint32(unix.RTA_TABLE, number())
		case "onlink":
			flag |= unix.RTNH_F_ONLINK
			continue
		default:
			w.t.Fatalf("%q: %q is not understood", words, f[0])
		}
		f = f[1:]
	}
	if ip.Is4() {
		switch {
		case scope >= 0:
			rtm[6] = byte(scope)
		case !add:
			rtm[6] = unix.RT_SCOPE_NOWHERE
		case !gateway && rtm[7] == unix.RTN_UNICAST:
			rtm[6] = unix.RT_SCOPE_LINK
		}
	}
	binary.NativeEndian.PutUint32(rtm[8:], flag)
	attrs, err := ae.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   append(rtm, attrs...),
	}
}

// dump returns all routes but those through the loopback interface, which a
// namespace has in several ways.
func (w *witness) dump() []string {
	w.t.Helper()
	var routes []string
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		rtm := make([]byte, unix.SizeofRtMsg)
		rtm[0] = family
		messages, err := w.c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump},
			Data:   rtm,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, m := range messages {
			if s := w.words(m.Data); !strings.Contains(s, " dev lo ") {
				routes = append(routes, s)
			}
		}
	}
	return routes
}
