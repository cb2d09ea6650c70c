package hostgw_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/netlinkx/netlinktest"
	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// Embedding, whole: find the uplink, make a Manager, run it until the context
// ends. A real host leaves out the fake kernel and leases from etcd.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	network, err := subnet.ParseConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		log.Fatal(err)
	}
	kernel := fakeHost() // a real host has its own: leave out both Dials and the Programmer
	uplink, err := netlinkx.FindUplink(ctx, netlinkx.UplinkOptions{Name: "eth0", Dial: kernel.Dial})
	if err != nil {
		log.Fatal(err)
	}
	programmer, err := netlinkx.NewProgrammer(netlinkx.Config{Uplink: uplink, Dial: kernel.Dial})
	if err != nil {
		log.Fatal(err)
	}
	m, err := hostgw.New(hostgw.Config{Store: memory.New(network), Uplink: uplink, Programmer: programmer})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()

	joined, err := m.Lease(ctx)
	fmt.Println(joined.Lease.Key.IPv4.Bits(), joined.Lease.Holder.PublicIP, err)
	stop()
	fmt.Println(<-done)
	// Output:
	// 26 172.17.42.40 <nil>
	// <nil>
}

// fakeHost is a host with one interface, 172.17.42.40/24 on eth0.
func fakeHost() *netlinktest.Kernel {
	k := netlinktest.New()
	k.AddLink("eth0")
	k.SetUp("eth0", true)
	k.AddAddr("eth0", netip.MustParsePrefix("172.17.42.40/24"))
	return k
}
