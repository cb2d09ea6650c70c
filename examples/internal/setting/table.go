package setting

import (
	"flag"
	"strings"
)

// Setting is one thing that hostgwd can be told.
type Setting struct {
	Name    string // of the flag, without its dashes
	Arg     string // what the help calls its value; empty for a switch
	Default string // as the flag would take it; empty if there is none
	Help    string // what it does, in a sentence or two

	// Flanneld is what becomes of flanneld's flag of this name; empty if
	// flanneld has none, and then FLANNELD_… is not read either.
	Flanneld string

	// Refused means that the setting is known only to be refused, with Help as
	// the reason.
	Refused bool

	value func(*Values) flag.Value
}

// Env is the environment variable that sets it.
func (s Setting) Env() string { return "HOSTGWD_" + envName(s.Name) }

// FlanneldEnv is flanneld's variable for it, which is read if neither the flag
// nor Env is given; empty if flanneld has no such flag.
func (s Setting) FlanneldEnv() string {
	if s.Flanneld == "" {
		return ""
	}
	return "FLANNELD_" + envName(s.Name)
}

// Repeatable reports whether the flag may be given several times.
func (s Setting) Repeatable() bool {
	if s.value == nil {
		return false
	}
	_, ok := s.value(new(Values)).(repeated)
	return ok
}

// Switch reports whether the flag stands without a value.
func (s Setting) Switch() bool { return s.Arg == "" }

func envName(flag string) string {
	return strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

const (
	same    = "The same."
	nothing = "Accepted, without effect: "
	kube    = "it belongs to flanneld's Kubernetes mode; hostgwd keeps its leases in etcd only"
)

// Table returns every setting, in the order in which the help shows them.
func Table() []Setting {
	return []Setting{
		// The store.
		{Name: "etcd-endpoints", Arg: "urls", Flanneld: "The same, but the default is not http://127.0.0.1:2379: without it hostgwd starts an etcd of its own.",
			Help:  "Comma-separated URLs of the etcd that holds the leases. Without it hostgwd runs an etcd of its own in -data-dir.",
			value: func(v *Values) flag.Value { return endpoints{&v.EtcdEndpoints} }},
		{Name: "etcd-prefix", Arg: "prefix", Default: "/coreos.com/network", Flanneld: same,
			Help:  "Key prefix of the network in etcd.",
			value: func(v *Values) flag.Value { return keyPrefix{&v.EtcdPrefix} }},
		{Name: "etcd-keyfile", Arg: "file", Flanneld: same,
			Help:  "Private key of the client certificate, PEM.",
			value: func(v *Values) flag.Value { return text{&v.EtcdKeyFile} }},
		{Name: "etcd-certfile", Arg: "file", Flanneld: same,
			Help:  "Client certificate for etcd, PEM. Read again at each connection, so that it may be rotated.",
			value: func(v *Values) flag.Value { return text{&v.EtcdCertFile} }},
		{Name: "etcd-cafile", Arg: "file", Flanneld: same,
			Help:  "Certificate authority that etcd's certificate must be of, PEM; the system's if absent.",
			value: func(v *Values) flag.Value { return text{&v.EtcdCAFile} }},
		{Name: "etcd-username", Arg: "name", Flanneld: same,
			Help:  "User to log in to etcd as.",
			value: func(v *Values) flag.Value { return text{&v.EtcdUsername} }},
		{Name: "etcd-password", Arg: "password", Flanneld: same,
			Help:  "The user's password. Better given in the environment, which other users cannot read.",
			value: func(v *Values) flag.Value { return text{&v.EtcdPassword} }},

		// The network to begin.
		{Name: "network", Arg: "cidr",
			Help:  "IPv4 network of all containers, written to the store: an etcd of our own takes it over whenever it changes here; in a shared etcd it is written only where there is none yet.",
			value: func(v *Values) flag.Value { return network{&v.Network, false} }},
		{Name: "subnet-len", Arg: "bits",
			Help:  "Prefix length of each host's subnet; 24 if the network is a /22 or wider, else the network's plus 2.",
			value: func(v *Values) flag.Value { return integer[int]{&v.SubnetLen, 1, 30} }},
		{Name: "subnet-min", Arg: "address",
			Help:  "First subnet to lease; the network's second if absent.",
			value: func(v *Values) flag.Value { return address{&v.SubnetMin, 4} }},
		{Name: "subnet-max", Arg: "address",
			Help:  "Last subnet to lease; the network's last if absent.",
			value: func(v *Values) flag.Value { return address{&v.SubnetMax, 4} }},
		{Name: "ipv6-network", Arg: "cidr",
			Help:  "IPv6 network of all containers; with -network besides it for dual-stack.",
			value: func(v *Values) flag.Value { return network{&v.IPv6Network, true} }},
		{Name: "ipv6-subnet-len", Arg: "bits",
			Help:  "Prefix length of each host's IPv6 subnet; 64 if the network is a /62 or wider, else the network's plus 2.",
			value: func(v *Values) flag.Value { return integer[int]{&v.IPv6SubnetLen, 1, 126} }},
		{Name: "ipv6-subnet-min", Arg: "address",
			Help:  "First IPv6 subnet to lease.",
			value: func(v *Values) flag.Value { return address{&v.IPv6SubnetMin, 6} }},
		{Name: "ipv6-subnet-max", Arg: "address",
			Help:  "Last IPv6 subnet to lease.",
			value: func(v *Values) flag.Value { return address{&v.IPv6SubnetMax, 6} }},
		{Name: "data-dir", Arg: "dir", Default: "/var/lib/hostgwd",
			Help:  "Where the etcd of our own keeps its data.",
			value: func(v *Values) flag.Value { return text{&v.DataDir} }},
		{Name: "listen-client-urls", Arg: "urls", Default: "http://127.0.0.1:2379",
			Help:  "Comma-separated URLs on which the etcd of our own listens, e.g. http://127.0.0.1:2379,http://172.17.42.40:2379 for the other hosts to reach it. Whoever reaches it may change the network: keep it on the segment of the hosts.",
			value: func(v *Values) flag.Value { return listenURLs{&v.ListenClientURLs} }},

		// The uplink.
		{Name: "iface", Arg: "name|address", Flanneld: same,
			Help:  "Interface on the segment that joins the hosts, by name or by an address on it. May be repeated; the first that is there is taken. The default is the interface of the default route.",
			value: func(v *Values) flag.Value { return texts{&v.Iface} }},
		{Name: "iface-regex", Arg: "regexp", Flanneld: same,
			Help:  "Regular expression on the interface's name or one of its addresses, looked at if no -iface is there. May be repeated.",
			value: func(v *Values) flag.Value { return patterns{&v.IfaceRegex} }},
		{Name: "iface-can-reach", Arg: "address", Flanneld: same,
			Help:  "Take the interface through which this address is reached.",
			value: func(v *Values) flag.Value { return address{&v.IfaceCanReach, 0} }},
		{Name: "public-ip", Arg: "address", Flanneld: same,
			Help:  "IPv4 address under which the other hosts reach this one; the interface's if absent.",
			value: func(v *Values) flag.Value { return address{&v.PublicIP, 4} }},
		{Name: "public-ipv6", Arg: "address", Flanneld: same,
			Help:  "IPv6 address under which the other hosts reach this one; the interface's if absent.",
			value: func(v *Values) flag.Value { return address{&v.PublicIPv6, 6} }},

		// The lease.
		{Name: "subnet-file", Arg: "file", Default: "/run/flannel/subnet.env", Flanneld: same,
			Help:  "File that tells the container engine its subnet and MTU.",
			value: func(v *Values) flag.Value { return text{&v.SubnetFile} }},
		{Name: "lease-ttl", Arg: "duration", Default: "24h",
			Help:  "How long the lease outlives this host.",
			value: func(v *Values) flag.Value { return duration{&v.LeaseTTL, minTTL, maxTTL} }},
		{Name: "move-on-loss",
			Help:  "When another host has come to hold this one's subnet, or the config no longer has room for it, take another subnet and rewrite -subnet-file, instead of stopping.",
			value: func(v *Values) flag.Value { return boolean{&v.MoveOnLoss} }},
		{Name: "subnet-lease-renew-margin", Arg: "minutes", Default: "60",
			Flanneld: "Accepted and checked, without effect: the lease is kept alive all the time, not renewed at its end.",
			Help:     "Accepted for flanneld's sake; the lease is kept alive all the time.",
			value:    func(*Values) flag.Value { return integer[int]{new(int), 1, 1439} }},

		// The routes.
		{Name: "route-table", Arg: "number", Default: "254",
			Help:  "Routing table to write to; 254 is main.",
			value: func(v *Values) flag.Value { return integer[uint32]{&v.RouteTable, 1, 1<<32 - 1} }},
		{Name: "route-metric", Arg: "number", Default: "0",
			Help:  "Metric of the routes; 0 is the kernel's default.",
			value: func(v *Values) flag.Value { return integer[uint32]{&v.RouteMetric, 0, 1<<32 - 1} }},
		{Name: "route-protocol", Arg: "number", Default: "104",
			Help:  "Routing protocol number that marks the routes as ours. Two hostgwd in one network namespace need two.",
			value: func(v *Values) flag.Value { return integer[uint8]{&v.RouteProtocol, 5, 255} }},
		{Name: "route-src", Arg: "address",
			Help:  "Preferred source address of the IPv4 routes.",
			value: func(v *Values) flag.Value { return address{&v.RouteSrc, 4} }},
		{Name: "route-src-ipv6", Arg: "address",
			Help:  "Preferred source address of the IPv6 routes.",
			value: func(v *Values) flag.Value { return address{&v.RouteSrcIPv6, 6} }},
		{Name: "route-onlink",
			Help:  "Tell the kernel that the other hosts are on the uplink though no address says so, for clouds that give each host a /32.",
			value: func(v *Values) flag.Value { return boolean{&v.RouteOnlink} }},
		{Name: "ip-blackhole-route", Flanneld: "The same, with a metric that lets every other route to the subnet go first, and taken away by hostgwd cleanup.",
			Help:  "Drop packets for addresses of this host's subnet that no container has, instead of sending them to the default route.",
			value: func(v *Values) flag.Value { return boolean{&v.BlackholeRoute} }},

		// The packet filter.
		{Name: "ip-masq", Flanneld: "The same meaning, in an nftables table of our own.",
			Help:  "Masquerade traffic that leaves the network.",
			value: func(v *Values) flag.Value { return boolean{&v.IPMasq} }},
		{Name: "ip-masq-fully-random-disable", Flanneld: same,
			Help:  "Masquerade without randomising source ports fully.",
			value: func(v *Values) flag.Value { return boolean{&v.IPMasqFullyRandomDisable} }},
		{Name: "iptables-forward-rules", Default: "true", Flanneld: "The same meaning, in an nftables table of our own, and IP forwarding is switched on where it is off.",
			Help:  "Accept forwarded traffic of the network, and switch IP forwarding on.",
			value: func(v *Values) flag.Value { return boolean{&v.ForwardRules} }},
		{Name: "iptables-resync", Arg: "seconds", Default: "5", Flanneld: "The same: how often the rules are looked at.",
			Help:  "How often the packet filter rules are checked, in seconds or as a duration.",
			value: func(v *Values) flag.Value { return seconds{&v.FilterResync} }},

		// Watching it.
		{Name: "healthz-ip", Arg: "address", Default: "0.0.0.0", Flanneld: same,
			Help:  "Address on which /healthz, /readyz and /metrics are served.",
			value: func(v *Values) flag.Value { return address{&v.HealthzIP, 0} }},
		{Name: "healthz-port", Arg: "port", Default: "0", Flanneld: "The same; /readyz and /metrics are served besides.",
			Help:  "Port of -healthz-ip; 0 serves nothing.",
			value: func(v *Values) flag.Value { return integer[uint16]{&v.HealthzPort, 0, 65535} }},
		{Name: "socket", Arg: "file", Default: "/run/hostgwd/hostgwd.sock",
			Help:  "Unix socket over which hostgwd status talks to the daemon; none if empty.",
			value: func(v *Values) flag.Value { return text{&v.Socket} }},
		{Name: "socket-group", Arg: "group",
			Help:  "Group that may use the socket besides root.",
			value: func(v *Values) flag.Value { return text{&v.SocketGroup} }},
		{Name: "v", Flanneld: "Any level above zero logs what hostgwd has to say for debugging.",
			Help:  "Log more. A level, as flanneld takes one, may follow.",
			value: func(v *Values) flag.Value { return verbosity{&v.Verbose} }},
		{Name: "version", Flanneld: same,
			Help:  "Print the version and exit.",
			value: func(v *Values) flag.Value { return boolean{&v.Version} }},

		// What flanneld has besides.
		{Name: "vmodule", Arg: "pattern", Flanneld: nothing + "use -v.",
			Help:  "Accepted for flanneld's sake, without effect.",
			value: func(*Values) flag.Value { return text{new(string)} }},
		{Name: "log_backtrace_at", Arg: "file:line", Flanneld: nothing + "use -v.",
			Help:  "Accepted for flanneld's sake, without effect.",
			value: func(*Values) flag.Value { return text{new(string)} }},
		refused("kube-subnet-mgr", "", kube),
		refused("kube-api-url", "url", kube),
		refused("kube-annotation-prefix", "prefix", kube),
		refused("kubeconfig-file", "file", kube),
		refused("net-config-path", "file", kube+" (the network is the key <etcd-prefix>/config, or -network)"),
		refused("set-node-network-unavailable", "", kube),
	}
}

func refused(name, arg, why string) Setting {
	return Setting{Name: name, Arg: arg, Help: why, Flanneld: "Refused: " + why + ".", Refused: true}
}
