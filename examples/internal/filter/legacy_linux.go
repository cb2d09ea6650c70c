package filter

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// legacy says whether a FORWARD chain of iptables-legacy may drop the family's
// packets. The kernel tells only which of its tables are in force. The policy is
// asked of the command, if it is installed; nothing is changed with it.
func legacy(ctx context.Context, f family) *LegacyError {
	names, command := "/proc/net/ip_tables_names", "iptables-legacy"
	if f.id == nftables.TableFamilyIPv6 {
		names, command = "/proc/net/ip6_tables_names", "ip6tables-legacy"
	}
	// There is no such file in a kernel without them.
	data, err := os.ReadFile(names)
	if err != nil || !slices.Contains(strings.Fields(string(data)), iptablesFilter) {
		return nil
	}
	e := &LegacyError{Command: command, Network: f.Network}
	out, err := exec.CommandContext(ctx, command, "--wait", "1", "--table", iptablesFilter, "--list-rules", forwardChain).Output()
	if err != nil {
		return e
	}
	for line := range strings.Lines(string(out)) {
		if policy, ok := strings.CutPrefix(strings.TrimSpace(line), "-P "+forwardChain+" "); ok {
			e.Policy = policy
		}
	}
	if e.Policy == "ACCEPT" {
		return nil
	}
	return e
}
