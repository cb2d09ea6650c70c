package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/subnet"
)

// serve starts what others ask the daemon on: the control socket, and the health
// port if there is one. They answer from the start, also while it waits.
func (d *daemon) serve(ctx context.Context, g *errgroup.Group) error {
	if d.set.Socket != "" {
		l, err := status.Listen(d.set.Socket, d.set.SocketGroup)
		switch {
		case errors.Is(err, status.ErrInUse):
			// Another host's, where hosts are namespaces that share a file system.
			d.problem("socket", err.Error()+"; hostgwd status does not show this one: give it a -socket of its own")
		case err != nil:
			d.problem("socket", err.Error()+"; hostgwd status does not work")
		default:
			serveOn(ctx, g, l, status.Handler(d.report))
		}
	}
	if d.set.HealthzPort == 0 {
		return nil
	}
	address := netip.AddrPortFrom(d.set.HealthzIP, d.set.HealthzPort)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address.String())
	if err != nil {
		return fmt.Errorf("-healthz-ip, -healthz-port: %w", err)
	}
	d.log.Debug("serving /healthz, /readyz and /metrics", "address", l.Addr())
	serveOn(ctx, g, l, d.health())
	return nil
}

// serveOn serves h on l until ctx ends, and then gives answers under way a moment.
func serveOn(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
		return nil
	})
}

// health answers on the health port.
func (d *daemon) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		d.managerSummary() // does not return if the Manager hangs
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := d.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.Registry, promhttp.HandlerOpts{}))
	return mux
}

// notReady says why the daemon is not ready; empty if it is.
func (d *daemon) notReady() string {
	d.mu.Lock()
	ready, written, waiting := d.ready, d.joined.Lease.Key != (subnet.Key{}), d.waiting
	d.mu.Unlock()
	switch {
	case ready:
		return ""
	case waiting != "":
		return "waiting for " + waiting
	case written:
		return "the first set of routes is not in yet"
	}
	if st, ok := d.managerSummary(); ok && st.Waiting != nil {
		return "waiting for " + st.Waiting.Error()
	}
	return "no lease is held yet"
}

// report is what the control socket tells.
func (d *daemon) report() status.Report {
	st, ok := d.managerStatus()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	r := status.Report{
		Version: d.build.String(), PID: os.Getpid(), Started: d.started, Time: now,
		State: "waiting", Ready: d.ready, Waiting: d.waiting,
		SubnetFile: d.set.SubnetFile, Store: d.store, Peers: []status.Peer{},
	}
	for _, about := range slices.Sorted(maps.Keys(d.problems)) {
		r.Problems = append(r.Problems, d.problems[about])
	}
	if ok {
		r.Fill(st, now)
	}
	return r
}
