package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// leaseTimeout is how long lease commands wait for the store.
const leaseTimeout = 10 * time.Second

func runLease(ctx context.Context, c *call) error {
	operations := map[string]func(context.Context, *call, *etcd.Store) error{
		"ls": listLeases, "reserve": reserveLease, "release": releaseLease,
	}
	if len(c.Args) == 0 || operations[c.Args[0]] == nil {
		return classed{errUsage, errors.New("lease takes one of ls, reserve SUBNET… and release SUBNET…")}
	}
	if _, err := c.json(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	client, err := dialStore(ctx, c.Values)
	if err != nil {
		return err
	}
	defer client.Close()
	err = operations[c.Args[0]](ctx, c, etcd.New(client, c.EtcdPrefix))
	if errors.Is(err, errUsage) {
		return err // the store has nothing to do with it
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", strings.Join(client.Endpoints(), ","), err)
	}
	return nil
}

// leaseRow is a line of lease ls.
type leaseRow struct {
	Name     string         `json:"name"`
	Subnets  []netip.Prefix `json:"subnets"`
	Holder   []netip.Addr   `json:"holder"`
	Host     string         `json:"host,omitempty"` // its name, if it runs hostgw
	Backend  string         `json:"backend,omitempty"`
	Reserved bool           `json:"reserved"`
	Seconds  int64          `json:"secondsLeft,omitempty"` // none for a reservation
	Here     string         `json:"here"`                  // own, the route's state, why there is none, or unknown without a daemon
	Error    string         `json:"error,omitempty"`       // why the record cannot be read
}

func newLeaseRow(r etcd.Listed, here map[string]string) leaseRow {
	row := leaseRow{
		Name: r.Name, Reserved: r.Reserved(), Seconds: int64(r.Left / time.Second), Host: r.User.Name, Here: "unknown",
		Subnets: []netip.Prefix{}, Holder: []netip.Addr{},
	}
	if h := here[r.Name]; h != "" {
		row.Here = h
	}
	if r.Err != nil {
		row.Error = r.Err.Error()
		return row
	}
	row.Backend = r.Lease.Holder.BackendType
	for _, p := range []netip.Prefix{r.Lease.Key.IPv4, r.Lease.Key.IPv6} {
		if p.IsValid() {
			row.Subnets = append(row.Subnets, p)
		}
	}
	for _, a := range []netip.Addr{r.Lease.Holder.PublicIP, r.Lease.Holder.PublicIPv6} {
		if a.IsValid() {
			row.Holder = append(row.Holder, a)
		}
	}
	return row
}

// routedHere is what the daemon on this host does with each lease, by name.
func routedHere(ctx context.Context, socket string) map[string]string {
	here := make(map[string]string)
	r, err := status.Get(ctx, socket)
	if err != nil {
		return here
	}
	if r.Lease != nil {
		here[r.Lease.Name] = "own"
	}
	for _, p := range r.Peers {
		var states []string
		for _, rt := range p.Routes {
			s := rt.State
			if s == status.NoRoute {
				s = rt.Reason
			}
			if !slices.Contains(states, s) {
				states = append(states, s)
			}
		}
		here[p.Name] = strings.Join(states, ", ")
	}
	return here
}

func listLeases(ctx context.Context, c *call, store *etcd.Store) error {
	if len(c.Args) > 1 {
		return classed{errUsage, fmt.Errorf("%q is one argument too many", c.Args[1])}
	}
	_, list, err := store.List(ctx)
	if err != nil {
		return err
	}
	here := routedHere(ctx, c.Socket)
	rows := make([]leaseRow, 0, len(list))
	for _, l := range list {
		rows = append(rows, newLeaseRow(l, here))
	}
	slices.SortFunc(rows, func(a, b leaseRow) int {
		if len(a.Subnets) > 0 && len(b.Subnets) > 0 {
			return a.Subnets[0].Compare(b.Subnets[0])
		}
		return strings.Compare(a.Name, b.Name)
	})
	return c.printLeases(rows)
}

func (c *call) printLeases(rows []leaseRow) error {
	if asJSON, _ := c.json(); asJSON {
		return status.Encode(c.stdout, rows)
	}
	t := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SUBNET\tHOLDER\tHOST\tLEFT\tHERE")
	for _, r := range rows {
		name, holder, left := r.Name, r.Error, "reserved"
		if r.Error == "" {
			name, holder = words(r.Subnets), words(r.Holder)
			if r.Backend != subnet.BackendType {
				holder += " (" + r.Backend + ")"
			}
		}
		if !r.Reserved {
			left = status.Short(time.Duration(r.Seconds) * time.Second)
		}
		host := r.Host
		if host == "" {
			host = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, holder, host, left, r.Here)
	}
	return t.Flush()
}

func words[T fmt.Stringer](list []T) string {
	var parts []string
	for _, v := range list {
		parts = append(parts, v.String())
	}
	return strings.Join(parts, " ")
}

// parseSubnets reads the subnets of one lease from the arguments of a command:
// as prefixes (10.5.1.0/24 fd99:0:0:4b::/64) or as the lease's key
// (10.5.1.0-24, which a shell does not split at its &).
func parseSubnets(args []string) (subnet.Key, error) {
	if len(args) == 1 && !strings.Contains(args[0], "/") {
		k, err := subnet.ParseKey(args[0])
		if err != nil {
			return k, classed{errUsage, err}
		}
		return k, nil
	}
	var k subnet.Key
	for _, a := range args {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return k, classed{errUsage, fmt.Errorf("%q is no subnet such as 192.168.1.192/26", a)}
		}
		field := &k.IPv6
		if p.Addr().Is4() {
			field = &k.IPv4
		}
		switch {
		case p != p.Masked():
			return k, classed{errUsage, fmt.Errorf("subnet %s: %w; the subnet is %s", p, subnet.ErrHostBits, p.Masked())}
		case field.IsValid():
			return k, classed{errUsage, fmt.Errorf("a lease has one subnet of each address family, not %s and %s", *field, p)}
		}
		*field = p
	}
	if k == (subnet.Key{}) {
		return k, classed{errUsage, errors.New("which subnet? As in: lease reserve 192.168.1.192/26 -public-ip 172.17.42.41")}
	}
	return k, nil
}

// reserveLease turns a lease into a reservation, or makes one for a host that has
// none yet, named by -public-ip and -public-ipv6.
func reserveLease(ctx context.Context, c *call, store *etcd.Store) error {
	key, err := parseSubnets(c.Args[1:])
	if err != nil {
		return err
	}
	holder := subnet.Holder{PublicIP: c.PublicIP, PublicIPv6: c.PublicIPv6, BackendType: subnet.BackendType}
	if !c.PublicIP.IsValid() && !c.PublicIPv6.IsValid() {
		held, err := findLease(ctx, store, key)
		if err != nil {
			return fmt.Errorf("%w: give the address of the host it is for, with -public-ip and -public-ipv6", err)
		}
		holder = held.Lease.Holder
	}
	if key.IPv4.IsValid() != holder.PublicIP.IsValid() || key.IPv6.IsValid() != holder.PublicIPv6.IsValid() {
		return classed{errUsage, fmt.Errorf("%s needs -public-ip if it has an IPv4 subnet, -public-ipv6 if it has an IPv6 one, and no other", key)}
	}
	r, err := store.Reserve(ctx, subnet.Lease{Key: key, Holder: holder})
	if err != nil {
		return err
	}
	return c.printLeases([]leaseRow{newLeaseRow(etcd.Listed{Record: r}, routedHere(ctx, c.Socket))})
}

// releaseLease deletes a lease or a reservation, and shows what it was. What cannot
// be read as subnets is taken for the name of a key that cannot be read either.
func releaseLease(ctx context.Context, c *call, store *etcd.Store) error {
	if len(c.Args) < 2 {
		return classed{errUsage, errors.New("release which subnet?")}
	}
	name := c.Args[1]
	key, err := parseSubnets(c.Args[1:])
	switch {
	case err == nil:
		name = key.String()
	case len(c.Args) > 2:
		return err
	}
	asJSON, _ := c.json()
	was := []leaseRow{}
	if asJSON {
		r, err := findRecord(ctx, store, name)
		switch {
		case err == nil:
			was = append(was, newLeaseRow(etcd.Listed{Record: r}, routedHere(ctx, c.Socket)))
		case !errors.Is(err, errNobodyHolds): // else the next call says so
			return err
		}
	}
	if err := store.ReleaseKey(ctx, name); err != nil {
		return err
	}
	if asJSON {
		return c.printLeases(was)
	}
	fmt.Fprintf(c.stderr, "released %s\n", name)
	return nil
}

var errNobodyHolds = errors.New("nobody holds")

// findLease returns the lease of key, if it is stored and can be read. If it is
// not stored the error wraps errNobodyHolds.
func findLease(ctx context.Context, store *etcd.Store, key subnet.Key) (subnet.Record, error) {
	r, err := findRecord(ctx, store, key.String())
	if err == nil {
		err = r.Err
	}
	return r, err
}

// findRecord is findLease for a record that perhaps cannot be read.
func findRecord(ctx context.Context, store *etcd.Store, name string) (subnet.Record, error) {
	snap, err := store.Snapshot(ctx)
	if err != nil {
		return subnet.Record{}, err
	}
	for _, r := range snap.Records {
		if r.Name == name {
			return r, nil
		}
	}
	return subnet.Record{}, fmt.Errorf("%w %s", errNobodyHolds, name)
}
