package netlinkx

import (
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx/netlinktest"
)

// onBothKernels calls f with a socket of the real kernel, in a network namespace of its
// own, and with one of the fake kernel. Both have an interface called lo, and room for
// blackhole routes. f must not end the test.
func onBothKernels(t *testing.T, f func(t *testing.T, c *requestConn)) {
	on := func(t *testing.T, dial DialFunc) {
		c, err := dialRequests(dial)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		f(t, c)
	}
	t.Run("real", func(t *testing.T) { inNamespace(t, func() { on(t, dialKernel) }) })
	t.Run("fake", func(t *testing.T) { on(t, netlinktest.New().Dial) })
}

// inNamespace calls f in a network namespace of its own, in which there is only lo.
// f must not end the test.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with this goroutine, and the namespace with its sockets
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// blackhole is a request about a route that needs no gateway.
func blackhole(op operation, p string) request {
	const kind = 6
	return request{op: op, route: kernelRoute{subnet: netip.MustParsePrefix(p), protocol: 104, kind: kind}}
}

// Answers that come after nobody waited for them any more are not taken for those to
// the next questions.
func TestLateAnswers(t *testing.T) {
	onBothKernels(t, func(t *testing.T, c *requestConn) {
		leave := func(q request) {
			c.seq++
			m, _ := q.message(nil, tableMain)
			m.Header.Flags |= netlink.Acknowledge
			m.Header.Sequence = c.seq
			if _, err := c.SendMessages([]netlink.Message{m}); err != nil {
				t.Error(err)
			}
		}
		find := func(after string) {
			if u, ok, err := c.findLink("lo"); err != nil || !ok {
				t.Errorf("after %s lo is %+v, %v, %v", after, u, ok, err)
			}
		}
		leave(blackhole(opAdd, "10.5.1.0/24"))
		find("an acknowledgement")
		leave(blackhole(opRemove, "10.5.9.0/24"))
		find("a refusal")
		leave(blackhole(opAdd, "10.5.2.0/24"))
		leave(blackhole(opAdd, "10.5.2.0/24"))
		var seen []netip.Prefix
		err := c.routes(tableMain, func() {}, func(r kernelRoute, _ uint32) {
			if r.protocol == 104 {
				seen = append(seen, r.subnet)
			}
		})
		if err != nil || len(seen) != 2 {
			t.Errorf("after both the routes are %v, %v", seen, err)
		}
		leave(blackhole(opAdd, "10.5.2.0/24"))
		if a, err := c.ask([]request{blackhole(opAdd, "10.5.3.0/24")}, tableMain); err != nil || a[0].outcome != outcomeDone {
			t.Errorf("after another refusal a request is answered %v, %v", a, err)
		}
		find("all that")
	})
}

// A process that gets no time to read until it should have heard the answers finds
// them where they are.
func TestAnswersReadLate(t *testing.T) {
	onBothKernels(t, func(t *testing.T, c *requestConn) {
		c.patience = 1 // is over before anything can be read
		a, err := c.ask([]request{blackhole(opAdd, "10.5.1.0/24"), blackhole(opRemove, "10.5.9.0/24"), blackhole(opAdd, "10.5.2.0/24")}, tableMain)
		if err != nil || a[0].outcome != outcomeDone || a[1].outcome != outcomeAbsent || a[2].outcome != outcomeDone {
			t.Errorf("answers %v, %v", a, err)
		}
	})
}
