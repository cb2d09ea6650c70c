package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// checkUplink finds out early whether the interface asked for is there at all.
// Which address families it needs is only known from the network's config.
func (d *daemon) checkUplink(ctx context.Context) error {
	_, err := d.findUplink(ctx, subnet.Config{})
	return err
}

// findUplink finds the interface to the other hosts, as flanneld does: each
// -iface in turn, then each -iface-regex, then -iface-can-reach; and with none of
// them the interface of the default route.
func (d *daemon) findUplink(ctx context.Context, c subnet.Config) (netlinkx.Uplink, error) {
	base := netlinkx.UplinkOptions{
		IPv4: c.IPv4.IsValid(), IPv6: c.IPv6.IsValid(),
		PublicIPv4: d.set.PublicIP, PublicIPv6: d.set.PublicIPv6,
	}
	var tries []netlinkx.UplinkOptions
	for _, s := range d.set.Iface {
		o := base
		if a, err := netip.ParseAddr(s); err == nil {
			o.Address = a
		} else {
			o.Name = s
		}
		tries = append(tries, o)
	}
	for _, s := range d.set.IfaceRegex {
		o := base
		o.Pattern = s
		tries = append(tries, o)
	}
	if d.set.IfaceCanReach.IsValid() {
		o := base
		o.Reach = d.set.IfaceCanReach
		tries = append(tries, o)
	}
	if len(tries) == 0 {
		tries = append(tries, base)
	}
	var errs []error
	for _, o := range tries {
		u, err := netlinkx.FindUplink(ctx, o)
		if err == nil {
			d.log.Debug("uplink found", "interface", u.Name, "ipv4", u.IPv4, "ipv6", u.IPv6, "mtu", u.MTU)
			return u, nil
		}
		errs = append(errs, err)
	}
	return netlinkx.Uplink{}, classed{errUplink, errors.Join(errs...)}
}
