package hostgw

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// What the zero values of Config mean.
const (
	DefaultTTL  = 24 * time.Hour  // as in flannel
	DefaultHold = 2 * time.Minute // longer than any living node needs to put its lease back
)

// Config is what a Manager is made of. Store and Uplink are needed; every other
// zero value means its default.
type Config struct {
	Store  SubnetStore
	Uplink netlinkx.Uplink // from netlinkx.FindUplink: its addresses are this node's gateway

	Watcher    LeaseWatcher    // Store itself if nil; it must then be a LeaseWatcher
	Programmer RouteProgrammer // a netlinkx.Programmer on Uplink if nil

	// OnLink takes every unicast gateway for on-link, for clouds that give hosts
	// a /32. A Programmer that is given needs its own option set likewise.
	OnLink bool

	// Previous is the subnet this node had last, as its subnet.env names it. It
	// is taken again if it is free.
	Previous subnet.Key

	TTL  time.Duration // how long the lease outlives this node; DefaultTTL if zero
	Hold time.Duration // how long a peer that a fresh snapshot no longer shows keeps its route; DefaultHold if zero

	// Move makes the Manager take a new subnet when its own was lost to another
	// node, or when the config changed so that its lease no longer fits. By
	// default Run returns ErrSubnetLost for the first, and keeps the lease until
	// the next start for the second: containers live on the old subnet. Where there
	// is no other to be had the lease is kept with Move too.
	Move bool

	Node   subnet.Node  // the host name and a random instance if zero
	Logger *slog.Logger // slog.Default() if nil

	// Observe, if not nil, is told what happens, one call at a time, in order. It
	// must not block for long: routes wait for it. It may call Status and Summary;
	// Lease would wait for it to return.
	Observe func(Event)
}

// Manager joins a host to a network and keeps its routes to the peers. Its
// methods may be called concurrently.
type Manager struct {
	c   Config
	log *slog.Logger

	// What the loop is told, by the goroutine named.
	updates chan subnet.Update   // watch
	reports chan netlinkx.Report // the programmer
	news    chan func()          // tenure: run by the loop, with mu held

	first chan subnet.Snapshot // the loop to tenure: what the watch showed first
	look  chan struct{}        // the loop to tenure: see how the lease stands in the store

	joined  chan struct{} // closed when the first lease is held
	stopped chan struct{} // closed when Run returns, after err is set
	err     error

	mu        sync.Mutex
	status    Status // but Peers, which are in the table
	table     *peerTable
	known     bool          // whether a snapshot has been seen
	shown     subnet.Record // this node's own, as the watch showed it last
	former    string        // what was shown before this node moved
	wanted    wantedState
	unheard   error         // why the watch cannot be heard; nil if it can
	unkept    error         // why the store does not confirm the lease; nil if it does
	unread    error         // why tenure cannot look how the lease stands; nil if it can
	unfit     subnet.Config // the last one that this node's lease was found not to fit
	unsettled bool          // whether peers that are missing had no chance to be back yet
	events    []Event       // to be observed once mu is free
}

// New checks c and returns a Manager that is not running yet.
func New(c Config) (*Manager, error) {
	if c.Store == nil {
		return nil, errors.New("hostgw: Config.Store is nil")
	}
	if c.Watcher == nil {
		w, ok := c.Store.(LeaseWatcher)
		if !ok {
			return nil, fmt.Errorf("hostgw: Config.Watcher is nil, and Config.Store (%T) is not a LeaseWatcher", c.Store)
		}
		c.Watcher = w
	}
	if a := c.Uplink.IPv4; a.IsValid() && !a.Is4() || !isIPv6OrNone(c.Uplink.IPv6) {
		return nil, fmt.Errorf("hostgw: Config.Uplink %q has the addresses IPv4 %v and IPv6 %v, which must be of their families and not mapped", c.Uplink.Name, a, c.Uplink.IPv6)
	}
	if !c.Uplink.IPv4.IsValid() && !c.Uplink.IPv6.IsValid() {
		return nil, fmt.Errorf("hostgw: Config.Uplink %q has no address for peers to reach this node", c.Uplink.Name)
	}
	if c.TTL < 0 || c.Hold < 0 {
		return nil, fmt.Errorf("hostgw: Config.TTL %v and Config.Hold %v must not be negative", c.TTL, c.Hold)
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Node.Name == "" {
		c.Node.Name, _ = os.Hostname() // for people; an empty one serves too
	}
	if c.Node.Instance == "" {
		c.Node.Instance = rand.Text()
	}
	if c.Programmer == nil {
		p, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: c.Uplink, OnLink: c.OnLink, Logger: c.Logger})
		if err != nil {
			return nil, fmt.Errorf("hostgw: making the route programmer: %w", err)
		}
		c.Programmer = p
	}
	table := newPeerTable()
	table.policy = Policy{Uplink: c.Uplink, OnLink: c.OnLink}
	return &Manager{
		c:       c,
		log:     c.Logger,
		updates: make(chan subnet.Update),
		reports: make(chan netlinkx.Report),
		news:    make(chan func()),
		first:   make(chan subnet.Snapshot, 1),
		look:    make(chan struct{}, 1),
		joined:  make(chan struct{}),
		stopped: make(chan struct{}),
		status:  Status{Uplink: c.Uplink},
		table:   table,
	}, nil
}

func isIPv6OrNone(a netip.Addr) bool { return !a.IsValid() || a.Is6() && !a.Is4In6() }

// Run leases this node's subnet, keeps it leased, and keeps the kernel's routes
// equal to the peers' leases until ctx ends; it then returns nil, after the last
// of its goroutines has ended, and leaves lease and routes as they are. It
// returns early with an error only for what waiting cannot cure:
// *SubnetLostError, an error that wraps subnet.ErrNoFreeSubnet, or the route
// programmer's own failure. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.status.State != StateNew {
		m.mu.Unlock()
		return errors.New("hostgw: Manager.Run was called before")
	}
	m.status.State = StateJoining
	m.mu.Unlock()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.watch(ctx) })
	g.Go(func() error { return m.tenure(ctx) })
	g.Go(func() error { return m.loop(ctx) })
	g.Go(func() error {
		err := m.c.Programmer.Run(ctx, func(r netlinkx.Report) {
			select {
			case m.reports <- r:
			case <-ctx.Done():
			}
		})
		if err == nil && ctx.Err() == nil {
			err = errors.New("it ended by itself")
		}
		if err != nil {
			return fmt.Errorf("running the route programmer: %w", err)
		}
		return nil
	})
	err := g.Wait()

	m.mu.Lock()
	m.status.State, m.status.Waiting = StateStopped, nil
	m.err = err
	m.mu.Unlock()
	close(m.stopped)
	return err
}

// Lease waits until this node holds its lease, and returns it with the config it
// was chosen under; at once if it held one before. It may be called before Run.
// If Run returns first, its error or [ErrStopped] is returned; if ctx ends first,
// ctx's.
func (m *Manager) Lease(ctx context.Context) (Joined, error) {
	select {
	case <-m.joined:
	case <-m.stopped:
	case <-ctx.Done():
		return Joined{}, fmt.Errorf("waiting for a lease: %w", ctx.Err())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.status.Record.Name != "":
		return m.status.Joined, nil
	case m.err != nil:
		return Joined{}, m.err
	}
	return Joined{}, ErrStopped
}

// Release gives this node's subnet back to the store: every lease in it that
// bears this node's address, but for reservations. Call it after Run has
// returned, for a host that leaves the network for good: while Run goes on it
// would ask for the subnet again. It returns [ErrNoLease] if there is none.
func (m *Manager) Release(ctx context.Context) error {
	// What the store says counts: an answer to Run's last claim may have been lost.
	snap, err := m.c.Store.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("releasing this node's lease: %w", err)
	}
	own := subnet.Leftovers(snap.Records, m.self(), subnet.Key{})
	for _, r := range own {
		if err := m.c.Store.Release(ctx, r); err != nil {
			return fmt.Errorf("releasing lease %s: %w", r.Name, err)
		}
	}
	m.mu.Lock()
	m.status.Record, m.status.Joined = subnet.Record{}, Joined{}
	m.mu.Unlock()
	if len(own) == 0 {
		return ErrNoLease
	}
	return nil
}

// Status returns what is known now. It never blocks for long, and the caller may
// keep and change what it returns. With many peers it copies much: Summary is
// what to call at each event.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.summary()
	s.Peers = m.table.list()
	return s
}

// Summary returns the Status without the peers, only counted.
func (m *Manager) Summary() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.summary()
}

func (m *Manager) summary() Status {
	s := m.status
	s.Uplink.Addrs = slices.Clone(s.Uplink.Addrs)
	s.Counts = m.table.count()
	if s.Rival != nil {
		rival := *s.Rival
		s.Rival = &rival
	}
	return s
}
