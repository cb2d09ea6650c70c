package setting

import (
	"errors"
	"flag"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaults(t *testing.T) {
	r, err := Parse(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"etcd-prefix", r.EtcdPrefix, "/coreos.com/network"},
		{"subnet-file", r.SubnetFile, "/run/flannel/subnet.env"},
		{"data-dir", r.DataDir, "/var/lib/hostgwd"},
		{"lease-ttl", r.LeaseTTL, 24 * time.Hour},
		{"iptables-forward-rules", r.ForwardRules, true},
		{"iptables-resync", r.FilterResync, 5 * time.Second},
		{"ip-masq", r.IPMasq, false},
		{"healthz-ip", r.HealthzIP, netip.IPv4Unspecified()},
		{"healthz-port", r.HealthzPort, uint16(0)},
		{"route-protocol", r.RouteProtocol, uint8(104)},
		{"listen-client-urls", r.ListenClientURLs[0].String(), "http://127.0.0.1:2379"},
		{"etcd-endpoints", len(r.EtcdEndpoints), 0},
	} {
		if c.got != c.want {
			t.Errorf("-%s is %v by default, want %v", c.name, c.got, c.want)
		}
	}
}

func TestPrecedence(t *testing.T) {
	flanneld := "FLANNELD_ETCD_PREFIX=/flanneld"
	hostgwd := "HOSTGWD_ETCD_PREFIX=/hostgwd"
	for _, c := range []struct {
		args, env []string
		want      string
	}{
		{nil, []string{flanneld}, "/flanneld"},
		{nil, []string{flanneld, hostgwd}, "/hostgwd"},
		{nil, []string{hostgwd, flanneld}, "/hostgwd"},
		{[]string{"-etcd-prefix", "/flag"}, []string{flanneld, hostgwd}, "/flag"},
		{[]string{"--etcd-prefix=/flag/"}, []string{hostgwd}, "/flag"},
		{nil, []string{flanneld, "HOSTGWD_ETCD_PREFIX="}, "/flanneld"}, // empty is absent
		{nil, []string{"FLANNELD_DATA_DIR=/nonsense"}, "/coreos.com/network"},
	} {
		r, err := Parse(c.args, c.env, nil)
		if err != nil || r.EtcdPrefix != c.want {
			t.Errorf("%v with %v gives prefix %q, %v; want %q", c.args, c.env, r.EtcdPrefix, err, c.want)
		}
		if r.DataDir != "/var/lib/hostgwd" {
			t.Errorf("%v: a variable that flanneld does not have was read", c.env)
		}
	}
}

// A setting that is a switch keeps its default when the environment says so, and
// the command line can take back what the environment switched on.
func TestSwitches(t *testing.T) {
	for _, c := range []struct {
		args, env []string
		forward   bool
		masq      bool
	}{
		{nil, nil, true, false},
		{[]string{"-iptables-forward-rules=false", "--ip-masq"}, nil, false, true},
		{nil, []string{"FLANNELD_IP_MASQ=true", "FLANNELD_IPTABLES_FORWARD_RULES=false"}, false, true},
		{[]string{"-ip-masq=false"}, []string{"FLANNELD_IP_MASQ=true"}, true, false},
	} {
		r, err := Parse(c.args, c.env, nil)
		if err != nil || r.ForwardRules != c.forward || r.IPMasq != c.masq {
			t.Errorf("%v with %v: forward %t, masquerade %t, %v", c.args, c.env, r.ForwardRules, r.IPMasq, err)
		}
	}
}

func TestRepeated(t *testing.T) {
	r, err := Parse([]string{"-iface", "eth1", "--iface=10.0.0.1", "-iface-regex", "^en.{1,2}$", "-iface-regex", "b"}, []string{"HOSTGWD_IFACE=eth9"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"eth1", "10.0.0.1"}; !slices.Equal(r.Iface, want) {
		t.Errorf("interfaces %q, want %q", r.Iface, want)
	}
	if want := []string{"^en.{1,2}$", "b"}; !slices.Equal(r.IfaceRegex, want) {
		t.Errorf("patterns %q, want %q", r.IfaceRegex, want)
	}
	r, err = Parse(nil, []string{"FLANNELD_IFACE=eth1, eth2", "HOSTGWD_IFACE_REGEX=a{1,2}"}, nil)
	if err != nil || !slices.Equal(r.Iface, []string{"eth1", "eth2"}) || !slices.Equal(r.IfaceRegex, []string{"a{1,2}"}) {
		t.Errorf("from the environment: %q, %q, %v", r.Iface, r.IfaceRegex, err)
	}
}

func TestVerbosity(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "-v": true, "--v": true, "-v=0": false, "-v=10": true, "-v 10": true, "-v 0": false,
		"-v -version": true, "-v=true": true,
	} {
		r, err := Parse(strings.Fields(args), nil, nil)
		if err != nil || r.Verbose != want || len(r.Args) > 0 {
			t.Errorf("%q: verbose %t, left over %q, %v", args, r.Verbose, r.Args, err)
		}
	}
}

func TestArgumentsBetweenFlags(t *testing.T) {
	var output string
	r, err := Parse([]string{"ls", "-etcd-prefix=/p", "x", "-o", "json", "y"}, nil, func(fs *flag.FlagSet) {
		fs.StringVar(&output, "o", "", "")
	})
	if err != nil || !slices.Equal(r.Args, []string{"ls", "x", "y"}) || r.EtcdPrefix != "/p" || output != "json" {
		t.Errorf("arguments %q, prefix %q, output %q, %v", r.Args, r.EtcdPrefix, output, err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		args, env []string
		want      []string // parts of the message
	}{
		{[]string{"-nonsense"}, nil, []string{"nonsense"}},
		{[]string{"-subnet-len", "31", "-network", "10.0.0.0/8"}, nil, []string{"-subnet-len", `"31"`, "from 1 to 30"}},
		{nil, []string{"HOSTGWD_SUBNET_LEN=x"}, []string{"HOSTGWD_SUBNET_LEN", `"x"`}},
		{[]string{"-network", "10.0.0.1/8"}, nil, []string{"10.0.0.1/8", "10.0.0.0/8"}},
		{[]string{"-network", "fd00::/48"}, nil, []string{"family"}},
		{[]string{"-ipv6-network", "10.0.0.0/8"}, nil, []string{"family"}},
		{[]string{"-public-ip", "eth0"}, nil, []string{"-public-ip", "eth0"}},
		{[]string{"-public-ip", "fd00::1"}, nil, []string{"IPv4"}},
		{[]string{"-public-ipv6", "10.0.0.1"}, nil, []string{"IPv6"}},
		{[]string{"-public-ipv6", "::ffff:10.0.0.1"}, nil, []string{"IPv6"}},
		{[]string{"-iface-regex", "("}, nil, []string{"-iface-regex"}},
		{[]string{"-iface", ""}, nil, []string{"-iface"}},
		{[]string{"-etcd-endpoints", "localhost:2379"}, nil, []string{"localhost:2379", "http://"}},
		{[]string{"-etcd-endpoints", "http://a:1,"}, nil, []string{"http://"}},
		{[]string{"-etcd-prefix", "/"}, nil, []string{"-etcd-prefix"}},
		{[]string{"-listen-client-urls", "http://name:2379"}, nil, []string{"address"}},
		{[]string{"-listen-client-urls", "http://10.0.0.1"}, nil, []string{"port"}},
		{[]string{"-lease-ttl", "1s"}, nil, []string{"-lease-ttl", "5s"}},
		{[]string{"-healthz-port", "70000"}, nil, []string{"65535"}},
		{[]string{"-iptables-resync", "0"}, nil, []string{"-iptables-resync"}},
		{[]string{"-subnet-lease-renew-margin", "1440"}, nil, []string{"1439"}},
		{[]string{"-route-protocol", "4"}, nil, []string{"-route-protocol"}},
		{[]string{"-ip-masq=maybe"}, nil, []string{"-ip-masq", "maybe"}},
		{[]string{"-etcd-certfile", "x", "-etcd-endpoints", "https://a:1"}, nil, []string{"-etcd-keyfile"}},
		{[]string{"-etcd-password", "x", "-etcd-endpoints", "https://a:1"}, nil, []string{"-etcd-username"}},
		{[]string{"-subnet-len", "24"}, nil, []string{"-network"}},
		{[]string{"-subnet-file", ""}, nil, []string{"-subnet-file"}},
		{[]string{"-kube-subnet-mgr"}, nil, []string{"-kube-subnet-mgr", "Kubernetes"}},
		{[]string{"--kube-api-url=http://x"}, nil, []string{"-kube-api-url", "Kubernetes"}},
		{[]string{"-kubeconfig-file", "x"}, nil, []string{"Kubernetes"}},
		{[]string{"-net-config-path", "x"}, nil, []string{"Kubernetes", "-network"}},
		{nil, []string{"FLANNELD_KUBE_SUBNET_MGR=true"}, []string{"FLANNELD_KUBE_SUBNET_MGR", "Kubernetes"}},
	} {
		_, err := Parse(c.args, c.env, nil)
		if err == nil {
			t.Errorf("%v with %v is accepted", c.args, c.env)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v with %v: %q does not mention %q", c.args, c.env, err, part)
			}
		}
	}
}

func TestErrorNamesTheSource(t *testing.T) {
	_, err := Parse([]string{"-healthz-port=x"}, nil, nil)
	var e *Error
	if !errors.As(err, &e) || e.Source != "-healthz-port" || e.Value != "x" {
		t.Errorf("%#v", err)
	}
	if _, err := Parse([]string{"-h"}, nil, nil); !errors.Is(err, ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestUnknownVariablesAreNamed(t *testing.T) {
	r, err := Parse(nil, []string{"HOSTGWD_SUBNET_FLIE=x", "HOSTGWD_V=1", "FLANNELD_NONSENSE=x", "PATH=/bin"}, nil)
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "HOSTGWD_SUBNET_FLIE") {
		t.Errorf("warnings %q, %v", r.Warnings, err)
	}
}

func TestSecondsAsNumberOrDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{"7": 7 * time.Second, "90s": 90 * time.Second, "2m": 2 * time.Minute} {
		if r, err := Parse([]string{"-iptables-resync", s}, nil, nil); err != nil || r.FilterResync != want {
			t.Errorf("%s: %v, %v", s, r.FilterResync, err)
		}
	}
}

// Every flag of flanneld v0.28 is known here, so that a unit file's command line
// is never refused for a reason other than one that is told.
func TestFlanneldsFlags(t *testing.T) {
	table := Table()
	for _, name := range []string{
		"etcd-endpoints", "etcd-prefix", "etcd-keyfile", "etcd-certfile", "etcd-cafile", "etcd-username", "etcd-password",
		"iface", "iface-regex", "iface-can-reach", "subnet-file", "public-ip", "public-ipv6", "subnet-lease-renew-margin",
		"ip-masq", "ip-masq-fully-random-disable", "kube-subnet-mgr", "kube-api-url", "kube-annotation-prefix",
		"kubeconfig-file", "version", "healthz-ip", "healthz-port", "iptables-resync", "iptables-forward-rules",
		"net-config-path", "set-node-network-unavailable", "ip-blackhole-route", "v", "vmodule", "log_backtrace_at",
	} {
		i := slices.IndexFunc(table, func(s Setting) bool { return s.Name == name })
		if i < 0 || table[i].Flanneld == "" {
			t.Errorf("-%s is missing, or what becomes of it", name)
		}
	}
	seen := map[string]bool{}
	for _, s := range table {
		if seen[s.Name] {
			t.Errorf("-%s is there twice", s.Name)
		}
		seen[s.Name] = true
		if s.Help == "" {
			t.Errorf("-%s has no help", s.Name)
		}
	}
}
