package hostgw

import (
	"net/netip"
	"slices"
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// takeConfig takes in the network config as the store holds it.
func (m *Manager) takeConfig(nc subnet.NetworkConfig, now time.Time) {
	old := m.status.Config
	held := m.status.State == StateHeld
	if !held {
		m.askForLook() // it may be what tenure waits for
	}
	if nc.Err != nil {
		if old.Err == nil && old.Revision != 0 {
			m.log.Warn("network config in the store is not usable; the last good one stays in force", "err", nc.Err)
			m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: m.fits(old.Config)} })
		}
		nc.Config = old.Config
		m.status.Config = nc
		return
	}
	m.status.Config = nc
	if m.fits(nc.Config) {
		m.unfit = subnet.Config{}
	}
	if nc.Config == old.Config {
		if old.Err != nil {
			m.log.Info("network config in the store is usable again")
			m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: m.fits(nc.Config)} })
		}
		return
	}
	m.table.policy.Networks = m.networks(nc.Config)
	m.wanted.whole = true
	m.rejudge(now)
	if held {
		m.tellConfig(nc)
	} // else takeLease tells
}

// tellConfig tells that a config is in force, and what that means for the lease.
func (m *Manager) tellConfig(nc subnet.NetworkConfig) {
	fits := m.fits(nc.Config)
	switch {
	case fits:
		m.status.Joined.Config = nc.Config
		m.log.Info("network config changed; this node's lease still fits", "lease", m.status.Record.Name)
	case m.c.Move:
		m.unfit = nc.Config
		m.log.Warn("network config changed; this node's lease no longer fits and is given up for another", "lease", m.status.Record.Name)
		m.askForLook()
	default:
		m.unfit = nc.Config
		m.log.Warn("network config changed; this node's lease no longer fits and is kept until the next start", "lease", m.status.Record.Name)
	}
	m.tell(func() Event { return &ConfigEvent{Config: nc, Fits: fits} })
}

// fits reports whether this node's lease is one that c would cut.
func (m *Manager) fits(c subnet.Config) bool { return c.Fits(m.status.Joined.Lease.Key) }

// networks returns the networks that leases may lie in: those of c, and those of
// earlier configs that this node's or a peer's lease still lies in.
func (m *Manager) networks(c subnet.Config) []netip.Prefix {
	newer := c.Networks()
	own := m.status.Joined.Lease.Key
	if own == (subnet.Key{}) {
		return newer // nothing is routed yet
	}
	networks := newer
	for _, n := range m.table.policy.Networks {
		in := func(s netip.Prefix) bool {
			return s.IsValid() && n.Overlaps(s) && !slices.ContainsFunc(newer, s.Overlaps)
		}
		if !slices.Contains(newer, n) && (in(own.IPv4) || in(own.IPv6) || m.table.anyIn(n, in)) {
			networks = append(networks, n)
		}
	}
	return networks
}

// closeNetworks lets go of the networks of earlier configs once nobody is left there.
func (m *Manager) closeNetworks(now time.Time) {
	c := m.status.Config.Config
	if len(m.table.policy.Networks) <= len(c.Networks()) {
		return
	}
	if left := m.networks(c); len(left) < len(m.table.policy.Networks) {
		m.table.policy.Networks = left
		m.wanted.whole = true
		m.rejudge(now)
	}
}
