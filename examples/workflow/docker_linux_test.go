package workflow

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dockerWorld makes a world for dockerds.
func dockerWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	needTools(t, filepath.SplitList(searchPath), dockerTools)
	return newWorld(t, false)
}

// The workflow as it stands in the README.
func TestDocker(t *testing.T) {
	w := dockerWorld(t)
	w.join(t)
	w.startDockers(t, dockerdWorkflow, "")
	w.checkAddresses(t, w.checkTraffic(t))
	for _, n := range w.nodes {
		if rules := n.run(t, "iptables-save"); strings.Contains(rules, "DOCKER") {
			t.Errorf("%s: iptables are left alone, yet Docker made rules:\n%s", n.Name, rules)
		}
	}
}

// Docker with its own iptables on. It sets FORWARD to drop only if it also is
// the one that switches forwarding on: not where hostgwd did that before.
func TestDockerIPTables(t *testing.T) {
	const masquerading, notMasquerading = dockerdIPTables, dockerdIPTables + " --ip-masq=false"
	for _, tt := range []struct {
		name    string
		command string
		before  bool // Docker has been running before there was a hostgwd
	}{
		{"hostgwd comes first", notMasquerading, false},
		{"docker comes first", notMasquerading, true},
		{"docker comes first and masquerades", masquerading, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := dockerWorld(t)
			if tt.before {
				w.startEmptyDockers(t, "dockerd", "")
				w.stopDockers(t)
			}
			w.join(t)
			w.startDockers(t, tt.command, "")
			if tt.before {
				for _, n := range w.nodes {
					n.wantPolicyDrop(t, "iptables")
				}
			}
			w.waitTraffic(t)
			seen := w.checkTraffic(t)
			if tt.command == notMasquerading {
				w.checkAddresses(t, seen)
				return
			}
			for i, n := range w.nodes {
				if peer := w.nodes[1-i]; seen.Count(n.IPv4, peer.container, "icmp") < pings {
					t.Errorf("Docker should have given the packets from %v the address of %s, %v:\n%v", n.container, n.Name, n.IPv4, seen)
				}
			}
		})
	}
}

// Without hostgwd's exception nothing passes, and hostgwd says why; a start with
// it heals that, and a new start of Docker does not undo it.
func TestDockerIPTablesException(t *testing.T) {
	const command = dockerdIPTables + " --ip-masq=false"
	w := dockerWorld(t)
	w.join(t, "-iptables-forward-rules=false")
	w.startDockers(t, command, "")
	w.wantDrop(t, "iptables", "FORWARD has the policy drop")

	for _, n := range w.nodes {
		if status, err := n.daemon.Stop(); status != 0 || err != nil {
			t.Fatalf("hostgwd on %s stopped with status %d, %v", n.Name, status, err)
		}
		w.startDaemon(t, n)
	}
	w.settle(t)
	w.waitTraffic(t)
	w.checkAddresses(t, w.checkTraffic(t))

	w.stopDockers(t)
	w.startDockers(t, command, "")
	for _, n := range w.nodes {
		n.wantPolicyDrop(t, "iptables")
	}
	w.waitTraffic(t)
	w.checkAddresses(t, w.checkTraffic(t))
}

// Rules of iptables-legacy are out of hostgwd's reach: it must say so.
func TestDockerIPTablesLegacy(t *testing.T) {
	w := dockerWorld(t)
	programs := filepath.Join(w.dir, "bin")
	if err := os.Mkdir(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		legacy, err := findTool(name+"-legacy", filepath.SplitList(searchPath))
		if err != nil {
			t.Fatal(err) // it is in the package of the other
		}
		if err := os.Symlink(legacy, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.startEmptyDockers(t, "dockerd", programs)
	w.stopDockers(t)
	w.join(t)
	w.startDockers(t, dockerdIPTables+" --ip-masq=false", programs)
	w.wantDrop(t, "iptables-legacy", "iptables-legacy's FORWARD chain has the policy DROP")

	for _, n := range w.nodes { // what hostgwd asks for, done by hand
		n.run(t, "iptables-legacy", "-I", "DOCKER-USER", "-s", n.env.Network.String(), "-j", "ACCEPT")
		n.run(t, "iptables-legacy", "-I", "DOCKER-USER", "-d", n.env.Network.String(), "-j", "ACCEPT")
	}
	w.waitTraffic(t)
	w.checkAddresses(t, w.checkTraffic(t))
}

// Containers reach the outside under their host's address if hostgwd is told to
// masquerade, and each other under their own all the same.
func TestDockerMasquerade(t *testing.T) {
	w := dockerWorld(t)
	w.join(t, "-ip-masq")
	w.startDockers(t, dockerdWorkflow, "")
	w.checkAddresses(t, w.checkTraffic(t))

	capture, err := w.Bridge.Capture()
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.nodes {
		if _, err := w.ping(t.Context(), i, outside, 63); err != nil {
			t.Errorf("the outside, seen from web%d: %v", i+1, err)
		}
	}
	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		if seen.Count(n.IPv4, outside, "icmp") == 0 {
			t.Errorf("nothing went out with the address of %s, %v:\n%v", n.Name, n.IPv4, seen)
		}
	}
}

// run runs a program on the host and returns what it prints.
func (n *node) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := findTool(name, filepath.SplitList(searchPath))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = n.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s$ %s %s: %v:\n%s", n.Name, name, strings.Join(args, " "), err, &out)
	}
	return out.String()
}

// wantDrop checks that nothing passes between the containers, because Docker drops
// it with a kind of iptables, and that hostgwd says so.
func (w *world) wantDrop(t *testing.T, iptables, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i, n := range w.nodes {
		n.wantPolicyDrop(t, iptables)
		if err := n.daemon.WaitLog(ctx, says); err != nil {
			t.Error(err)
		}
		if out, err := w.ping(ctx, i, w.nodes[1-i].container, 62); err == nil || !strings.Contains(out, " 100% packet loss") {
			t.Errorf("Docker drops what is forwarded on %s, yet the pings are not all lost: %v", n.Name, cmp.Or(err, errors.New(out)))
		}
	}
}

// wantPolicyDrop checks that Docker drops what is forwarded: else a test of what
// lets it pass shows nothing.
func (n *node) wantPolicyDrop(t *testing.T, iptables string) {
	t.Helper()
	if rules := n.run(t, iptables, "-S", "FORWARD"); !strings.HasPrefix(rules, "-P FORWARD DROP\n") {
		t.Fatalf("Docker has not set the policy of FORWARD to drop on %s:\n%s", n.Name, rules)
	}
}
