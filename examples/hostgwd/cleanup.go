package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/hostgw/hostgw/examples/internal/blackhole"
	"github.com/hostgw/hostgw/examples/internal/filter"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

func cleanupFlags(fs *flagSet, c *call) {
	fs.BoolVar(&c.release, "release", false, "also give this host's lease back, and remove the subnet file: for a host that leaves the network")
}

// runCleanup takes away what the daemon leaves when it stops. It removes what can
// be removed, and says what cannot.
func runCleanup(ctx context.Context, c *call) error {
	unlock, err := lockInstance(c.RouteProtocol)
	if err != nil {
		return fmt.Errorf("%w: stop it first", err)
	}
	defer unlock()
	var errs []error
	n, err := netlinkx.Cleanup(ctx, netlinkx.Config{Protocol: c.RouteProtocol, Logger: c.log})
	if err != nil {
		errs = append(errs, fmt.Errorf("routes: %w", err))
	}
	fmt.Fprintf(c.stdout, "%d routes removed\n", n)
	if err := blackhole.Set(nil); err != nil {
		errs = append(errs, fmt.Errorf("blackhole routes: %w", err))
	}
	if err := filter.Cleanup(ctx); err != nil {
		errs = append(errs, fmt.Errorf("packet filter rules: %w", err))
	} else {
		fmt.Fprintln(c.stdout, "packet filter rules removed")
	}
	if c.release {
		if err := releaseOwn(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("lease: %w", err))
		}
	}
	return errors.Join(errs...)
}

// releaseOwn gives back the lease that the subnet file names, if it is this host's
// in the store too. A reservation is an operator's, and stays.
func releaseOwn(ctx context.Context, c *call) error {
	env, err := subnet.ReadEnv(c.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(c.stdout, "no lease to release: there is no %s\n", c.SubnetFile)
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	client, err := dialStore(ctx, c.Values)
	if err != nil {
		return err
	}
	defer client.Close()
	store := etcd.New(client, c.EtcdPrefix)
	key := env.Key()
	switch r, err := findLease(ctx, store, key); {
	case errors.Is(err, errNobodyHolds):
		fmt.Fprintf(c.stdout, "no lease to release: %v\n", err)
	case err != nil:
		return fmt.Errorf("%s is not released (with the settings of the daemon it can be): %w", key, err)
	case r.Reserved():
		fmt.Fprintf(c.stdout, "%s is reserved and stays; hostgwd lease release %s deletes it\n", key, key)
	default:
		mine, err := isMine(c, r.Lease.Holder)
		if err != nil {
			return err
		}
		if !mine {
			return fmt.Errorf("%s is held by %s, which is no address of this host (-public-ip says otherwise if it is one outside)", key, r.Lease.Holder.PublicIP)
		}
		if err := store.Release(ctx, r); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s released\n", key)
	}
	return os.Remove(c.SubnetFile)
}

// isMine reports whether h is this host: by -public-ip and -public-ipv6, or by an
// address of one of its interfaces.
func isMine(c *call, h subnet.Holder) (bool, error) {
	if h.Same(subnet.Holder{PublicIP: c.PublicIP, PublicIPv6: c.PublicIPv6}) {
		return true, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if a := p.Addr().Unmap(); a == h.PublicIP || a == h.PublicIPv6 {
			return true, nil
		}
	}
	return false, nil
}
