package subnet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hostgw/hostgw/subnet"
)

func ExampleParseConfig() {
	c, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.IPv4.Len(), "subnets, from", c.IPv4.Subnet(0), "to", c.IPv4.Subnet(c.IPv4.Len()-1))

	_, err = subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","SubnetLen":31,"Backend":{"Type":"host-gw"}}`))
	fmt.Println(err)
	var bad *subnet.ConfigError
	fmt.Println(errors.As(err, &bad) && bad.Field == "SubnetLen")
	// Output:
	// 255 subnets, from 10.5.1.0/24 to 10.5.255.0/24
	// network config: SubnetLen is 31, it must be at most 30
	// true
}

func ExampleParseKey() {
	k, err := subnet.ParseKey("10.5.1.0-24&fd99:0:0:4b::-64")
	fmt.Println(k.IPv4, k.IPv6, err)
	_, err = subnet.ParseKey("10.5.1.7-24")
	fmt.Println(err, errors.Is(err, subnet.ErrHostBits))
	// Output:
	// 10.5.1.0/24 fd99:0:0:4b::/64 <nil>
	// lease key "10.5.1.7-24": host bits are set past /24 of 10.5.1.7 true
}

func ExampleHolder() {
	value, err := json.Marshal(subnet.Holder{PublicIP: netip.MustParseAddr("172.17.42.41"), BackendType: subnet.BackendType})
	fmt.Println(string(value), err)
	// Output:
	// {"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"} <nil>
}

func ExampleSelect() {
	c, err := subnet.Config{IPv4: subnet.Range{Network: netip.MustParsePrefix("10.5.0.0/16")}}.Complete()
	if err != nil {
		fmt.Println(err)
		return
	}
	node := subnet.Holder{PublicIP: netip.MustParseAddr("172.17.42.41"), BackendType: subnet.BackendType}

	// The first time, whatever is free; then what the store says that it holds.
	first, err := subnet.Select(c, nil, subnet.Request{Holder: node})
	fmt.Println(c.Fits(first.Key), first.Held == nil, err)

	stored := subnet.Record{Name: "10.5.7.0-24", Lease: subnet.Lease{Holder: node}, Token: 1}
	stored.Lease.Key, _ = subnet.ParseKey(stored.Name)
	again, err := subnet.Select(c, []subnet.Record{stored}, subnet.Request{Holder: node})
	fmt.Println(again.Key, again.Held.Name, err)
	// Output:
	// true true <nil>
	// 10.5.7.0-24 10.5.7.0-24 <nil>
}

func ExampleEnv() {
	c, err := subnet.ParseConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	k, err := subnet.ParseKey("192.168.1.192-26")
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := subnet.NewEnv(c, k, 1500, false).MarshalText()
	fmt.Print(string(text))
	fmt.Println(err)
	// Output:
	// FLANNEL_NETWORK=192.168.0.0/16
	// FLANNEL_SUBNET=192.168.1.193/26
	// FLANNEL_MTU=1500
	// FLANNEL_IPMASQ=false
	// <nil>
}
