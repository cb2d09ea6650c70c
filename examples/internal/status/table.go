package status

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes r for people. When it says how long ago something was, it means
// before r was made, by the clock of the daemon.
func Print(w io.Writer, r Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }

	state := r.State
	if r.Ready {
		state += ", ready"
	}
	line("state", "%s", state)
	if r.Waiting != "" {
		line("waiting for", "%s", r.Waiting)
	}
	for _, p := range r.Problems {
		line("problem", "%s", p)
	}
	if len(r.Network) > 0 {
		line("network", "%s", join(r.Network))
	}
	if l := r.Lease; l != nil {
		left := "a reservation, never expires"
		if !l.Reserved {
			left = fmt.Sprintf("%s left, renewed %s ago", Short(time.Duration(l.Seconds*float64(time.Second))), Short(r.Time.Sub(l.Renewed)))
		}
		line("lease", "%s via %s (%s)", join(l.Subnets), joinAddrs(l.Gateways), left)
	}
	if u := r.Uplink; u != nil {
		line("uplink", "%s, MTU %d, %s", u.Name, u.MTU, linkState(*u))
	}
	line("store", "%s", storeLine(r))
	c := r.Counters
	line("routes", "%d added, %d replaced, %d removed, %d failed, %d repaired", c.Added, c.Replaced, c.Removed, c.Failed, c.Repaired)
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Peers) == 0 {
		_, err := fmt.Fprintln(w, "\nno peers")
		return err
	}
	fmt.Fprintf(t, "\nSUBNET\tGATEWAY\tROUTE\tSINCE\tWHY\n")
	for _, p := range r.Peers {
		for _, rt := range p.Routes {
			subnet, gateway := p.Name, "-"
			if rt.Subnet.IsValid() {
				subnet = rt.Subnet.String()
			}
			if rt.Gateway.IsValid() {
				gateway = rt.Gateway.String()
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", subnet, gateway, rt.State, Short(r.Time.Sub(rt.Since)), why(p, rt))
		}
	}
	return t.Flush()
}

func why(p Peer, rt Route) string {
	var parts []string
	if rt.Reason != "" {
		parts = append(parts, rt.Reason)
	}
	if rt.Error != "" {
		parts = append(parts, rt.Error)
	}
	if !p.Missing.IsZero() {
		text := "the store does not show it any more"
		if rt.State != NoRoute {
			text += "; held"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ": ")
}

func storeLine(r Report) string {
	where := strings.Join(r.Store.Endpoints, ",")
	if r.Store.Embedded {
		where += " (embedded)"
	}
	where += ", prefix " + r.Store.Prefix
	if r.Store.Heard {
		return fmt.Sprintf("%s, heard at revision %d, %d outages", where, r.Store.Revision, r.Store.Outages)
	}
	if r.Store.Error == "" {
		return where + ", not heard yet"
	}
	return fmt.Sprintf("%s, not heard for %s: %s", where, Short(r.Time.Sub(r.Store.Since)), r.Store.Error)
}

func linkState(u Uplink) string {
	switch {
	case !u.Up:
		return "down"
	case !u.Running:
		return "up without carrier"
	}
	return "up"
}

func join(list []netip.Prefix) string {
	var parts []string
	for _, p := range list {
		parts = append(parts, p.String())
	}
	return strings.Join(parts, " ")
}

func joinAddrs(list []netip.Addr) string {
	var parts []string
	for _, a := range list {
		parts = append(parts, a.String())
	}
	return strings.Join(parts, " ")
}

// Short writes a duration with its two largest units: 3d4h, 2h5m, 17s.
func Short(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	s := int(d / time.Second)
	switch {
	case s >= 86400:
		return fmt.Sprintf("%dd%dh", s/86400, s%86400/3600)
	case s >= 3600:
		return fmt.Sprintf("%dh%dm", s/3600, s%3600/60)
	case s >= 60:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	}
	return fmt.Sprintf("%ds", s)
}
