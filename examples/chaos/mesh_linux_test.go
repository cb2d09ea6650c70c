package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// interval is how far apart two probes of one path are.
const interval = 10 * time.Millisecond

const probePort = 4242

// mesh sends a UDP packet from every container to every other one, every 10 ms,
// and keeps account of those that did not arrive. One packet each way instead of a
// request and its answer tells which of two routes a loss was on. A container has
// one socket for all its paths: ninety sockets that are shown every ICMP packet,
// as ping's are, would take more CPU than all that is being tested.
type mesh struct {
	nodes []*node
	conns []*net.UDPConn
	stop  chan struct{}
	work  sync.WaitGroup

	mu    sync.Mutex
	paths [][]path      // [from][to]
	pause time.Duration // the longest time between two rounds of one sender
	sent  int
	err   error // of a socket
}

// path is what is on its way from one container to another: the probes since
// number base.
type path struct {
	base   uint64
	probes []probe
}

type probe struct {
	at      time.Time
	arrived bool
}

// loss is a probe that did not arrive.
type loss struct {
	from, to *node
	at       time.Time
}

func startMesh(t *testing.T, nodes []*node) *mesh {
	t.Helper()
	m := &mesh{nodes: nodes, stop: make(chan struct{})}
	for _, n := range nodes {
		m.paths = append(m.paths, make([]path, len(nodes)))
		var conn *net.UDPConn
		err := n.container.Do(func() (err error) {
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: probePort})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		m.conns = append(m.conns, conn)
		// So large that this process may be kept waiting for long without a packet
		// being lost for it.
		raw, err := conn.SyscallConn()
		if err == nil {
			cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) })
			err = errors.Join(err, cerr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range nodes {
		m.work.Go(func() { m.receive(i) })
	}
	var senders sync.WaitGroup
	for i := range nodes {
		senders.Go(func() { m.send(i, interval/time.Duration(len(nodes))*time.Duration(i)) })
	}
	m.work.Go(func() {
		senders.Wait()
		for _, c := range m.conns {
			c.Close()
		}
	})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(m.stop); m.work.Wait() }) })
	return m
}

func (m *mesh) send(from int, delay time.Duration) {
	time.Sleep(delay) // so that not all send at the same moment
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	buf := make([]byte, 24) // from, to, number
	binary.BigEndian.PutUint64(buf, uint64(from))
	var last time.Time
	for {
		for to, n := range m.nodes {
			if to == from {
				continue
			}
			m.mu.Lock()
			p := &m.paths[from][to]
			now := time.Now()
			binary.BigEndian.PutUint64(buf[8:], uint64(to))
			binary.BigEndian.PutUint64(buf[16:], p.base+uint64(len(p.probes)))
			p.probes = append(p.probes, probe{at: now})
			m.sent++
			m.mu.Unlock()
			// The container can always send: what goes wrong does so on the hosts.
			if _, err := m.conns[from].WriteToUDPAddrPort(buf, netip.AddrPortFrom(n.container.IPv4, probePort)); err != nil {
				m.fail(err)
				return
			}
		}
		now := time.Now()
		if !last.IsZero() {
			m.mu.Lock()
			m.pause = max(m.pause, now.Sub(last))
			m.mu.Unlock()
		}
		last = now
		select {
		case <-ticker.C:
		case <-m.stop:
			return
		}
	}
}

func (m *mesh) receive(at int) {
	buf := make([]byte, 64)
	for {
		n, err := m.conns[at].Read(buf)
		if err != nil {
			select {
			case <-m.stop:
			default:
				m.fail(err)
			}
			return
		}
		from, to, number := binary.BigEndian.Uint64(buf), binary.BigEndian.Uint64(buf[8:]), binary.BigEndian.Uint64(buf[16:])
		if n != 24 || to != uint64(at) || from >= uint64(len(m.nodes)) {
			m.fail(fmt.Errorf("a packet that no probe is: % x", buf[:n]))
			return
		}
		m.mu.Lock()
		p := &m.paths[from][to]
		if i := number - p.base; number >= p.base && i < uint64(len(p.probes)) {
			p.probes[i].arrived = true
		}
		m.mu.Unlock()
	}
}

func (m *mesh) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = errors.Join(m.err, err)
}

// account is what became of the probes of a while.
type account struct {
	sent  int
	pause time.Duration // the longest between two probes of a path
	lost  []loss
}

// account waits until all probes sent up to now have arrived, a second at most,
// and returns what became of those since it was last called.
func (m *mesh) account(t *testing.T) account {
	t.Helper()
	until := time.Now()
	due := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, row := range m.paths {
			for _, p := range row {
				for _, probe := range p.probes {
					if !probe.arrived && !probe.at.After(until) {
						return true
					}
				}
			}
		}
		return false
	}
	for due() && time.Since(until) < time.Second {
		time.Sleep(interval)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		t.Fatalf("probing: %v", m.err)
	}
	a := account{sent: m.sent, pause: m.pause}
	m.sent, m.pause = 0, 0
	for i, row := range m.paths {
		for j := range row {
			p := &m.paths[i][j]
			n := 0
			for n < len(p.probes) && !p.probes[n].at.After(until) {
				if !p.probes[n].arrived {
					a.lost = append(a.lost, loss{m.nodes[i], m.nodes[j], p.probes[n].at})
				}
				n++
			}
			p.base += uint64(n)
			p.probes = append([]probe(nil), p.probes[n:]...)
		}
	}
	return a
}
