package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// host is a machine: a kernel, addresses, a disk with subnet.env on it, a way to
// the store, and a daemon that may or may not run. Fields marked so are guarded
// by the ledger's lock; the others belong to the driver.
type host struct {
	c      *cluster
	number int
	name   string
	kernel kernel
	move   bool // hostgw.Config.Move
	up     bool // the uplink

	ipv4, ipv6 netip.Addr     // ledger
	addrs      []netip.Prefix // ledger; of the uplink
	env        subnet.Key     // ledger; the subnet that subnet.env names
	envConfig  subnet.Config  // ledger; whose networks it names
	run        *run           // ledger; nil while no daemon runs
	runs       []*run         // ledger; all there ever were
	releasing  bool           // ledger
	foreign    map[netip.Prefix]netip.Addr

	faults    memory.Faults // ledger; without the usual latency
	late      time.Time     // ledger; when what was sent slowly has arrived
	calmSince time.Time     // ledger; since when the daemon runs without any faults, in future perhaps; zero if it does not
	downAt    time.Time     // ledger; when it last became cut off
	upSince   time.Time     // ledger; since when the store can be reached, however slowly
	replayed  time.Time     // ledger; when the store last showed it old events again
	heard     time.Time     // ledger; what happened until then the daemon had heard of when calm ended
}

// run is one life of a daemon.
type run struct {
	host     *host
	instance string
	m        *hostgw.Manager
	store    *memory.Store
	cancel   context.CancelFunc
	done     chan struct{} // closed when Run has returned
	flight   sync.WaitGroup
	previous subnet.Key
	started  time.Time

	err      error           // ledger; what Run returned
	ended    bool            // ledger; Run returned by itself
	zombie   bool            // ledger; crashed, and its messages under way still arrive
	held     bool            // ledger; a lease
	heldAt   time.Time       // ledger; since when
	moved    time.Time       // ledger; when it got another one than before; zero if it did not
	record   subnet.Record   // ledger; that lease
	networks []netip.Prefix  // ledger; those it was told of
	current  []netip.Prefix  // ledger; those it was told of last
	last     subnet.Snapshot // ledger; the last it read, or was told first
	asked    time.Time       // ledger; no later than when that was so
	gave     stored          // ledger; a lease that it dropped though it fits
	snapped  time.Time       // ledger; when it was last told all that the store holds
	absent   bool            // ledger; it asked for a lease because it found none of its own
}

// has reports whether an address of the holder is this host's.
func (h *host) has(o subnet.Holder) bool {
	return o.Same(subnet.Holder{PublicIP: h.ipv4, PublicIPv6: h.ipv6})
}

// local says what in this host itself forbids the way w: the rules of invariant
// 2, but for the network. It returns "" if nothing does.
func (h *host) local(w way) string {
	switch {
	case w.gateway == h.ipv4 || w.gateway == h.ipv6:
		return "the gateway is its own address"
	case h.run != nil && (h.run.record.Lease.Key.IPv4.Overlaps(w.subnet) || h.run.record.Lease.Key.IPv6.Overlaps(w.subnet)):
		return "the subnet is its own"
	}
	if w.subnet.Contains(w.gateway) {
		return "the subnet contains the gateway"
	}
	on := false
	for _, a := range h.addrs {
		if a.Overlaps(w.subnet) {
			return "the subnet overlaps its uplink's network"
		}
		if a.Addr() == w.gateway {
			return "the gateway is its own address"
		}
		on = on || a.Contains(w.gateway) && !boundary(a, w.gateway)
	}
	if !on {
		return "the gateway is not on-link"
	}
	return ""
}

// knows reports whether p lies inside a network that the daemon was told of, and
// whether inside one of the last config. In an earlier one leases are honoured
// only for as long as some live there without interruption.
func (h *host) knows(p netip.Prefix) (known, current bool) {
	inside := func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }
	return slices.ContainsFunc(h.run.networks, inside), slices.ContainsFunc(h.run.current, inside)
}

// boundary reports whether a is the address of the IPv4 network p or its
// broadcast address.
func boundary(p netip.Prefix, a netip.Addr) bool {
	outside := func(b netip.Addr) bool { return !p.Contains(b) }
	return a.Is4() && p.Bits() < 31 && (outside(a.Prev()) || outside(a.Next()))
}

// heardBy returns a time so that the daemon has heard of all that happened in
// the store until then.
func (h *host) heardBy(now time.Time) time.Time {
	if !h.calmSince.IsZero() && now.Sub(h.calmSince) > 2*time.Second {
		return now.Add(-time.Second)
	}
	return h.heard
}

// setFaults puts f between the host and the store.
func (h *host) setFaults(f memory.Faults) {
	l := h.c.ledger
	l.mu.Lock()
	now := time.Now()
	h.heard = h.heardBy(now)
	// What is under way already takes the time it was sent with.
	h.late = now.Add(max(h.faults.Request+h.faults.Answer, h.faults.Events, h.late.Sub(now)))
	switch {
	case h.faults.Err == nil && f.Err != nil:
		h.downAt = h.late // before that it may not notice
	case h.faults.Err != nil && f.Err == nil && now.Sub(h.downAt) > unnoticed:
		h.upSince = now
	}
	h.faults = f
	h.calmSince = time.Time{}
	if h.run != nil && f == (memory.Faults{}) {
		h.calmSince = h.late
	}
	run := h.run
	l.mu.Unlock()
	if run != nil {
		run.store.SetFaults(h.withLatency(f))
	}
}

// withLatency adds the time that every message takes. It differs from host to
// host, so that what hosts do at the same time is done in the same order each
// time a schedule is replayed.
func (h *host) withLatency(f memory.Faults) memory.Faults {
	own := time.Duration(h.number) * 1009 * time.Nanosecond
	f.Request += 200*time.Microsecond + own
	f.Answer += 200*time.Microsecond + own
	f.Events += 300*time.Microsecond + own
	return f
}

// start starts a daemon; with keepEnv it finds the subnet.env of the one before.
func (h *host) start(keepEnv bool) {
	l := h.c.ledger
	l.mu.Lock()
	if !keepEnv {
		h.env = subnet.Key{}
	}
	r := &run{
		host:     h,
		instance: fmt.Sprintf("%s/%d", h.name, len(h.runs)),
		store:    h.c.server.Client(),
		done:     make(chan struct{}),
		previous: h.env,
		started:  time.Now(),
		asked:    time.Now(),
	}
	h.run = r
	h.runs = append(h.runs, r)
	h.upSince, h.late = r.started, r.started
	if h.faults == (memory.Faults{}) {
		h.calmSince = r.started
	}
	uplink := netlinkx.Uplink{
		Name: "eth0", Index: 2, MTU: 1500, Up: h.up, Running: h.up,
		Addrs: slices.Clone(h.addrs), IPv4: h.ipv4, IPv6: h.ipv6,
	}
	l.mu.Unlock()

	r.store.SetFaults(h.withLatency(h.faults))
	programmer, err := h.kernel.programmer(uplink)
	if err != nil {
		panic(err)
	}
	r.m, err = hostgw.New(hostgw.Config{
		Store:      &tap{Store: r.store, run: r},
		Uplink:     uplink,
		Programmer: programmer,
		Previous:   r.previous,
		TTL:        l.ttl,
		Hold:       l.hold,
		Move:       h.move,
		Node:       subnet.Node{Name: h.name, Instance: r.instance},
		Logger:     h.c.logger(h),
		Observe:    r.observe,
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		err := r.m.Run(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		r.err, r.ended = err, ctx.Err() == nil
		if !r.ended && err != nil {
			l.violate(7, "%s was stopped and returned %v", r.instance, err)
		}
	}()
}

// observe does what hostgwd does: it writes subnet.env.
func (r *run) observe(e hostgw.Event) {
	h, l := r.host, r.host.c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := e.(type) {
	case *hostgw.LeaseEvent:
		h.env, h.envConfig = e.Lease.Key, e.Joined.Config
	case *hostgw.ConfigEvent:
		if e.Config.Err == nil && e.Fits {
			h.envConfig = e.Config.Config
		}
	}
}

// stop ends the daemon. With zombie, its claims under way reach the store all
// the same, as those of a killed process do.
func (h *host) stop(zombie bool) *run {
	l := h.c.ledger
	l.mu.Lock()
	r := h.run
	r.zombie = zombie
	l.mu.Unlock()
	r.cancel()
	<-r.done
	if h.c.real {
		synctest.Wait() // until the kernel has told of the last of its routes
	}
	h.buried()
	return r
}

// buried notes that no daemon runs.
func (h *host) buried() {
	l := h.c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	h.heard = h.heardBy(time.Now())
	h.calmSince = time.Time{}
	h.run = nil
}

// logger is where a host's daemons log to: nowhere, but in a replay.
func (c *cluster) logger(h *host) *slog.Logger {
	if c.ledger.note == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&logNote{c.ledger.note, h.name, ""})
}

// logNote makes lines of a trace out of log records.
type logNote struct {
	note  func(string, ...any)
	host  string
	attrs string
}

func (n *logNote) Enabled(_ context.Context, v slog.Level) bool { return v >= slog.LevelInfo }
func (n *logNote) WithGroup(string) slog.Handler                { return n }
func (n *logNote) WithAttrs(as []slog.Attr) slog.Handler {
	m := *n
	for _, a := range as {
		m.attrs += " " + a.String()
	}
	return &m
}

func (n *logNote) Handle(_ context.Context, r slog.Record) error {
	line := r.Message + n.attrs
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	n.note("    %s says: %s", n.host, line)
	return nil
}
