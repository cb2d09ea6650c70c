package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// plan is what a start would do on this host.
type plan struct {
	Uplink     string         `json:"uplink"`
	Etcd       string         `json:"etcd,omitempty"` // data directory of an etcd of our own that would be started
	Network    []netip.Prefix `json:"network"`
	Lease      string         `json:"lease"`
	Held       bool           `json:"held"` // it is this host's already
	SubnetFile string         `json:"subnetFile"`
	Env        string         `json:"env,omitempty"` // what would be written to it; empty if it stands there already
	Routes     []plannedRoute `json:"routes"`
	Refused    []status.Peer  `json:"refused"` // peers that would get no route
	Filter     []string       `json:"filter"`  // what the packet filter would be made to do
}

// plannedRoute is a change to the kernel's routes.
type plannedRoute struct {
	Change   string       `json:"change"` // of a netlinkx.ChangeKind
	Subnet   netip.Prefix `json:"subnet"`
	Gateway  netip.Addr   `json:"gateway"`
	Before   netip.Addr   `json:"before,omitzero"`
	TakeOver bool         `json:"takeOver,omitempty"` // of a route that flanneld left
	Error    string       `json:"error,omitempty"`
}

// runPlan prints what a start would change, and changes nothing.
func runPlan(ctx context.Context, c *call) error {
	asJSON, err := c.json()
	if err != nil {
		return err
	}
	d := newDaemon(c.Values, c.log, thisBuild())
	snap, own, err := planSnapshot(ctx, c)
	if err != nil {
		return err
	}
	if snap.Config.Err != nil {
		return fmt.Errorf("%s/config: %w: hostgwd would wait for it", c.EtcdPrefix, snap.Config.Err)
	}
	uplink, err := d.findUplink(ctx, snap.Config.Config)
	if err != nil {
		return err
	}
	p, err := d.plan(ctx, snap, uplink)
	if err != nil {
		return err
	}
	if own {
		p.Etcd = c.DataDir
	}
	if asJSON {
		return status.Encode(c.stdout, p)
	}
	return p.print(c.stdout)
}

// planSnapshot is what a start would find in the store. own says that the store
// would be one of our own that does not exist yet.
func planSnapshot(ctx context.Context, c *call) (snap subnet.Snapshot, own bool, err error) {
	wish, err := wishedNetwork(c.Values)
	if err != nil {
		return snap, false, err
	}
	seeds := false // a start would see to the network in an etcd of our own, which runs now
	if len(c.EtcdEndpoints) == 0 {
		r, err := status.Get(ctx, c.Socket)
		running := err == nil
		seeds = running && r.Store.Embedded && c.HasNetwork()
		switch access := c.CheckAccess(); {
		case !running && access != nil:
			return snap, false, classed{errUsage, access}
		case !running && embedded.Exists(c.DataDir):
			return snap, false, fmt.Errorf("the leases are in %s, which can only be looked at while hostgwd runs", c.DataDir)
		case !running && c.HasNetwork():
			return subnet.Snapshot{Config: subnet.NetworkConfig{Config: wish}}, true, nil
		case !running:
			return snap, false, classed{errUsage, errors.New("nothing to join and nothing to begin: give -etcd-endpoints or -network")}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	client, err := dialStore(ctx, c.Values)
	if err != nil {
		return snap, false, err
	}
	defer client.Close()
	snap, err = etcd.New(client, c.EtcdPrefix).Snapshot(ctx)
	if errors.Is(snap.Config.Err, subnet.ErrNoConfig) && c.HasNetwork() {
		snap.Config = subnet.NetworkConfig{Config: wish}
	}
	if err == nil && seeds {
		follows, err := seedFollows(ctx, client, c.EtcdPrefix, wish)
		if err != nil {
			return snap, false, err
		}
		if follows {
			snap.Config = subnet.NetworkConfig{Config: wish}
		}
	}
	return snap, false, err
}

// plan works out what a start would do, given what is stored and the uplink.
func (d *daemon) plan(ctx context.Context, snap subnet.Snapshot, uplink netlinkx.Uplink) (plan, error) {
	c := snap.Config.Config
	holder := subnet.Holder{BackendType: subnet.BackendType}
	if c.IPv4.IsValid() {
		holder.PublicIP = uplink.IPv4
	}
	if c.IPv6.IsValid() {
		holder.PublicIPv6 = uplink.IPv6
	}
	choice, err := subnet.Select(c, snap.Records, subnet.Request{Holder: holder, Previous: previousSubnet(d.set.SubnetFile, d.log)})
	if err != nil {
		return plan{}, err
	}
	p := plan{
		Uplink: uplink.Name, Network: networks(c), Lease: choice.Key.String(), Held: choice.Held != nil,
		SubnetFile: d.set.SubnetFile, Routes: []plannedRoute{}, Refused: []status.Peer{}, Filter: d.planFilter(c),
	}
	env := subnet.NewEnv(c, choice.Key, uplink.MTU, d.set.IPMasq)
	if now, err := subnet.ReadEnv(d.set.SubnetFile); err != nil || now != env {
		text, err := env.MarshalText()
		if err != nil {
			return p, err
		}
		p.Env = string(text)
	}

	policy := hostgw.Policy{
		Networks: networks(c),
		Own:      subnet.Lease{Key: choice.Key, Holder: holder},
		Uplink:   uplink,
		OnLink:   d.set.RouteOnlink,
	}
	wanted := netlinkx.Wanted{Networks: policy.Networks}
	for _, peer := range policy.Peers(snap.Records) {
		refused := false
		for _, r := range peer.Routes {
			if r.Reason == hostgw.ReasonNone {
				wanted.Routes = append(wanted.Routes, netlinkx.Route{Subnet: r.Subnet, Gateway: r.Gateway})
			} else {
				refused = true
			}
		}
		if refused {
			p.Refused = append(p.Refused, status.NewPeer(peer))
		}
	}
	changes, err := netlinkx.Plan(ctx, d.programmerConfig(uplink), wanted)
	if err != nil {
		return p, err
	}
	for _, ch := range changes {
		r := plannedRoute{Change: ch.Kind.String(), Subnet: ch.Route.Subnet, Gateway: ch.Route.Gateway, Before: ch.Before, TakeOver: ch.TakeOver}
		if ch.Err != nil {
			r.Error = ch.Err.Error()
		}
		p.Routes = append(p.Routes, r)
	}
	return p, nil
}

// planFilter is what the packet filter would be made to do.
func (d *daemon) planFilter(c subnet.Config) []string {
	list := []string{}
	for _, n := range networks(c) {
		if d.set.IPMasq {
			list = append(list, fmt.Sprintf("masquerade what leaves %s", n))
		}
		if d.set.ForwardRules {
			list = append(list, fmt.Sprintf("accept what is forwarded from and to %s, and forward", n))
		}
	}
	return list
}

func (p plan) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if p.Etcd != "" {
		fmt.Fprintf(t, "etcd\twould be started, with its data in %s\n", p.Etcd)
	}
	fmt.Fprintf(t, "uplink\t%s\n", p.Uplink)
	fmt.Fprintf(t, "network\t%s\n", words(p.Network))
	lease := "would be leased, if nobody else takes it meanwhile"
	if p.Held {
		lease = "is this host's, and stays"
	}
	fmt.Fprintf(t, "lease\t%s %s\n", p.Lease, lease)
	file := "is as it would be"
	if p.Env != "" {
		file = "would be written"
	}
	fmt.Fprintf(t, "file\t%s %s\n", p.SubnetFile, file)
	for _, f := range p.Filter {
		fmt.Fprintf(t, "filter\t%s\n", f)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(p.Routes) == 0 {
		fmt.Fprintln(w, "\nno route would change")
	} else {
		fmt.Fprintln(t, "\nROUTE\tSUBNET\tGATEWAY\tWHY")
		for _, r := range p.Routes {
			why := r.Error
			if r.Before.IsValid() {
				why = "instead of " + r.Before.String()
			}
			if r.TakeOver {
				why = "left by flanneld"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Change, r.Subnet, r.Gateway, why)
		}
	}
	for _, peer := range p.Refused {
		for _, r := range peer.Routes {
			if r.State == status.NoRoute {
				fmt.Fprintf(t, "refused\t%s\t%s\t%s\n", peer.Name, r.Gateway, r.Reason)
			}
		}
	}
	return t.Flush()
}
