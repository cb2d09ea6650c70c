package netlinkx

import (
	"testing"

	"github.com/mdlayher/netlink"
)

// The kernel does not deliver the events that our requests cause, and all others.
func TestEchoesAreMute(t *testing.T) {
	inNamespace(t, func() {
		events, err := dialEvents(dialKernel)
		if err != nil {
			t.Error(err)
			return
		}
		defer events.Close()
		ours, err := dialRequests(dialKernel)
		if err != nil {
			t.Error(err)
			return
		}
		defer ours.Close()
		theirs, err := dialRequests(dialKernel)
		if err != nil {
			t.Error(err)
			return
		}
		defer theirs.Close()
		muteEchoes(events, ours.PID())

		add := func(c *requestConn, p string) {
			if a, err := c.ask([]request{blackhole(opAdd, p)}, tableMain); err != nil || a[0].outcome != outcomeDone {
				t.Errorf("adding %s: %v, %v", p, a, err)
			}
		}
		add(ours, "10.5.1.0/24")
		add(theirs, "10.5.2.0/24")
		add(ours, "10.5.3.0/24")
		add(theirs, "10.5.4.0/24")
		for _, want := range []string{"10.5.2.0/24", "10.5.4.0/24"} {
			var msgs []netlink.Message
			if msgs, err = events.Receive(); err != nil {
				t.Error(err)
				return
			}
			if r, _, _, err := decodeRoute(msgs[0].Data); err != nil || r.subnet.String() != want {
				t.Errorf("heard of %v, want %s: %v", r.subnet, want, err)
			}
		}
	})
}

// Sequence numbers go round without confusing anything.
func TestSequenceGoesRound(t *testing.T) {
	inNamespace(t, func() {
		c, err := dialRequests(dialKernel)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.seq = 1<<32 - 4
		for range 4 {
			// Nothing is on-link in a fresh namespace.
			qs := []request{
				{op: opAdd, route: held("10.5.1.0/24 192.0.2.7", through(0))},
				blackhole(opAdd, "10.5.2.0/24"),
				blackhole(opRemove, "10.5.2.0/24"),
			}
			a, err := c.ask(qs, tableMain)
			if err != nil {
				t.Error(err)
				return
			}
			if a[0].outcome != outcomeRefused || a[1].outcome != outcomeDone || a[2].outcome != outcomeDone {
				t.Errorf("after number %d: %v", c.seq, a)
			}
		}
	})
}
