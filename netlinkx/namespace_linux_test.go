package netlinkx_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/netlinkx"
)

// namespace is a network namespace on the real kernel with an interface eth0 in
// it, a veth whose other end is up, with 192.0.2.1/24 and 2001:db8::1/64. It has
// no name: it is gone with the test, whatever becomes of that.
type namespace struct {
	t  testing.TB
	fd *os.File
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	n := &namespace{t: t}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		for _, s := range []struct{ name, value string }{
			// What a host may have set for the namespaces that come.
			{"ipv4/conf/default/promote_secondaries", "0"},
			{"ipv6/conf/default/disable_ipv6", "0"},
			{"ipv6/conf/default/keep_addr_on_down", "0"},
		} {
			if err := os.WriteFile("/proc/sys/net/"+s.name, []byte(s.value), 0); err != nil {
				return err
			}
		}
		var err error
		n.fd, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { n.fd.Close() })
	n.ip("link set lo up")
	n.addUplink()
	return n
}

// addUplink makes eth0.
func (n *namespace) addUplink() {
	n.t.Helper()
	n.batch(
		"link add eth0 type veth peer name wire0",
		"link set wire0 up",
		"address add 192.0.2.1/24 dev eth0",
		"link set eth0 up",
		"address add 2001:db8::1/64 dev eth0 nodad",
	)
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Dial is a netlinkx.DialFunc into the namespace.
func (n *namespace) Dial(groups ...uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(n.fd.Fd()), MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// try runs ip in the namespace, with what it reads on its standard input.
func (n *namespace) try(stdin string, args ...string) (string, error) {
	var out []byte
	err := onThread(func() error {
		if err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		cmd := exec.Command("ip", args...)
		cmd.Stdin = strings.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		var err error
		out, err = cmd.Output()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, &stderr)
		}
		return nil
	})
	return string(out), err
}

// ip runs ip with the words of command as its arguments.
func (n *namespace) ip(command string) string {
	n.t.Helper()
	out, err := n.try("", strings.Fields(command)...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// batch runs ip commands in one process.
func (n *namespace) batch(commands ...string) {
	n.t.Helper()
	if _, err := n.try(strings.Join(commands, "\n")+"\n", "-batch", "-"); err != nil {
		n.t.Fatal(err)
	}
}

// routes and routes6 return what ip shows of the routes that selector selects,
// one a line, without trailing blanks.
func (n *namespace) routes(selector string) []string  { return n.show("-4", selector) }
func (n *namespace) routes6(selector string) []string { return n.show("-6", selector) }

func (n *namespace) show(family, selector string) []string {
	n.t.Helper()
	var lines []string
	for line := range strings.Lines(n.ip(family + " -details route show " + selector)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// uplink is eth0 as a caller knows it.
func (n *namespace) uplink() netlinkx.Uplink {
	return netlinkx.Uplink{
		Name: "eth0",
		IPv4: netip.MustParseAddr("192.0.2.1"),
		IPv6: netip.MustParseAddr("2001:db8::1"),
	}
}
