package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

var now = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func held() hostgw.Status {
	config, err := subnet.ParseConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		panic(err)
	}
	key := subnet.Key{IPv4: netip.MustParsePrefix("192.168.1.192/26")}
	lease := subnet.Lease{Key: key, Holder: subnet.Holder{PublicIP: netip.MustParseAddr("172.17.42.40")}}
	return hostgw.Status{
		State:   hostgw.StateHeld,
		Config:  subnet.NetworkConfig{Config: config, Revision: 2},
		Joined:  hostgw.Joined{Config: config, Lease: lease},
		Record:  subnet.Record{Name: key.String(), Lease: lease, Token: 7},
		Since:   now.Add(-time.Hour),
		Renewed: now.Add(-time.Minute),
		TTL:     24 * time.Hour,
		Uplink:  netlinkx.Uplink{Name: "eth0", Index: 3, MTU: 1500, Up: true, Running: true},
		Store:   hostgw.StoreStatus{Since: now.Add(-time.Hour), Revision: 9},
		Routes:  netlinkx.Stats{Added: 1, Looks: 1},
		Peers: []hostgw.Peer{
			{Name: "192.168.6.192-26", Routes: []hostgw.PeerRoute{{
				Subnet: netip.MustParsePrefix("192.168.6.192/26"), Gateway: netip.MustParseAddr("172.17.42.41"),
				State: netlinkx.RouteInstalled, Since: now.Add(-2 * time.Minute),
			}}},
			{Name: "nonsense", Routes: []hostgw.PeerRoute{{Reason: hostgw.ReasonUnreadable, Err: errors.New("what is that"), Since: now}}},
		},
	}
}

func TestReport(t *testing.T) {
	r := Report{Time: now, Ready: true, Store: Store{Endpoints: []string{"http://127.0.0.1:2379"}, Prefix: "/p", Embedded: true}}
	r.Fill(held(), now)
	if r.Lease == nil || r.Lease.Seconds != (24*time.Hour-time.Minute).Seconds() || r.Lease.Name != "192.168.1.192-26" {
		t.Errorf("lease %+v", r.Lease)
	}
	if len(r.Problems) > 0 {
		t.Errorf("problems where all is well: %q", r.Problems)
	}
	if p := r.Peers[0].Routes[0]; p.State != NoRoute || p.Reason != "unreadable" || p.Error != "what is that" {
		t.Errorf("an unreadable peer is told as %+v", p)
	}
	var out bytes.Buffer
	if err := Print(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"held, ready", "192.168.1.192/26 via 172.17.42.40 (23h59m left, renewed 1m0s ago)", "eth0, MTU 1500, up", "(embedded)", "prefix /p",
		"192.168.6.192/26  172.17.42.41  installed  2m0s", "unreadable: what is that",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}

	var back Report
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(back); !bytes.Equal(text, again) {
		t.Errorf("JSON does not come back as it went:\n%s\n%s", text, again)
	}
}

func TestReportSaysWhatIsWrong(t *testing.T) {
	s := held()
	s.Store.Err = errors.New("connection refused")
	s.Config.Err = errors.New("SubnetLen 40")
	s.Rival = &subnet.Node{Name: "twin"}
	s.Record.Token = 0
	s.TTL = 0
	s.Uplink.Running = false
	s.Peers[0].Missing = now
	s.Config.Config.IPv4.Min = netip.MustParseAddr("192.168.2.0")
	var r Report
	r.Time = now
	r.Fill(s, now)
	var out bytes.Buffer
	if err := Print(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"connection refused", "SubnetLen 40", "twin", "lease 192.168.1.192-26 no longer fits", "reservation", "without carrier", "held"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
}

func TestRoutesIn(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*hostgw.Status)
		want   bool
	}{
		"all in":       {func(*hostgw.Status) {}, true},
		"not held":     {func(s *hostgw.Status) { s.State = hostgw.StateJoining }, false},
		"not looked":   {func(s *hostgw.Status) { s.Routes.Looks = 0 }, false},
		"pending":      {func(s *hostgw.Status) { s.Counts.Pending = 1 }, false},
		"one conflict": {func(s *hostgw.Status) { s.Counts.Conflict = 1 }, true},
		"one failed":   {func(s *hostgw.Status) { s.Counts.Failed = 1 }, true},
		"no peers":     {func(s *hostgw.Status) { s.Counts = hostgw.Counts{} }, true},
	} {
		s := held()
		c.change(&s)
		if got := RoutesIn(s); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "hostgwd.sock")
	if _, err := Get(t.Context(), path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a daemon: %v", err)
	}
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o750} {
		if i, err := os.Stat(file); err != nil || i.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", file, i.Mode(), err, want)
		}
	}
	sent := Report{State: "held", Time: now, Peers: []Peer{}}
	srv := &http.Server{Handler: Handler(func() Report { return sent })}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()

	got, err := Get(t.Context(), path)
	if err != nil || got.State != "held" || !reflect.DeepEqual(got.Time, now) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Listen(path, ""); !errors.Is(err, ErrInUse) {
		t.Errorf("a second daemon: %v", err)
	}
	srv.Close()
	<-done
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := Listen(path, "no-such-group-here"); err == nil {
		t.Error("a group that does not exist is accepted")
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 17 * time.Second: "17s", 125 * time.Minute: "2h5m", 100 * time.Hour: "4d4h", 61 * time.Second: "1m1s",
	} {
		if got := Short(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}
