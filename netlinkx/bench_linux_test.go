package netlinkx_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw/netlinkx"
)

// ipBatch is what ip -batch reads to add routes.
func ipBatch(routes []netlinkx.Route) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&b, "route add %s via %s dev eth0\n", r.Subnet, r.Gateway)
	}
	return b.String()
}

// benchmarkInstall measures from Set to the report of the last route, and beside
// it what ip -batch needs for the same routes, plain.
func benchmarkInstall(b *testing.B, routes []netlinkx.Route) {
	var ours, ip time.Duration
	for range b.N {
		n := newNamespace(b)
		n.wide()
		began := time.Now()
		if _, err := n.try(ipBatch(routes), "-batch", "-"); err != nil {
			b.Fatal(err)
		}
		ip += time.Since(began)
		n.fd.Close()

		n = newNamespace(b)
		n.wide()
		r := start(b, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
		began = time.Now()
		r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
		r.until("all are installed", func() bool { return r.stats.Added == uint64(len(routes)) })
		ours += time.Since(began)
		r.stop()
		n.fd.Close()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours.Seconds()*1e3/float64(b.N), "ms/Set")
	b.ReportMetric(ip.Seconds()*1e3/float64(b.N), "ms/ip-batch")
	b.ReportMetric(ours.Seconds()/ip.Seconds(), "Set/ip-batch")
}

func BenchmarkInstall1000(b *testing.B)  { benchmarkInstall(b, manyRoutes(1000)) }
func BenchmarkInstall10000(b *testing.B) { benchmarkInstall(b, manyRoutes(10000)) }
func BenchmarkInstall20000(b *testing.B) { benchmarkInstall(b, manyRoutes(20000)) }

func BenchmarkInstallIPv6(b *testing.B) {
	for _, n := range []int{5000, 10000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkInstall(b, manyRoutes6(n)) })
	}
}

// BenchmarkRestart measures a start that finds everything as it should be.
func BenchmarkRestart10000(b *testing.B) {
	n := newNamespace(b)
	n.wide()
	w := netlinkx.Wanted{Networks: networks, Routes: manyRoutes(10000)}
	for i := 0; b.Loop(); i++ {
		r := start(b, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
		r.Set(w)
		r.until("all are installed", func() bool { return len(r.routes) == len(w.Routes) })
		r.stop()
		if i > 0 && r.counts().Added > 0 {
			b.Fatal("a restart added routes")
		}
	}
}

// BenchmarkRepair measures how long a route is away that somebody deletes, with
// 1 000 routes in place.
func BenchmarkRepair(b *testing.B) {
	n := newNamespace(b)
	n.wide()
	routes := manyRoutes(1000)
	r := start(b, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	d := newDeleter(b, n)
	b.ResetTimer()
	times := d.repairs(routes, b.N)
	b.ReportMetric(float64(times[b.N/2].Microseconds()), "µs/median")
	b.ReportMetric(float64(times[b.N*99/100].Microseconds()), "µs/p99")
}

// BenchmarkChange measures one changed gateway, from Change to the report, with
// 10 000 routes in place.
func BenchmarkChange(b *testing.B) {
	n := newNamespace(b)
	n.wide()
	routes := manyRoutes(10000)
	r := start(b, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	for i := 0; b.Loop(); i++ {
		moved := routes[i%5000]
		moved.Gateway = routes[9999-i%2].Gateway
		routes[i%5000] = moved
		r.Change([]netlinkx.Route{moved}, nil)
		r.reach(netlinkx.RouteInstalled, moved)
	}
}

// BenchmarkBurst measures a thousand changed gateways, with 10 000 routes in
// place.
func BenchmarkBurst(b *testing.B) {
	n := newNamespace(b)
	n.wide()
	routes := manyRoutes(10000)
	r := start(b, netlinkx.Config{Uplink: n.uplink(), Dial: n.Dial})
	r.Set(netlinkx.Wanted{Networks: networks, Routes: routes})
	r.reach(netlinkx.RouteInstalled, routes...)
	for i := 0; b.Loop(); i++ {
		var moved []netlinkx.Route
		for _, w := range routes[:1000] {
			w.Gateway = routes[5000+i%4].Gateway
			moved = append(moved, w)
		}
		r.Change(moved, nil)
		r.reach(netlinkx.RouteInstalled, moved...)
	}
}
