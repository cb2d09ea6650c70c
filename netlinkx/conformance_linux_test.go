package netlinkx_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/netlinkx/programmertest"
)

func TestConformanceOnLinux(t *testing.T) {
	programmertest.Test(t, func(t *testing.T) programmertest.Host {
		n := newNamespace(t)
		return &realHost{reader: newReader(t, n.Dial), namespace: n}
	})
}

func TestConformanceOnFake(t *testing.T) {
	programmertest.Test(t, func(t *testing.T) programmertest.Host {
		k := newFake()
		return &fakeHost{reader: newReader(t, k.Dial), Kernel: k}
	})
}

// newFake is a fake kernel with the uplink that a namespace has.
func newFake() *netlinktest.Kernel {
	k := netlinktest.New()
	k.AddLink("eth0")
	k.SetUp("eth0", true)
	k.AddAddr("eth0", programmertest.IPv4)
	k.AddAddr("eth0", programmertest.IPv6)
	return k
}

// reader reads routes through a DialFunc, with other code than the programmer's.
type reader struct {
	t    *testing.T
	dial netlinkx.DialFunc
}

func newReader(t *testing.T, dial netlinkx.DialFunc) reader { return reader{t, dial} }

func (r reader) Programmer() programmertest.Programmer {
	p, err := netlinkx.NewProgrammer(netlinkx.Config{
		Uplink: netlinkx.Uplink{Name: "eth0"},
		Dial:   r.dial,
		Logger: slog.New(slog.NewTextHandler(&testLog{t: r.t}, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (r reader) Routes() []programmertest.Route {
	r.t.Helper()
	c, err := r.dial()
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	var out []programmertest.Route
	for _, m := range dumpRoutes(r.t, c) {
		dst, _ := netip.AddrFromSlice(m.Attributes.Dst)
		gw, _ := netip.AddrFromSlice(m.Attributes.Gateway)
		p := netip.PrefixFrom(dst, int(m.DstLength))
		if m.Attributes.Table == 254 && slices.ContainsFunc(programmertest.Networks, func(n netip.Prefix) bool { return n.Overlaps(p) }) {
			out = append(out, programmertest.Route{Route: netlinkx.Route{Subnet: p, Gateway: gw}, Ours: m.Protocol == netlinkx.DefaultProtocol})
		}
	}
	return out
}

// realHost is a namespace as programmertest wants it.
type realHost struct {
	reader
	*namespace
}

func (h *realHost) AddRoute(r netlinkx.Route) {
	h.ip(fmt.Sprintf("route add %s via %s proto static", r.Subnet, r.Gateway))
}

func (h *realHost) DelRoute(r netlinkx.Route) {
	h.ip(fmt.Sprintf("route del %s via %s", r.Subnet, r.Gateway))
}

func (h *realHost) SetUp(up bool) {
	if !up {
		h.ip("link set eth0 down")
		return
	}
	h.ip("link set eth0 up")
	h.AddAddr(programmertest.IPv6) // Linux takes IPv6 addresses away with the link
}

func (h *realHost) AddAddr(p netip.Prefix) {
	if p.Addr().Is6() {
		h.ip(fmt.Sprintf("address add %s dev eth0 nodad", p))
	} else {
		h.ip(fmt.Sprintf("address add %s dev eth0", p))
	}
}

func (h *realHost) DelAddr(p netip.Prefix) { h.ip(fmt.Sprintf("address del %s dev eth0", p)) }

func (h *realHost) Dial(groups ...uint32) (*netlink.Conn, error) { return h.namespace.Dial(groups...) }

// fakeHost is a fake kernel as programmertest wants it.
type fakeHost struct {
	reader
	*netlinktest.Kernel
}

func (h *fakeHost) Routes() []programmertest.Route { return h.reader.Routes() }

func (h *fakeHost) AddRoute(r netlinkx.Route) {
	h.must(h.Kernel.AddRoute(netlinktest.Route{Dst: r.Subnet, Gateway: r.Gateway, Protocol: 4}))
}

func (h *fakeHost) DelRoute(r netlinkx.Route) {
	h.must(h.Kernel.DelRoute(netlinktest.Route{Dst: r.Subnet, Gateway: r.Gateway}))
}

func (h *fakeHost) SetUp(up bool) {
	h.Kernel.SetUp("eth0", up)
	if up {
		h.AddAddr(programmertest.IPv6)
	}
}

func (h *fakeHost) AddAddr(p netip.Prefix) { h.Kernel.AddAddr("eth0", p) }
func (h *fakeHost) DelAddr(p netip.Prefix) { h.Kernel.DelAddr("eth0", p) }

func (h *fakeHost) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}
