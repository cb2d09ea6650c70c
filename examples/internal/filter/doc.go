// Package filter keeps the packet filter rules that a host of a network needs,
// in the kernel, through nftables' netlink interface; it runs no nft and no
// iptables.
//
// # The table
//
// All rules are in one table of our own, "inet hostgw". It is replaced as a
// whole in one transaction, so that every packet meets either the old rules or
// the new ones. Its two chains hold, for each family:
//
//	chain postrouting {                      # Config.Masquerade
//		type nat hook postrouting priority 99
//		mark & 0x4000 == 0x4000 return       # kube-proxy translates these itself
//		saddr NETWORK daddr NETWORK return   # inside the network
//		daddr SUBNET return                  # from outside to this node's own containers
//		saddr NETWORK daddr != MULTICAST masquerade fully-random
//		daddr NETWORK masquerade fully-random
//	}
//	chain forward {                          # Config.Forward
//		type filter hook forward priority 0
//		saddr NETWORK accept
//		daddr NETWORK accept
//	}
//
// This means what flanneld's rules mean. Traffic that leaves the network gets
// this host's address, and so does traffic that a peer's container could
// otherwise not answer to, because it comes from an address outside the network
// through this host.
//
// # Chains that drop
//
// In nftables an accept ends only the chain that it stands in: no rule of ours
// can save a packet from another chain of the forward hook. Where iptables' own
// FORWARD chain drops, the exception has to be made there. With Config.Forward
// it is made in DOCKER-USER, the chain that Docker reserves for its users and
// never empties; it exists where Docker manages iptables, and is needed there
// even if the policy is to accept, because Docker's own chains drop what comes
// from another host. Where FORWARD has the policy drop and no DOCKER-USER is
// called, the exception goes to the end of FORWARD, as flanneld's did.
//
// The exception is two rules, marked with a comment to find them again. They
// stand behind all of the operator's rules in the chain, before a final RETURN
// only, and move there when rules are added. They leave out the traffic between
// containers of this host, and with Config.Uplink they are for traffic through
// the uplink alone, so that Docker's isolation between its networks
// (and --icc=false) stays in force:
//
//	-s NETWORK ! -d SUBNET -o UPLINK -j ACCEPT
//	-d NETWORK ! -s SUBNET -i UPLINK -j ACCEPT
//
// What cannot be excepted is named in [Status.Problems]: a chain of another
// table whose policy is drop ([DropError]); the rules in table raw with which
// Docker 28 and later drop what another host sends to a container
// ([DirectAccessError]); and the tables of iptables-legacy, which nftables does
// not show and in which nothing is changed ([LegacyError]).
//
// # Forwarding
//
// A host that does not forward joins nothing. If net.ipv4.ip_forward or
// net.ipv6.conf.all.forwarding is off, it is switched on with Config.Forward,
// else named ([ForwardingError]). A host that forwards IPv6 ignores router
// advertisements by default, and the kernel drops what it learnt from them when
// forwarding is switched on; so that the host keeps its default route, accept_ra
// goes from 1 to 2 first, on the uplink and on the interfaces through which an
// advertised default route leads, and on no other. [Cleanup] leaves these
// settings as they are: others may rely on them by then.
//
// With net.bridge.bridge-nf-call-iptables set to 1 (Docker sets it with
// --icc=false, Kubernetes always) the bridged traffic between two containers of
// this host also passes the forward and postrouting chains. Ours accept it and
// never masquerade it. Whether FORWARD accepts it is left to whoever made the
// bridge.
package filter
