package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// asEmbed makes this test program be the example.
const asEmbed = "THIS_TEST_IS_EMBED"

func TestMain(m *testing.M) {
	if os.Getenv(asEmbed) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// The example joins a network that another host is in, and stops when it is told.
func TestEmbed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	s, err := netns.NewSegment(1, netns.SegmentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	host := s.Hosts[0]

	// The etcd listens in the segment's namespace, and is written to from here.
	var server *embedded.Server
	listen := url.URL{Scheme: "http", Host: "172.17.42.1:2379"}
	err = s.Bridge.Do(func() error {
		var err error
		server, err = embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: []url.URL{listen}, Logger: slog.New(slog.DiscardHandler)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	store := etcd.New(server.Client(), "/coreos.com/network")
	network, err := subnet.ParseConfig([]byte(`{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.PutConfig(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	peer := subnet.Lease{
		Key:    subnet.Key{IPv4: netip.MustParsePrefix("192.168.6.192/26")},
		Holder: subnet.Holder{PublicIP: netip.MustParseAddr("172.17.42.99"), BackendType: subnet.BackendType},
	}
	if _, err := store.Reserve(t.Context(), peer); err != nil {
		t.Fatal(err)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out output
	cmd := exec.Command(self, listen.String())
	cmd.Env = append(os.Environ(), asEmbed+"=1")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	routed := func() bool {
		routes, err := host.Routes()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Protocol == netlinkx.DefaultProtocol && r.Destination == peer.Key.IPv4 && r.Gateway == peer.Holder.PublicIP {
				return true
			}
		}
		return false
	}
	for !strings.Contains(out.String(), "containers of this host belong into 192.168.") || !routed() {
		select {
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			t.Fatalf("did not join; it says:\n%s", out.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v; it says:\n%s", err, out.String())
	}
}
