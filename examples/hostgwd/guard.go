package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/filter"
	"github.com/hostgw/hostgw/examples/internal/setting"
)

// guardEvery is how often the packet filter's state is taken into the report.
const guardEvery = time.Second

// guard keeps what this host's own subnet needs besides the peers' routes: the
// packet filter rules and, if asked for, the blackhole route. It follows the
// lease when it moves, and the network when it is widened. Nothing that fails
// here ends the daemon; it is in the report. It needs mayGuard.
func (d *daemon) guard(ctx context.Context) error {
	f, err := filter.New(filter.Config{Resync: d.set.FilterResync, Logger: d.log})
	if err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Run(ctx) })
	g.Go(func() error {
		look := time.NewTicker(guardEvery)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
				d.problem("filter", filterProblems(f.Status()))
			case <-d.guardKick:
				d.mu.Lock()
				j := d.joined
				d.mu.Unlock()
				wrong := ""
				if err := f.Update(filterConfig(d.set, j, d.uplink.Name)); err != nil {
					wrong = err.Error()
				}
				d.problem("rules", wrong)
				d.problem("blackhole", d.setBlackholes(j.Lease.Key))
			}
		}
	})
	return g.Wait()
}

func filterConfig(v setting.Values, j hostgw.Joined, uplink string) filter.Config {
	c, k := j.Config, j.Lease.Key
	conf := filter.Config{
		Masquerade:    v.IPMasq,
		NoFullyRandom: v.IPMasqFullyRandomDisable,
		Forward:       v.ForwardRules,
		Uplink:        uplink,
	}
	if k.IPv4.IsValid() {
		conf.IPv4 = filter.Family{Network: c.IPv4.Network, Subnet: k.IPv4}
	}
	if k.IPv6.IsValid() {
		conf.IPv6 = filter.Family{Network: c.IPv6.Network, Subnet: k.IPv6}
	}
	return conf
}

// filterProblems is why packets may be dropped, in a line; empty if they are not.
func filterProblems(s filter.Status) string {
	var parts []string
	if s.Err != nil {
		parts = append(parts, s.Err.Error())
	}
	for _, err := range s.Problems {
		parts = append(parts, err.Error())
	}
	return strings.Join(parts, "; ")
}

// mayGuard reports whether guard and the blackhole routes are this daemon's, until
// it calls unlock.
func (d *daemon) mayGuard() (may bool, unlock func()) {
	unlock, err := lockGuard()
	if err != nil && (d.set.IPMasq || d.set.ForwardRules || d.set.BlackholeRoute) {
		d.problem("filter", err.Error())
	}
	return err == nil, unlock
}
