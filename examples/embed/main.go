// Embed is the smallest program that joins a host to a hostgw network: what an
// orchestrator would do, without hostgwd. It needs an etcd that holds the network
// config, and leave to change routes:
//
//	etcdctl put /coreos.com/network/config '{"Network":"192.168.0.0/16","Backend":{"Type":"host-gw"}}'
//	sudo embed http://172.17.42.40:2379
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, endpoints []string) error {
	client, err := etcd.Dial(etcd.ClientConfig{Endpoints: endpoints})
	if err != nil {
		return err
	}
	defer client.Close()
	uplink, err := netlinkx.FindUplink(ctx, netlinkx.UplinkOptions{IPv4: true})
	if err != nil {
		return err
	}
	m, err := hostgw.New(hostgw.Config{Store: etcd.New(client, "/coreos.com/network"), Uplink: uplink})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error {
		if joined, err := m.Lease(ctx); err == nil {
			fmt.Println("containers of this host belong into", joined.Lease.Key)
		}
		return nil // if there is none, Run says why
	})
	return g.Wait()
}
