package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/subnet"
)

// testLeastPrivilege runs hostgwd on two hosts with what the unit leaves it, and
// nothing else: what it is for must work, and it must be impossible without its
// one capability. The list of system calls is all that is not tried.
func testLeastPrivilege(t *testing.T, tarball string) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	segment, err := netns.NewSegment(3, netns.SegmentOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, segment.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	first, second := segment.Hosts[0], segment.Hosts[1]
	services := []*service{
		startService(t, tarball, first, "HOSTGWD_NETWORK=192.168.0.0/16", "HOSTGWD_SUBNET_LEN=26", "HOSTGWD_IP_MASQ=true",
			"HOSTGWD_LISTEN_CLIENT_URLS=http://127.0.0.1:2379,http://"+first.IPv4.String()+":2379"),
		startService(t, tarball, second, "HOSTGWD_ETCD_ENDPOINTS=http://"+first.IPv4.String()+":2379",
			"HOSTGWD_IP_MASQ=true", "HOSTGWD_IP_BLACKHOLE_ROUTE=true", "HOSTGWD_HEALTHZ_PORT=8471"),
	}
	for _, s := range services {
		s.await(t, ctx, "READY=1")
	}
	for i, s := range services {
		s.checkProcess(t)
		s.checkFiles(t)
		s.checkKernel(t, ctx, services[1-i])
	}
	s := services[1]
	s.await(t, ctx, "WATCHDOG=1")
	hole := slices.ContainsFunc(s.routes(t), func(r netns.Route) bool { return r.Type == unix.RTN_BLACKHOLE })
	if !hole {
		t.Error("no blackhole route")
	}

	// The peers have heard of each other, so packets flow.
	var containers []*netns.Container
	for _, s := range services {
		c, err := s.host.AddContainer(s.env)
		must(t, err)
		containers = append(containers, c)
	}
	ping, err := containers[0].Ping(ctx, containers[1].IPv4, netns.PingOptions{})
	if err != nil || ping.Received() != len(ping.Replies) || ping.TTL() != 62 {
		t.Errorf("from container to container: %v, %v", ping, err)
	}

	t.Run("without the capability", func(t *testing.T) {
		third := startServiceWith(t, tarball, segment.Hosts[2], nil, "HOSTGWD_ETCD_ENDPOINTS=http://"+first.IPv4.String()+":2379")
		third.await(t, ctx, "operation not permitted")
		if routes := third.routes(t); slices.ContainsFunc(routes, func(r netns.Route) bool { return r.Protocol == 104 }) {
			t.Errorf("routes without CAP_NET_ADMIN: %v", routes)
		}
	})

	for _, s := range services {
		must(t, s.cmd.Process.Signal(unix.SIGTERM))
		<-s.done
		if !s.cmd.ProcessState.Success() {
			t.Errorf("%s on SIGTERM: %v", s.host.Name, s.cmd.ProcessState)
		}
		if _, err := subnet.ReadEnv(s.path("/run/flannel/subnet.env")); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
}

// service is a hostgwd run as the unit says.
type service struct {
	host *netns.Host
	root string
	unit map[string][]string
	env  subnet.Env
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	said bytes.Buffer // its log and what it told the service manager
}

// asUser is who the services are.
const asUser = 62342

func startService(t *testing.T, tarball string, host *netns.Host, env ...string) *service {
	t.Helper()
	return startServiceWith(t, tarball, host, []int{unix.CAP_NET_ADMIN}, env...)
}

// startServiceWith installs the tarball for host in a directory of its own and
// starts what is in it, with env in place of /etc/default/hostgwd.
func startServiceWith(t *testing.T, tarball string, host *netns.Host, caps []int, env ...string) *service {
	t.Helper()
	root, err := os.MkdirTemp("", "hostgw-") // short: there is a socket below
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	must(t, os.Chmod(root, 0o755))
	unpack(t, tarball, root)
	s := &service{host: host, root: root, done: make(chan struct{})}
	s.unit = parseUnit(t, s.path("/usr/lib/systemd/system/hostgwd.service"))

	// This is all that the unit allows.
	for key, want := range map[string]string{
		"AmbientCapabilities": "CAP_NET_ADMIN", "CapabilityBoundingSet": "CAP_NET_ADMIN", "NoNewPrivileges": "yes",
		"DynamicUser": "yes", "ProtectSystem": "strict", "ProtectKernelTunables": "yes", "UMask": "0077", "Type": "notify",
	} {
		if got := strings.Join(s.unit[key], " "); got != want {
			t.Errorf("%s is %q in the unit, %q here", key, got, want)
		}
	}
	box := sandbox{Root: root, Settings: s.unit["ReadWritePaths"], Caps: caps, ID: asUser, Command: s.unit["ExecStart"]}
	for key, base := range map[string]string{"RuntimeDirectory": "/run", "StateDirectory": "/var/lib"} {
		for _, dir := range s.unit[key] {
			box.Writable = append(box.Writable, path.Join(base, dir))
		}
	}
	must(t, os.MkdirAll(s.path("/var/lib"), 0o755))
	must(t, os.MkdirAll(s.path("/run"), 0o755))
	spec, err := json.Marshal(box)
	must(t, err)

	// An abstract socket needs no file that the service may write to.
	address := &net.UnixAddr{Name: "@notify", Net: "unixgram"}
	var notify *net.UnixConn
	must(t, host.Do(func() (err error) { notify, err = net.ListenUnixgram("unixgram", address); return err }))
	self, err := os.Executable()
	must(t, err)
	s.cmd = exec.Command(self)
	s.cmd.Env = append(env, s.unit["Environment"]...)
	s.cmd.Env = append(s.cmd.Env, sandboxVariable+"="+string(spec), "NOTIFY_SOCKET="+address.Name, "WATCHDOG_USEC=300000")
	s.cmd.Stdout, s.cmd.Stderr = s, s
	must(t, host.Start(s.cmd))
	var listening sync.WaitGroup
	listening.Go(func() { s.listen(notify) })
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait() // read from ProcessState
		notify.Close()
		listening.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.done
		if t.Failed() {
			t.Logf("%s says:\n%s", host.Name, s.text())
		}
	})
	return s
}

// parseUnit reads a unit's service section. Values are split at spaces, and those
// of a key that is there several times are joined.
func parseUnit(t *testing.T, path string) map[string][]string {
	t.Helper()
	unit := make(map[string][]string)
	section := ""
	for line := range strings.Lines(string(read(t, path))) {
		line = strings.TrimSpace(line)
		key, value, assigned := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "["):
			section = line
		case assigned && section == "[Service]" && !strings.HasPrefix(line, "#"):
			unit[key] = append(unit[key], strings.Fields(value)...)
		}
	}
	return unit
}

func (s *service) path(inside string) string { return filepath.Join(s.root, inside) }

func (s *service) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(b)
}

func (s *service) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// listen notes what the service tells the service manager.
func (s *service) listen(notify *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return
		}
		fmt.Fprintf(s, "%s\n", buf[:n])
	}
}

// await waits until the service has said a text.
func (s *service) await(t *testing.T, ctx context.Context, text string) {
	t.Helper()
	s.until(t, ctx, "says "+text, func() bool { return strings.Contains(s.text(), text) })
}

func (s *service) until(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s %s: %v", s.host.Name, what, ctx.Err())
		case <-s.done:
			t.Fatalf("waiting until %s %s: it ended: %v", s.host.Name, what, s.cmd.ProcessState)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// checkProcess looks at what the kernel says of the process.
func (s *service) checkProcess(t *testing.T) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	about := string(read(t, proc+"status"))
	id := fmt.Sprintf("\t%d", asUser)
	for _, want := range []string{
		"Uid:" + strings.Repeat(id, 4), "Gid:" + strings.Repeat(id, 4), "NoNewPrivs:\t1",
		"CapBnd:\t0000000000001000", "CapPrm:\t0000000000001000", "CapEff:\t0000000000001000", "CapInh:\t0000000000001000", "CapAmb:\t0000000000001000",
	} {
		if !strings.Contains(about, "\n"+want+"\n") {
			t.Errorf("the process is not %q:\n%s", want, about)
		}
	}
	// CAP_NET_RAW is for these.
	for _, table := range []string{"raw", "raw6", "packet"} {
		if sockets := strings.Count(string(read(t, proc+"net/"+table)), "\n") - 1; sockets != 0 {
			t.Errorf("%d %s sockets are open", sockets, table)
		}
	}
}

// checkFiles looks at what it has written.
func (s *service) checkFiles(t *testing.T) {
	t.Helper()
	var err error
	if s.env, err = subnet.ReadEnv(s.path("/run/flannel/subnet.env")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"/run/flannel/subnet.env": 0o644, "/run/hostgwd/hostgwd.sock": 0o600 | os.ModeSocket} {
		if info, err := os.Stat(s.path(name)); err != nil || info.Mode() != mode {
			t.Errorf("%s should be %v: %v, %v", name, mode, info, err)
		}
	}
	r, err := status.Get(t.Context(), s.path("/run/hostgwd/hostgwd.sock"))
	if err != nil || !r.Ready || len(r.Problems) > 0 {
		t.Errorf("its status: %+v, %v", r, err)
	}
}

// checkKernel looks at what it has done to the kernel.
func (s *service) checkKernel(t *testing.T, ctx context.Context, peer *service) {
	t.Helper()
	s.until(t, ctx, "has its route", func() bool {
		return slices.ContainsFunc(s.routes(t), func(r netns.Route) bool {
			return r.Protocol == 104 && r.Gateway == peer.host.IPv4 && r.Device == "eth0"
		})
	})
	s.until(t, ctx, "has its packet filter rules", func() bool {
		var names []string
		must(t, s.host.Do(func() error {
			chains, err := new(nftables.Conn).ListChains()
			for _, c := range chains {
				names = append(names, c.Table.Name+" "+c.Name)
			}
			return err
		}))
		return slices.Contains(names, "hostgw postrouting") && slices.Contains(names, "hostgw forward")
	})
	s.until(t, ctx, "forwards", func() bool {
		var value []byte
		must(t, s.host.Do(func() (err error) { value, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward"); return err }))
		return string(value) == "1\n"
	})
}

func (s *service) routes(t *testing.T) []netns.Route {
	t.Helper()
	routes, err := s.host.Routes()
	must(t, err)
	return routes
}
