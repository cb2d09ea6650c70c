// Package subnet holds the nouns of a hostgw network and the rules between
// them, without doing any I/O beyond the subnet.env file: the network [Config],
// the [Key] and the [Holder] that together are a [Lease], what a store says
// about all of them ([Record], [Snapshot], [Update]), the choice of a free
// subnet ([Select]) and the file that tells a container engine its subnet
// ([Env]).
//
// The formats are those of flannel's etcd v3 layout, so that hosts that run
// flanneld with its host-gw backend and hosts that run hostgw share one network.
package subnet
