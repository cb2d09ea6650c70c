package netlinktest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// both runs a test about messages on the fake kernel and on the real one. Its
// eth0 has 10.0.0.1/24 and fd00::1/64.
func both(t *testing.T, test func(t *testing.T, w *witness)) {
	run := func(h func(t *testing.T) host) func(t *testing.T) {
		return func(t *testing.T) {
			w := newWitness(t, h(t))
			w.do("addr 10.0.0.1/24 eth0")
			w.do("addr fd00::1/64 eth0")
			test(t, w)
		}
	}
	t.Run("fake", run(func(t *testing.T) host { return newFake() }))
	t.Run("real", run(func(t *testing.T) host { return newNamespace(t) }))
}

func (w *witness) dial(groups ...uint32) *netlink.Conn {
	w.t.Helper()
	c, err := w.h.Dial(groups...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// answers reads until the acknowledgement of a sequence number, and says what
// came, with sequence numbers relative to the first.
func (w *witness) answers(c *netlink.Conn, first, last uint32) []string {
	w.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for {
		messages, err := c.Receive()
		if err != nil {
			op, ok := errors.AsType[*netlink.OpError](err)
			if !ok || op.Sequence == 0 {
				w.t.Fatalf("after %q: %v", all, err)
			}
			all = append(all, fmt.Sprintf("%d: %s", op.Sequence-first, refusal(err)))
			if op.Sequence == last {
				return all
			}
		}
		for _, m := range messages {
			what := "acknowledged"
			if m.Header.Type != netlink.Error {
				what, _ = w.event(m, m.Header.Sequence)
			}
			all = append(all, fmt.Sprintf("%d: %s", m.Header.Sequence-first, what))
			if m.Header.Type == netlink.Error && m.Header.Sequence == last {
				return all
			}
		}
	}
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (w *witness) send(c *netlink.Conn, messages ...netlink.Message) (first, last uint32) {
	w.t.Helper()
	sent, err := c.SendMessages(messages)
	if err != nil {
		w.t.Fatal(err)
	}
	return sent[0].Header.Sequence, sent[len(sent)-1].Header.Sequence
}

const create = netlink.Create | netlink.Excl

// A batch is answered where it asked for it, and where something failed.
func TestBatchAnswers(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		c := w.dial()
		first, last := w.send(c,
			w.routeMessage(unix.RTM_NEWROUTE, create, "10.1.0.0/24 via 10.0.0.2 proto 104"),
			w.routeMessage(unix.RTM_NEWROUTE, create, "10.2.0.0/24 via 10.9.9.9 proto 104"),
			w.routeMessage(unix.RTM_NEWROUTE, create, "10.3.0.0/24 via 10.0.0.2 proto 104"),
			w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Acknowledge, "10.1.0.0/24 via 10.0.0.2 proto 104"),
			w.routeMessage(unix.RTM_DELROUTE, 0, "10.4.0.0/24 proto 104"),
			w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Acknowledge, "fd01::/64 via fd00::2 proto 104"),
		)
		want(t, "answers", w.answers(c, first, last),
			"1: ENETUNREACH: Nexthop has invalid gateway",
			"3: EEXIST",
			"4: ESRCH",
			"5: acknowledged",
		)
		routes := strings.Join(w.dump(), "\n")
		for _, p := range []string{"10.1.0.0/24", "10.3.0.0/24", "fd01::/64"} {
			if !strings.Contains(routes, p) {
				t.Errorf("no route to %s in\n%s", p, routes)
			}
		}
	})
}

// A requester that is a member of the group hears of its own change, before the
// acknowledgement.
func TestRequesterHears(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		c := w.dial(unix.RTNLGRP_IPV4_ROUTE)
		first, last := w.send(c,
			w.routeMessage(unix.RTM_NEWROUTE, create, "10.1.0.0/24 via 10.0.0.2 proto 104"),
			w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Echo|netlink.Acknowledge, "10.2.0.0/24 via 10.0.0.2 proto 104"),
		)
		w.names[0] = ""
		got := w.answers(c, first, last)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], fmt.Sprintf(" (of %d, sequence %d)", c.PID(), first+uint32(i)), " (own)")
		}
		want(t, "answers", got,
			"0: +10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 (own)",
			"1: +10.2.0.0/24 via 10.0.0.2 dev eth0 proto 104 (own)",
			"1: acknowledged",
		)
	})
}

// What is in an answer depends on the socket's options.
func TestAnswerOptions(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		for _, test := range []struct {
			extended, capped bool
			want             string
		}{
			{true, true, "ENETUNREACH: Nexthop has invalid gateway"},
			{true, false, "ENETUNREACH: Nexthop has invalid gateway"},
			{false, true, "ENETUNREACH"},
			{false, false, "ENETUNREACH"},
		} {
			c := w.dial()
			for option, on := range map[netlink.ConnOption]bool{netlink.ExtendedAcknowledge: test.extended, netlink.CapAcknowledge: test.capped} {
				if err := c.SetOption(option, on); err != nil {
					t.Fatal(err)
				}
			}
			bad := w.routeMessage(unix.RTM_NEWROUTE, create, "10.2.0.0/24 via 10.9.9.9")
			_, err := c.Execute(bad)
			if got := refusal(err); test.extended && test.capped {
				// netlink cannot find the text in a capped answer.
				if !strings.HasPrefix(got, "ENETUNREACH") && !strings.Contains(got, "not enough data") {
					t.Errorf("%+v: refused with %q", test, got)
				}
			} else if got != test.want {
				t.Errorf("%+v: refused with %q", test, got)
			}
		}
	})
}

// A dump can be narrowed down if the socket checks strictly.
func TestDumpFilters(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		w.do("add 10.1.0.0/24 via 10.0.0.2 proto 104")
		w.do("add 10.1.0.0/24 via 10.0.0.2 proto 104 table 1000")
		w.do("add fd01::/64 via fd00::2 proto 104")
		dump := func(c *netlink.Conn, typ netlink.HeaderType, data []byte) ([]string, bool) {
			messages, err := c.Execute(netlink.Message{
				Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump},
				Data:   data,
			})
			if err != nil {
				return []string{refusal(err)}, false
			}
			var all []string
			filtered := false
			for _, m := range messages {
				words, _ := w.event(m, m.Header.Sequence)
				words, _, _ = strings.Cut(words, " (of")
				if !strings.Contains(words, " lo") && !strings.Contains(words, " table 255") {
					all = append(all, words)
				}
				filtered = filtered || m.Header.Flags&netlink.DumpFiltered != 0
			}
			return all, filtered
		}
		routes := func(family, table, protocol byte, oif string) []byte {
			b := []byte{family, 0, 0, 0, table, protocol, 0, 0, 0, 0, 0, 0}
			if oif != "" {
				ae := netlink.NewAttributeEncoder()
				for index, name := range w.names {
					if name == oif {
						ae.Uint32(unix.RTA_OIF, index)
					}
				}
				attrs, err := ae.Encode()
				if err != nil {
					t.Fatal(err)
				}
				b = append(b, attrs...)
			}
			return b
		}
		strict := w.dial()
		loose := w.dial()
		if err := loose.SetOption(netlink.GetStrictCheck, false); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name     string
			c        *netlink.Conn
			data     []byte
			want     string
			filtered bool
		}{
			{"main", strict, routes(unix.AF_INET, unix.RT_TABLE_MAIN, 0, ""), "+10.0.0.0/24 +10.1.0.0/24", true},
			{"protocol", strict, routes(unix.AF_INET, 0, 104, ""), "+10.1.0.0/24 +10.1.0.0/24", true},
			{"both families", strict, routes(unix.AF_UNSPEC, unix.RT_TABLE_MAIN, 104, ""), "+10.1.0.0/24 +fd01::/64", true},
			{"interface", strict, routes(unix.AF_INET, unix.RT_TABLE_MAIN, 0, "eth1"), "", true},
			{"missing table", strict, routes(unix.AF_INET, 77, 0, ""), "ENOENT: ipv4: FIB table does not exist", false},
			{"missing IPv6 table", strict, routes(unix.AF_INET6, 77, 0, ""), "ENOENT: ipv6: FIB table does not exist", false},
			{"missing table, both families", strict, routes(unix.AF_UNSPEC, 77, 0, ""), "", false},
			{"destination", strict, []byte{unix.AF_INET, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "EINVAL: Invalid values in header for FIB dump request", false},
			{"short", strict, []byte{unix.AF_INET, 0, 0, 0}, "EINVAL: Invalid header for FIB dump request", false},
			{"attribute", strict, append(routes(unix.AF_INET, 0, 0, ""), 8, 0, unix.RTA_GATEWAY, 0, 10, 0, 0, 1), "EINVAL: Unsupported attribute in dump request", false},
			{"IPv6 attribute", strict, append(routes(unix.AF_INET6, 0, 0, ""), 8, 0, unix.RTA_PRIORITY, 0, 10, 0, 0, 1), "EINVAL: Unsupported attribute in dump request", false},
			{"not strict", loose, routes(unix.AF_INET, 77, 104, ""), "+10.0.0.0/24 +10.1.0.0/24 +10.1.0.0/24", false},
		} {
			got, filtered := dump(test.c, unix.RTM_GETROUTE, test.data)
			for i, s := range got {
				if strings.HasPrefix(s, "+") {
					got[i], _, _ = strings.Cut(s, " ")
				}
			}
			slices.Sort(got) // the order of tables is the kernel's own
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("%s: %s, want %s", test.name, s, test.want)
			}
			if len(got) > 0 && filtered != test.filtered {
				t.Errorf("%s: told as filtered: %t", test.name, filtered)
			}
		}

		addrs := func(family byte, index uint32) []byte {
			return binary.NativeEndian.AppendUint32([]byte{family, 0, 0, 0}, index)
		}
		var eth0 uint32
		for index, name := range w.names {
			if name == "eth0" {
				eth0 = index
			}
		}
		for _, test := range []struct {
			name string
			c    *netlink.Conn
			data []byte
			want string
		}{
			{"all addresses", strict, addrs(0, 0), "+addr 10.0.0.1/24 eth0, +addr fd00::1/64 eth0"},
			{"IPv6 addresses", strict, addrs(unix.AF_INET6, 0), "+addr fd00::1/64 eth0"},
			{"addresses of eth0", strict, addrs(0, eth0), "+addr 10.0.0.1/24 eth0, +addr fd00::1/64 eth0"},
			{"addresses of nothing", strict, addrs(unix.AF_INET, 999), "ENODEV"},
			{"addresses of nothing, not strict", loose, addrs(unix.AF_INET, 999), "+addr 10.0.0.1/24 eth0"},
		} {
			got, _ := dump(test.c, unix.RTM_GETADDR, test.data)
			if s := strings.Join(got, ", "); s != test.want {
				t.Errorf("%s: %s, want %s", test.name, s, test.want)
			}
		}
	})
}

// A way to one address, and a link by name or index.
func TestSingleAnswers(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		w.do("add 10.1.0.0/24 via 10.0.0.2 proto 104")
		w.do("add fd01::/64 via fd00::2 proto 104")
		w.names[1] = "lo"
		for to, way := range map[string]string{
			"10.1.0.7": "10.1.0.7/32 via 10.0.0.2 dev eth0 src 10.0.0.1",
			"10.0.0.7": "10.0.0.7/32 dev eth0 src 10.0.0.1",
			"10.0.0.1": "local 10.0.0.1/32 dev lo src 10.0.0.1",
			"10.9.0.1": "ENETUNREACH",
			"fd01::7":  "fd01::7/128 via fd00::2 dev eth0 src fd00::1",
			"fd00::1":  "local fd00::1/128 dev lo src fd00::1",
			"fd09::1":  "ENETUNREACH",
		} {
			ip := netip.MustParseAddr(to)
			rtm := make([]byte, unix.SizeofRtMsg)
			rtm[0], rtm[1] = unix.AF_INET6, byte(ip.BitLen())
			if ip.Is4() {
				rtm[0] = unix.AF_INET
			}
			ae := netlink.NewAttributeEncoder()
			ae.Bytes(unix.RTA_DST, ip.AsSlice())
			attrs, err := ae.Encode()
			if err != nil {
				t.Fatal(err)
			}
			answer, err := w.c.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
				Data:   append(rtm, attrs...),
			})
			got := refusal(err)
			if err == nil {
				// Of the route that led there the answer says more or less.
				got = w.words(answer[0].Data)
				before, after, _ := strings.Cut(got, " proto ")
				got = before + after[strings.Index(after, " src "):]
			}
			if got != way {
				t.Errorf("way to %s: %q, want %q", to, got, way)
			}
		}
		for name, there := range map[string]string{"eth0": "", "eth7": "ENODEV"} {
			ae := netlink.NewAttributeEncoder()
			ae.String(unix.IFLA_IFNAME, name)
			attrs, err := ae.Encode()
			if err != nil {
				t.Fatal(err)
			}
			answer, err := w.c.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
				Data:   append(ifinfo(0, 0, 0), attrs...),
			})
			if got := refusal(err); got != there || err == nil && len(answer) != 1 {
				t.Errorf("link %s: %q and %d answers, want %q", name, got, len(answer), there)
			}
		}
	})
}

// A socket that is not read loses events. It is told once, keeps what it has,
// and hears again when it has been read empty.
func TestOverrun(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		c := w.dial(unix.RTNLGRP_IPV4_ROUTE)
		if err := c.SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		const n = 200
		for i := range n {
			if _, refused := w.route(unix.RTM_NEWROUTE, create, fmt.Sprintf("10.1.%d.0/24 via 10.0.0.2", i)); refused != "" {
				t.Fatal(refused)
			}
		}
		if _, err := c.Receive(); !errors.Is(err, unix.ENOBUFS) {
			t.Fatalf("first receive: %v, want ENOBUFS", err)
		}
		read := func() (events, deleted int) {
			for {
				if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				messages, err := c.Receive()
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return events, deleted
				}
				if err != nil {
					t.Fatal(err)
				}
				events += len(messages)
				for _, m := range messages {
					if m.Header.Type == unix.RTM_DELROUTE {
						deleted++
					}
				}
			}
		}
		// One that has only been read in part still loses what comes, and is not
		// told of that again.
		if messages, err := c.Receive(); err != nil || len(messages) != 1 {
			t.Fatalf("second receive: %d events, %v", len(messages), err)
		}
		w.route(unix.RTM_DELROUTE, 0, "10.1.1.0/24")
		kept, deleted := read()
		if kept < 2 || kept > n/2 || deleted > 0 {
			t.Errorf("%d of %d events were kept, %d of the deletion", kept, n, deleted)
		}
		w.route(unix.RTM_DELROUTE, 0, "10.1.0.0/24")
		if after, deleted := read(); after != 1 || deleted != 1 {
			t.Errorf("%d events after the overrun, want 1", after)
		}
	})
}

// A receive ends when its time is over or its socket closed, in the shape that
// netlink gives that.
func TestReceiveEnds(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		c := w.dial()
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		// A close that comes before the receive is the other case.
		for attempt := 0; ; attempt++ {
			ended := make(chan error)
			go func() {
				ended <- nil
				_, err := c.Receive()
				ended <- err
			}()
			<-ended
			runtime.Gosched()
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			err := <-ended
			if err != nil && strings.HasSuffix(err.Error(), "use of closed file") && !errors.Is(err, os.ErrClosed) {
				break
			}
			if !errors.Is(err, unix.EBADF) || attempt == 10000 {
				t.Fatalf("closed meanwhile: %v", err)
			}
			c = w.dial()
		}
		if _, err := c.Receive(); !errors.Is(err, unix.EBADF) {
			t.Errorf("receive after close: %v", err)
		}
		if _, err := c.Send(w.routeMessage(unix.RTM_DELROUTE, 0, "10.1.0.0/24")); !errors.Is(err, unix.EBADF) {
			t.Errorf("send after close: %v", err)
		}
	})
}

// A route with several next hops in one request.
func TestMultipath(t *testing.T) {
	both(t, func(t *testing.T, w *witness) {
		for _, test := range []struct{ dst, a, b, want string }{
			{"10.1.0.0/24", "10.0.0.2", "10.0.0.3", "10.1.0.0/24 proto 104 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.0.3 dev eth0"},
			{"fd01::/64", "fd00::2", "fd00::3", "fd01::/64 proto 104 metric 1024 nexthop via fd00::2 dev eth0 nexthop via fd00::3 dev eth0"},
		} {
			m := w.routeMessage(unix.RTM_NEWROUTE, create|netlink.Acknowledge, test.dst+" proto 104")
			if m.Data[0] == unix.AF_INET {
				m.Data[6] = unix.RT_SCOPE_UNIVERSE
			}
			var hops []byte
			for _, gateway := range []string{test.a, test.b} {
				ae := netlink.NewAttributeEncoder()
				ae.Bytes(unix.RTA_GATEWAY, netip.MustParseAddr(gateway).AsSlice())
				attrs, err := ae.Encode()
				if err != nil {
					t.Fatal(err)
				}
				hops = binary.NativeEndian.AppendUint16(hops, uint16(unix.SizeofRtNexthop+len(attrs)))
				hops = append(hops, 0, 0, 0, 0, 0, 0)
				hops = append(hops, attrs...)
			}
			ae := netlink.NewAttributeEncoder()
			ae.Bytes(unix.RTA_MULTIPATH, hops)
			attrs, err := ae.Encode()
			if err != nil {
				t.Fatal(err)
			}
			m.Data = append(m.Data, attrs...)
			if _, err := w.c.Execute(m); err != nil {
				t.Errorf("%s: %s", test.dst, refusal(err))
			}
			if got := strings.Join(w.dump(), "\n"); !strings.Contains(got, test.want) {
				t.Errorf("%s: routes\n%s\nwant\n%s", test.dst, got, test.want)
			}
		}
	})
}
