package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/hostgw/hostgw/subnet"
)

// Container is a namespace behind a host's docker0 bridge, with what a container
// has: eth0, one address a family, and a default route to the bridge.
type Container struct {
	*Namespace
	IPv4 netip.Addr
	IPv6 netip.Addr // zero without IPv6
}

// IPs returns the container's addresses, IPv4 first.
func (c *Container) IPs() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{c.IPv4, c.IPv6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// AddContainer does what dockerd and docker run do with a subnet.env: it makes
// the bridge docker0 with env's addresses and MTU, if it does not exist, switches
// forwarding on, and starts a container with the next free addresses. The
// container lives as long as the host.
func (h *Host) AddContainer(env subnet.Env) (*Container, error) {
	c, err := h.addContainer(env)
	if err != nil {
		return nil, fmt.Errorf("adding a container to %s: %w", h.Name, err)
	}
	return c, nil
}

func (h *Host) addContainer(env subnet.Env) (*Container, error) {
	var gateways []netip.Prefix
	for _, p := range []netip.Prefix{env.Subnet, env.IPv6Subnet} {
		if p.IsValid() {
			gateways = append(gateways, p)
		}
	}
	if len(gateways) == 0 {
		return nil, errors.New("subnet.env names no subnet")
	}
	if err := h.addDocker0(gateways, env.MTU); err != nil {
		return nil, err
	}

	i := len(h.Containers) + 1
	ns, err := New(fmt.Sprintf("%s-container%d", h.Name, i))
	if err != nil {
		return nil, err
	}
	c := &Container{Namespace: ns}
	h.Containers = append(h.Containers, c)
	if err := c.prepare(env.IPv6Subnet.IsValid()); err != nil {
		return nil, err
	}
	port := fmt.Sprintf("veth%d", i)
	if err := c.AddVeth("eth0", h.Namespace, port, env.MTU); err != nil {
		return nil, err
	}
	if err := h.Namespace.AddPort("docker0", port); err != nil {
		return nil, err
	}
	if err := h.SetUp(port); err != nil {
		return nil, err
	}
	if err := c.SetUp("eth0"); err != nil {
		return nil, err
	}
	for _, gateway := range gateways {
		if err := c.addAddress(gateway, i); err != nil {
			return nil, err
		}
	}
	for _, wait := range []struct {
		ns   *Namespace
		name string
	}{{c.Namespace, "eth0"}, {h.Namespace, port}, {h.Namespace, "docker0"}} {
		if err := wait.ns.WaitRunning(wait.name); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// addAddress gives the container the i-th address after the bridge's, and a
// default route to the bridge.
func (c *Container) addAddress(gateway netip.Prefix, i int) error {
	address := gateway.Addr()
	for range i {
		address = address.Next()
	}
	if !gateway.Contains(address) {
		return fmt.Errorf("no address left in %v", gateway.Masked())
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if address.Is6() {
		c.IPv6, everywhere = address, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	} else {
		c.IPv4 = address
	}
	if err := c.AddAddress("eth0", netip.PrefixFrom(address, gateway.Bits())); err != nil {
		return err
	}
	return c.AddRoute(everywhere, gateway.Addr(), "eth0")
}

func (h *Host) addDocker0(gateways []netip.Prefix, mtu int) error {
	if h.docker0 {
		return nil
	}
	if err := h.AddBridge("docker0", mtu); err != nil {
		return err
	}
	if err := h.SetUp("docker0"); err != nil {
		return err
	}
	for _, gateway := range gateways {
		forwarding := "net.ipv4.ip_forward"
		if gateway.Addr().Is6() {
			forwarding = "net.ipv6.conf.all.forwarding"
		}
		if err := h.Sysctl(forwarding, "1"); err != nil {
			return err
		}
		if err := h.AddAddress("docker0", gateway); err != nil {
			return err
		}
	}
	h.docker0 = true
	return nil
}
