// Package metric exports a hostgw.Manager's status and events to Prometheus.
package metric

import (
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// Set is hostgwd's metrics, in a registry of their own. What can be read from
// the status is read when it is asked for; only what happens between is counted
// from events.
type Set struct {
	Registry *prometheus.Registry

	status func() (hostgw.Status, bool)
	ready  func() bool

	convergence prometheus.Histogram
	storeErrors prometheus.Counter

	mu      sync.Mutex
	joined  bool                       // before that, routes wait for this host's own lease
	pending map[netip.Prefix]time.Time // when a route came to be wanted that is not installed yet
}

// New returns the metrics of a Manager. status is what it says, and false while
// there is none yet; ready is whether /readyz says so. Both are called whenever
// the metrics are read. version and revision describe the program.
func New(status func() (hostgw.Status, bool), ready func() bool, version, revision string) *Set {
	s := &Set{
		Registry: prometheus.NewRegistry(),
		status:   status,
		ready:    ready,
		pending:  make(map[netip.Prefix]time.Time),
		convergence: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hostgw_convergence_seconds",
			Help:    "Time from hearing of a peer's lease, or of a change to it, to its route being in the kernel.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}),
		storeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hostgw_store_errors_total",
			Help: "Errors by which the store went out of hearing.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "hostgw_build_info",
		Help:        "1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision},
	})
	info.Set(1)
	s.Registry.MustRegister(s, s.convergence, s.storeErrors, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// Observe counts e. It is made for hostgw.Config.Observe.
func (s *Set) Observe(e hostgw.Event) {
	switch e := e.(type) {
	case *hostgw.LeaseEvent:
		s.mu.Lock()
		s.joined = true
		s.mu.Unlock()
	case *hostgw.StoreEvent:
		if e.Err != nil {
			s.storeErrors.Inc()
		}
	case *hostgw.PeerEvent:
		s.observePeer(e)
	case *hostgw.RouteEvent:
		s.observeRoutes(e)
	}
}

func (s *Set) observePeer(e *hostgw.PeerEvent) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range e.Peer.Routes {
		if s.joined && !e.Gone && r.Reason == hostgw.ReasonNone && r.State == netlinkx.RoutePending {
			if _, ok := s.pending[r.Subnet]; !ok {
				s.pending[r.Subnet] = now
			}
		} else {
			delete(s.pending, r.Subnet)
		}
	}
}

func (s *Set) observeRoutes(e *hostgw.RouteEvent) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range e.Routes {
		since, ok := s.pending[r.Route.Subnet]
		if !ok || r.State == netlinkx.RoutePending {
			continue
		}
		delete(s.pending, r.Route.Subnet)
		if r.State == netlinkx.RouteInstalled {
			s.convergence.Observe(now.Sub(since).Seconds())
		}
	}
}

var (
	descReady       = prometheus.NewDesc("hostgw_ready", "1 once the subnet file is written and the first set of routes is in.", nil, nil)
	descLeaseHeld   = prometheus.NewDesc("hostgw_lease_held", "1 while this host holds its lease.", nil, nil)
	descLeaseTTL    = prometheus.NewDesc("hostgw_lease_ttl_seconds", "What is left of this host's lease; absent for a reservation.", nil, nil)
	descKeepAlive   = prometheus.NewDesc("hostgw_keepalive_age_seconds", "Time since the store last confirmed this host's lease.", nil, nil)
	descRival       = prometheus.NewDesc("hostgw_lease_rival", "1 while another process claims this host's lease with this host's address.", nil, nil)
	descLeases      = prometheus.NewDesc("hostgw_leases", "Leases known, this host's included.", nil, nil)
	descPeers       = prometheus.NewDesc("hostgw_peers", "Peers by the state of their worst route: installed, pending, failed, conflict, or none where the peer policy gives it no route.", []string{"state"}, nil)
	descNoRoute     = prometheus.NewDesc("hostgw_peers_refused", "Peers that the peer policy gives no route, by reason.", []string{"reason"}, nil)
	descMissing     = prometheus.NewDesc("hostgw_peers_missing", "Peers that the store does not show any more and whose routes are held.", nil, nil)
	descOperations  = prometheus.NewDesc("hostgw_route_operations_total", "Routes written to the kernel.", []string{"operation"}, nil)
	descFailures    = prometheus.NewDesc("hostgw_route_failures_total", "Route requests that the kernel refused.", nil, nil)
	descRepairs     = prometheus.NewDesc("hostgw_route_repairs_total", "Routes put right after somebody else changed them.", nil, nil)
	descLooks       = prometheus.NewDesc("hostgw_route_looks_total", "Full looks at the kernel's routes.", nil, nil)
	descFound       = prometheus.NewDesc("hostgw_route_differences_found_total", "Differences that a periodic look found and no event had told of.", nil, nil)
	descOverruns    = prometheus.NewDesc("hostgw_kernel_event_overruns_total", "Times that the kernel had more events than its socket could hold.", nil, nil)
	descStoreUp     = prometheus.NewDesc("hostgw_store_up", "1 while the store can be heard.", nil, nil)
	descOutages     = prometheus.NewDesc("hostgw_store_outages_total", "Times that the store could not be heard.", nil, nil)
	descConfigValid = prometheus.NewDesc("hostgw_config_valid", "1 while the config in the store is one that can be used.", nil, nil)
	descUplinkUp    = prometheus.NewDesc("hostgw_uplink_up", "1 while the uplink is up and has carrier.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Set) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descReady, descLeaseHeld, descLeaseTTL, descKeepAlive, descRival, descLeases, descPeers, descNoRoute,
		descMissing, descOperations, descFailures, descRepairs, descLooks, descFound, descOverruns, descStoreUp,
		descOutages, descConfigValid, descUplinkUp,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descReady, truth(s.ready()))
	st, ok := s.status()
	if !ok {
		gauge(descLeaseHeld, 0)
		gauge(descStoreUp, 0)
		return
	}
	held := st.State == hostgw.StateHeld
	gauge(descLeaseHeld, truth(held))
	leases := len(st.Peers)
	if held {
		leases++
	}
	gauge(descLeases, float64(leases))
	if st.Joined.Lease.Key != (subnet.Key{}) {
		age := time.Since(st.Renewed)
		gauge(descKeepAlive, age.Seconds())
		if st.TTL > 0 {
			gauge(descLeaseTTL, max(0, (st.TTL-age).Seconds()))
		}
	}
	gauge(descRival, truth(st.Rival != nil))
	collectPeers(st.Peers, gauge)

	r := st.Routes
	counter(descOperations, r.Added, "add")
	counter(descOperations, r.Replaced, "replace")
	counter(descOperations, r.Removed, "remove")
	counter(descFailures, r.Failed)
	counter(descRepairs, r.Repaired)
	counter(descLooks, r.Looks)
	counter(descFound, r.Found)
	counter(descOverruns, r.Overruns)

	gauge(descStoreUp, truth(st.Store.Err == nil))
	counter(descOutages, st.Store.Outages)
	gauge(descConfigValid, truth(st.Config.Err == nil && st.Config.Revision != 0))
	gauge(descUplinkUp, truth(st.Uplink.Up && st.Uplink.Running))
}

// collectPeers counts each peer once, however many families it has. A state that
// no peer is in is exported as zero, so that a rule on it has something to see.
func collectPeers(peers []hostgw.Peer, gauge func(*prometheus.Desc, float64, ...string)) {
	const none = "none"
	rank := map[string]int{}
	states := map[string]int{}
	for i, s := range []netlinkx.RouteState{netlinkx.RouteInstalled, netlinkx.RoutePending, netlinkx.RouteConflict, netlinkx.RouteFailed} {
		rank[s.String()] = i + 1
		states[s.String()] = 0
	}
	rank[none], states[none] = len(rank)+1, 0
	reasons := map[string]int{}
	missing := 0
	for _, p := range peers {
		worst := ""
		for _, r := range p.Routes {
			state := r.State.String()
			if r.Reason != hostgw.ReasonNone {
				state = none
			}
			if rank[state] > rank[worst] {
				worst = state
			}
		}
		if worst != "" {
			states[worst]++
		}
		if worst == none {
			for _, r := range p.Routes {
				if r.Reason != hostgw.ReasonNone {
					reasons[r.Reason.String()]++
					break
				}
			}
		}
		if !p.Missing.IsZero() {
			missing++
		}
	}
	for s, n := range states {
		gauge(descPeers, float64(n), s)
	}
	for s, n := range reasons {
		gauge(descNoRoute, float64(n), s)
	}
	gauge(descMissing, float64(missing))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
