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
	c, err := rtnetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	have, err := list(c)
	if err != nil {
		return err
	}
	for _, p := range subnets {
		if slices.Contains(have, p) {
			continue
		}
		if err := c.Route.Add(message(p)); err != nil {
			return fmt.Errorf("add blackhole %s: %w", p, err)
		}
	}
	for _, p := range have {
		if slices.Contains(subnets, p) {
			continue
		}
		if err := c.Route.Delete(message(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove blackhole %s: %w", p, err)
		}
	}
	return nil
}

// List returns where our blackhole routes lead.
func List() ([]netip.Prefix, error) {
	c, err := rtnetlink.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return list(c)
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
