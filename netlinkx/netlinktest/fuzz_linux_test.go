package netlinktest_test

import (
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FuzzRequest sends what no program should. Each request has to be answered, and
// the routes have to be readable after it.
func FuzzRequest(f *testing.F) {
	w := &witness{t: f, names: map[uint32]string{2: "eth0"}, links: map[string]linkState{"eth0": {}}}
	for _, words := range []string{"10.1.0.0/24 via 10.0.0.2 dev eth0 proto 104 metric 7 src 10.0.0.1", "fd01::/64 via fd00::2 table 1000 onlink", "blackhole 10.0.0.0/8"} {
		for _, typ := range []netlink.HeaderType{unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_GETROUTE} {
			f.Add(uint16(typ), uint16(netlink.Create), w.routeMessage(typ, 0, words).Data)
		}
	}
	f.Add(uint16(unix.RTM_GETADDR), uint16(netlink.Dump), make([]byte, unix.SizeofIfAddrmsg))
	f.Add(uint16(unix.RTM_GETLINK), uint16(0), ifinfo(2, 0, 0))
	f.Fuzz(func(t *testing.T, typ, flags uint16, data []byte) {
		if len(data)%4 != 0 {
			return
		}
		k := newUplink()
		w := &witness{t: t, h: k, names: map[uint32]string{1: "lo", 2: "eth0"}}
		w.c = w.dial()
		const ack = netlink.Request | netlink.Acknowledge
		sent, err := w.c.SendMessages([]netlink.Message{
			{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.HeaderFlags(flags) | ack}, Data: data},
			{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: ack}, Data: ifinfo(99, 0, 0)}, // there is no such
		})
		if err != nil {
			t.Fatal(err)
		}
		for answered := false; ; {
			messages, err := w.c.Receive()
			op, _ := errors.AsType[*netlink.OpError](err)
			if op != nil && op.Sequence == sent[1].Header.Sequence {
				if !answered && netlink.HeaderFlags(flags)&netlink.Dump != netlink.Dump {
					t.Fatal("no answer")
				}
				break
			}
			answered = answered || op != nil || len(messages) > 0
		}
		w.dump()
		k.Routes()
		k.RemoveLink("eth0")
		w.dump()
	})
}
