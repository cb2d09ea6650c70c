package etcdtest

import (
	"net"
	"sync"
	"testing"
)

// Proxy stands between clients and a server, to part them.
type Proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	gate   chan struct{} // closed while bytes flow
	conns  map[net.Conn]bool
	closed bool
	work   sync.WaitGroup
}

// StartProxy listens on the loopback and forwards to target until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("etcdtest: %v", err)
	}
	p := &Proxy{listener: l, target: target, gate: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.gate)
	p.work.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Thaw()
		p.Cut()
		p.work.Wait()
	})
	return p
}

// Endpoint is where the proxy listens.
func (p *Proxy) Endpoint() string { return "http://" + p.listener.Addr().String() }

// Freeze lets nothing through any more, in either direction. Connections stay,
// and new ones are accepted, as by a server that hangs.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

// Thaw lets through what waited, and all that comes.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
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
	p.wait()
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

func (p *Proxy) wait() {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	<-gate
}

// copy copies until either end is closed, and then closes both.
func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.wait()
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}
