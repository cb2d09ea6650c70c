package doctest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/metric"
	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/subnet"
	"go.yaml.in/yaml/v2"
)

// flagRows is the table of flanneld's flags, as docs/moving.md shows it.
func flagRows() (lines []string) {
	for _, s := range setting.Table() {
		if s.Flanneld != "" {
			lines = append(lines, fmt.Sprintf("| `-%s` | %s |", s.Name, s.Flanneld))
		}
	}
	return lines
}

// TestFlags fails if the page has another table than the code. It then prints the
// one that belongs there.
func TestFlags(t *testing.T) {
	var written []string
	for _, row := range readPage(t, "docs/moving.md").table(t, "Every flag of flanneld") {
		written = append(written, "| "+strings.Join(row, " | ")+" |")
	}
	if want := flagRows(); !slices.Equal(written, want) {
		t.Errorf("the table of flags in docs/moving.md should be\n%s\nand is\n%s", strings.Join(want, "\n"), strings.Join(written, "\n"))
	}
}

// The names that flanneld v0.28 registers, klog's included.
func TestFlagsOfFlanneld(t *testing.T) {
	var known []string
	for _, s := range setting.Table() {
		if s.Flanneld != "" {
			known = append(known, s.Name)
		}
	}
	sameSet(t, "flanneld", strings.Fields(`
		etcd-endpoints etcd-prefix etcd-keyfile etcd-certfile etcd-cafile etcd-username etcd-password
		iface iface-regex iface-can-reach subnet-file public-ip public-ipv6 subnet-lease-renew-margin
		ip-masq ip-masq-fully-random-disable kube-subnet-mgr kube-api-url kube-annotation-prefix kubeconfig-file
		version healthz-ip healthz-port iptables-resync iptables-forward-rules ip-blackhole-route
		net-config-path set-node-network-unavailable v vmodule log_backtrace_at`), known)
}

func TestReasons(t *testing.T) {
	var known []string
	for r := hostgw.ReasonNone + 1; !strings.HasPrefix(r.String(), "reason "); r++ {
		known = append(known, r.String())
	}
	if got := first(readPage(t, "docs/security.md").table(t, "Reasons")); !slices.Equal(got, known) {
		t.Errorf("the reasons in docs/security.md are\n%q\nwant, in this order,\n%q", got, known)
	}
}

func TestExits(t *testing.T) {
	var written []string
	for _, row := range readPage(t, "docs/operating.md").table(t, "Exit statuses") {
		written = append(written, row[0]+"  "+row[1])
	}
	text, err := os.ReadFile(filepath.Join(root, "examples/hostgwd/exit.go"))
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^\t(exit\w+)\s*= (\d+)$`).FindAllStringSubmatch(string(text), -1) {
		numbers[m[1]] = m[2]
	}
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^\t\t(exit\w+):\s+"(.*)",$`).FindAllStringSubmatch(string(text), -1) {
		known = append(known, numbers[m[1]]+"  "+m[2])
	}
	if len(known) < 2 || !slices.Equal(written, known) {
		t.Errorf("the exit statuses in docs/operating.md are\n%s\nwant\n%s", strings.Join(written, "\n"), strings.Join(known, "\n"))
	}
}

// metrics returns the names of what hostgwd exports of its own, by name.
func metrics(t *testing.T) []string {
	t.Helper()
	// A status in which every metric has something to say.
	st := hostgw.Status{State: hostgw.StateHeld, Renewed: time.Now(), TTL: time.Hour}
	var err error
	if st.Joined.Lease.Key, err = subnet.ParseKey("192.168.1.192-26"); err != nil {
		t.Fatal(err)
	}
	st.Peers = []hostgw.Peer{{Name: "x", Routes: []hostgw.PeerRoute{{Reason: hostgw.ReasonUnreadable}}}}
	set := metric.New(func() (hostgw.Status, bool) { return st, true }, func() bool { return true }, "", "")
	families, err := set.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "hostgw_") {
			names = append(names, f.GetName())
		}
	}
	return names
}

func TestMetrics(t *testing.T) {
	sameSet(t, "docs/operating.md, Metrics,", first(readPage(t, "docs/operating.md").table(t, "Metrics")), metrics(t))
}

func TestAlerts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "examples/hostgwd/monitoring/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []struct{ Alert string } }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			known = append(known, r.Alert)
		}
	}
	sameSet(t, "docs/operating.md, Alerts,", first(readPage(t, "docs/operating.md").table(t, "Alerts")), known)
}

// The JSON of a peer that docs/security.md promises flannel's readers.
func TestLeaseValue(t *testing.T) {
	var want, got any
	text := `{"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}`
	h, err := subnet.ParseHolder([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.MarshalJSON()
	if err != nil || string(again) != text {
		t.Errorf("%s is written as %s, %v", text, again, err)
	}
	if json.Unmarshal([]byte(text), &want) != nil || json.Unmarshal(again, &got) != nil {
		t.Error("no JSON")
	}
	if page := readPage(t, "docs/moving.md"); !strings.Contains(strings.Join(page.lines, "\n"), text) {
		t.Errorf("docs/moving.md does not show %s", text)
	}
}
