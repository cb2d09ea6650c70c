package blackhole

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

// Set makes the blackhole routes of ours those to subnets, and no others.
func Set(subnets []netip.Prefix) error {
	return with(func(c *rtnetlink.Conn, have []netip.Prefix) error {
		for _, p := range subnets {
			if slices.Contains(have, p) {
				continue
			}
			if err := c.Route.Add(message(p)); err != nil {
				return fmt.Errorf("add blackhole %s: %w", p, err)
			}
		}
		_, err := keep(c, have, subnets)
		return err
	})
}

// Keep removes the blackhole routes of ours that do not lead to one of subnets, and
// adds none. It returns where those led that it has removed.
func Keep(subnets []netip.Prefix) (removed []netip.Prefix, err error) {
	err = with(func(c *rtnetlink.Conn, have []netip.Prefix) (err error) {
		removed, err = keep(c, have, subnets)
		return err
	})
	return removed, err
}

// with calls f with the routes of ours that there are.
func with(f func(c *rtnetlink.Conn, have []netip.Prefix) error) error {
	c, err := rtnetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	have, err := list(c)
	if err != nil {
		return err
	}
	return f(c, have)
}

func keep(c *rtnetlink.Conn, have, stay []netip.Prefix) (removed []netip.Prefix, err error) {
	for _, p := range have {
		if slices.Contains(stay, p) {
			continue
		}
		if err := c.Route.Delete(message(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			return removed, fmt.Errorf("remove blackhole %s: %w", p, err)
		}
		removed = append(removed, p)
	}
	return removed, nil
}

// List returns where our blackhole routes lead.
func List() (all []netip.Prefix, err error) {
	err = with(func(_ *rtnetlink.Conn, have []netip.Prefix) error {
		all = have
		return nil
	})
	return all, err
}

func list(c *rtnetlink.Conn) ([]netip.Prefix, error) {
	routes, err := c.Route.List()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Type != unix.RTN_BLACKHOLE || r.Protocol != Protocol {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Attributes.Dst); ok {
			out = append(out, netip.PrefixFrom(a.Unmap(), int(r.DstLength)))
		}
	}
	return out, nil
}

func message(p netip.Prefix) *rtnetlink.RouteMessage {
	m := &rtnetlink.RouteMessage{
		Family:    unix.AF_INET6,
		DstLength: uint8(p.Bits()),
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  Protocol,
		Scope:     unix.RT_SCOPE_UNIVERSE,
		Type:      unix.RTN_BLACKHOLE,
		Attributes: rtnetlink.RouteAttributes{
			Dst:      p.Addr().AsSlice(),
			Priority: metric,
		},
	}
	if p.Addr().Is4() {
		m.Family = unix.AF_INET
	}
	return m
}
