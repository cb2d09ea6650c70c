package main

import (
	"net/netip"
	"slices"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/blackhole"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// setBlackholes sees to the blackhole routes of this host's subnets. It returns what
// is wrong, if anything is.
func (d *daemon) setBlackholes(k subnet.Key) (problem string) {
	var want []netip.Prefix
	for _, p := range []netip.Prefix{k.IPv4, k.IPv6} {
		if d.set.BlackholeRoute && p.IsValid() {
			want = append(want, p)
		}
	}
	if err := blackhole.Set(want); err != nil {
		return err.Error()
	}
	return ""
}

// unholed is a route programmer that is not hindered by ourselves: a blackhole route
// to a subnet that this host has moved away from, in this run or since an earlier
// one, is in the way of the route to whoever holds it now, and goes first.
type unholed struct {
	hostgw.RouteProgrammer
	own  []netip.Prefix // this host's subnets, as last set
	told func(problem string)
}

// Set is called by the Manager's loop alone.
func (u *unholed) Set(w netlinkx.Wanted) {
	if !slices.Equal(w.Own, u.own) {
		u.own = w.Own
		removed, err := blackhole.Keep(w.Own)
		if err != nil {
			u.told(err.Error())
		}
		// The programmer may not have heard of it yet: the kernel tells on another
		// socket. Where the networks are other ones it looks for itself first.
		w.Networks = append(slices.Clip(w.Networks), removed...)
	}
	u.RouteProgrammer.Set(w)
}
