package metric

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v2"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

func peer(i int, rs ...hostgw.PeerRoute) hostgw.Peer {
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24)
	for n := range rs {
		rs[n].Subnet = p
	}
	return hostgw.Peer{Name: subnet.Key{IPv4: p}.String(), Routes: rs}
}

func held() hostgw.Status {
	missing := peer(5, hostgw.PeerRoute{State: netlinkx.RouteInstalled})
	missing.Missing = time.Now()
	return hostgw.Status{
		State:   hostgw.StateHeld,
		Config:  subnet.NetworkConfig{Revision: 1},
		Joined:  hostgw.Joined{Lease: subnet.Lease{Key: subnet.Key{IPv4: netip.MustParsePrefix("10.5.1.0/24")}}},
		Renewed: time.Now(),
		TTL:     time.Hour,
		Uplink:  netlinkx.Uplink{Up: true, Running: true},
		Store:   hostgw.StoreStatus{Outages: 3},
		Routes:  netlinkx.Stats{Added: 4, Replaced: 1, Removed: 2, Failed: 5, Repaired: 6, Looks: 7, Overruns: 8, Found: 9},
		Peers: []hostgw.Peer{
			peer(2, hostgw.PeerRoute{State: netlinkx.RouteInstalled}),
			peer(3, hostgw.PeerRoute{State: netlinkx.RouteFailed}),
			peer(4, hostgw.PeerRoute{State: netlinkx.RouteInstalled}, hostgw.PeerRoute{Reason: hostgw.ReasonGatewayOffLink}),
			missing,
		},
	}
}

func newSet(st func() (hostgw.Status, bool)) *Set {
	return New(st, func() bool { return true }, "1.2.3", "abc")
}

func gather(t *testing.T, s *Set) map[string]*dto.MetricFamily {
	t.Helper()
	// The pedantic registry also holds what is collected to its description.
	pedantic := prometheus.NewPedanticRegistry()
	pedantic.MustRegister(s)
	if _, err := pedantic.Gather(); err != nil {
		t.Fatal(err)
	}
	list, err := s.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]*dto.MetricFamily)
	for _, f := range list {
		out[f.GetName()] = f
	}
	return out
}

func value(t *testing.T, f map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	for _, m := range f[name].GetMetric() {
		if label == "" || len(m.Label) == 1 && m.Label[0].GetValue() == label {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Errorf("%s{%s} is not exported", name, label)
	return -1
}

func TestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := held()
		s := newSet(func() (hostgw.Status, bool) { return st, true })
		time.Sleep(10 * time.Minute)
		f := gather(t, s)
		for _, c := range []struct {
			name, label string
			want        float64
		}{
			{"hostgw_ready", "", 1},
			{"hostgw_lease_held", "", 1},
			{"hostgw_leases", "", 5},
			{"hostgw_keepalive_age_seconds", "", 600},
			{"hostgw_lease_ttl_seconds", "", 3000},
			{"hostgw_peers", "installed", 2},
			{"hostgw_peers", "failed", 1},
			{"hostgw_peers", "none", 1},
			{"hostgw_peers", "conflict", 0},
			{"hostgw_peers", "pending", 0},
			{"hostgw_peers_refused", "gateway not on-link", 1},
			{"hostgw_peers_missing", "", 1},
			{"hostgw_route_operations_total", "add", 4},
			{"hostgw_route_operations_total", "replace", 1},
			{"hostgw_route_operations_total", "remove", 2},
			{"hostgw_route_failures_total", "", 5},
			{"hostgw_route_repairs_total", "", 6},
			{"hostgw_store_outages_total", "", 3},
			{"hostgw_store_up", "", 1},
			{"hostgw_config_valid", "", 1},
			{"hostgw_uplink_up", "", 1},
			{"hostgw_lease_rival", "", 0},
		} {
			if got := value(t, f, c.name, c.label); got != c.want {
				t.Errorf("%s{%s} is %v, want %v", c.name, c.label, got, c.want)
			}
		}
	})
}

func TestBeforeThereIsAManager(t *testing.T) {
	f := gather(t, newSet(func() (hostgw.Status, bool) { return hostgw.Status{}, false }))
	if value(t, f, "hostgw_lease_held", "") != 0 || value(t, f, "hostgw_store_up", "") != 0 {
		t.Error("something is held or heard before there is anything")
	}
}

func TestConvergence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet(func() (hostgw.Status, bool) { return hostgw.Status{}, false })
		pending := peer(2, hostgw.PeerRoute{})
		route := netlinkx.Route{Subnet: pending.Routes[0].Subnet}
		installed := &hostgw.RouteEvent{Routes: []netlinkx.RouteStatus{{Route: route, State: netlinkx.RouteInstalled}}}
		samples := func() (uint64, float64) {
			h := gather(t, s)["hostgw_convergence_seconds"].GetMetric()[0].GetHistogram()
			return h.GetSampleCount(), h.GetSampleSum()
		}

		// Before the lease is held, waiting for it is not the routes' fault.
		s.Observe(&hostgw.PeerEvent{Peer: pending})
		s.Observe(&hostgw.LeaseEvent{})
		s.Observe(installed)
		if n, _ := samples(); n != 0 {
			t.Errorf("%d samples from before the lease", n)
		}

		s.Observe(&hostgw.PeerEvent{Peer: pending})
		time.Sleep(3 * time.Millisecond)
		s.Observe(installed)
		s.Observe(installed) // again, without a change of the peer
		if n, sum := samples(); n != 1 || sum < .0029 || sum > .0031 {
			t.Errorf("%d samples of %v s in all, want one of 3 ms", n, sum)
		}

		// One that leaves, or is refused, before it is installed is no sample.
		s.Observe(&hostgw.PeerEvent{Peer: pending})
		s.Observe(&hostgw.PeerEvent{Peer: pending, Gone: true})
		s.Observe(installed)
		s.Observe(&hostgw.PeerEvent{Peer: pending})
		s.Observe(&hostgw.RouteEvent{Routes: []netlinkx.RouteStatus{{Route: route, State: netlinkx.RouteFailed}}})
		s.Observe(installed)
		if n, _ := samples(); n != 1 {
			t.Errorf("%d samples, want still one", n)
		}
		if len(s.pending) != 0 {
			t.Errorf("left behind: %v", s.pending)
		}
	})
}

func TestStoreErrors(t *testing.T) {
	s := newSet(func() (hostgw.Status, bool) { return hostgw.Status{}, false })
	s.Observe(&hostgw.StoreEvent{Err: errors.New("away")})
	s.Observe(&hostgw.StoreEvent{})
	if n := value(t, gather(t, s), "hostgw_store_errors_total", ""); n != 1 {
		t.Errorf("%v errors counted, want 1", n)
	}
}

func TestLint(t *testing.T) {
	st := held()
	problems, err := testutil.GatherAndLint(newSet(func() (hostgw.Status, bool) { return st, true }).Registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The alerts and the dashboard ask for nothing that is not exported, and what is
// exported is looked at by one of them.
func TestMonitoringUsesWhatIsExported(t *testing.T) {
	const dir = "../../hostgwd/monitoring/"
	alerts, err := os.ReadFile(dir + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile(dir + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	exported := []string{}
	st := held()
	for name := range gather(t, newSet(func() (hostgw.Status, bool) { return st, true })) {
		if strings.HasPrefix(name, "hostgw_") {
			exported = append(exported, name)
		}
	}
	used := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bhostgw_[a-z_]+`).FindAllString(string(alerts)+string(dashboard), -1) {
		used[strings.TrimSuffix(name, "_bucket")] = true
	}
	for name := range used {
		if !slices.Contains(exported, name) {
			t.Errorf("%s is asked for and not exported", name)
		}
	}
	for _, name := range exported {
		if !used[name] {
			t.Errorf("%s is exported, and neither an alert nor the dashboard looks at it", name)
		}
	}
}

func TestMonitoringIsWellFormed(t *testing.T) {
	const dir = "../../hostgwd/monitoring/"
	text, err := os.ReadFile(dir + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("incomplete rule %+v", r)
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}

	if text, err = os.ReadFile(dir + "dashboard.json"); err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if board.Title == "" || len(board.Panels) == 0 {
		t.Error("an empty dashboard")
	}
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 || p.Targets[0].Expr == "" {
			t.Errorf("incomplete panel %+v", p)
		}
	}
}
