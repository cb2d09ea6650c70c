package setting

import (
	"net/netip"
	"net/url"
	"time"
)

// Values are the settings after flags, environment and defaults were read.
type Values struct {
	EtcdEndpoints []string // empty for the embedded etcd
	EtcdPrefix    string
	EtcdKeyFile   string
	EtcdCertFile  string
	EtcdCAFile    string
	EtcdUsername  string
	EtcdPassword  string

	// The network to store in the config key. Zero values are left to the
	// config's own defaults.
	Network                      netip.Prefix
	SubnetLen                    int
	SubnetMin, SubnetMax         netip.Addr
	IPv6Network                  netip.Prefix
	IPv6SubnetLen                int
	IPv6SubnetMin, IPv6SubnetMax netip.Addr

	DataDir          string
	ListenClientURLs []url.URL

	Iface         []string
	IfaceRegex    []string
	IfaceCanReach netip.Addr
	PublicIP      netip.Addr
	PublicIPv6    netip.Addr

	SubnetFile string
	LeaseTTL   time.Duration
	MoveOnLoss bool

	RouteTable    uint32
	RouteMetric   uint32
	RouteProtocol uint8
	RouteSrc      netip.Addr
	RouteSrcIPv6  netip.Addr
	RouteOnlink   bool

	IPMasq                   bool
	IPMasqFullyRandomDisable bool
	ForwardRules             bool
	FilterResync             time.Duration
	BlackholeRoute           bool

	HealthzIP   netip.Addr
	HealthzPort uint16
	Socket      string
	SocketGroup string

	Verbose bool
	Version bool
}

// HasNetwork reports whether a network to store was given.
func (v Values) HasNetwork() bool { return v.Network.IsValid() || v.IPv6Network.IsValid() }
