package etcdtest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and a server, to part them.
type Proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	frozen  bool
	delay   time.Duration
	changed chan struct{} // closed and replaced when one of the two changes
	conns   map[net.Conn]bool
	closed  bool
	work    sync.WaitGroup
}

// StartProxy listens on the loopback and forwards to target until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	p := &Proxy{listener: l, target: target, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.change(func() { p.frozen, p.delay = false, 0 })
		p.Cut()
		p.work.Wait()
	})
	return p
}

// Endpoint is where the proxy listens.
func (p *Proxy) Endpoint() string { return "http://" + p.listener.Addr().String() }

// Freeze lets nothing through any more, in either direction. Connections stay,
// and new ones are accepted, as by a server that hangs.
func (p *Proxy) Freeze() { p.change(func() { p.frozen = true }) }

// Thaw lets through what waited, and all that comes.
func (p *Proxy) Thaw() { p.change(func() { p.frozen = false }) }

// Delay has everything take d longer from now on, in each direction. What is on
// its way takes as long as what comes.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut breaks all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	if !p.track(c, true) {
		return
	}
	defer p.track(c, false)
	p.wait(time.Now())
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer s.Close()
	if !p.track(s, true) {
		return
	}
	defer p.track(s, false)
	var back sync.WaitGroup
	back.Go(func() { p.copy(c, s) })
	p.copy(s, c)
	back.Wait()
}

// track keeps the connections that Cut breaks. It reports whether the proxy is
// still open.
func (p *Proxy) track(c net.Conn, open bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !open {
		delete(p.conns, c)
		return true
	}
	p.conns[c] = true
	return !p.closed
}

// wait waits until what came at a moment may go on.
func (p *Proxy) wait(came time.Time) {
	for {
		p.mu.Lock()
		frozen, due, changed := p.frozen, came.Add(p.delay), p.changed
		p.mu.Unlock()
		var over <-chan time.Time
		if !frozen {
			left := time.Until(due)
			if left <= 0 {
				return
			}
			over = time.After(left)
		}
		select {
		case <-over:
		case <-changed:
		}
	}
}

// arrival is what was read at once.
type arrival struct {
	at    time.Time
	bytes []byte
}

// underWay is how many arrivals may wait, each of up to 32 KiB. Whoever sends more
// has to wait as well.
const underWay = 64

// copy copies until either end is closed, and then closes both.
func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	arrivals, done := make(chan arrival, underWay), make(chan struct{})
	var reader sync.WaitGroup
	defer reader.Wait()
	defer from.Close()
	defer close(done)
	reader.Go(func() {
		defer close(arrivals)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case arrivals <- arrival{time.Now(), buf[:n]}:
				case <-done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for a := range arrivals {
		p.wait(a.at)
		if _, err := to.Write(a.bytes); err != nil {
			return
		}
	}
}
