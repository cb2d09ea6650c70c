package simulation

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a known mistake: a file of this module in which one piece of text is
// another one.
type mutant struct {
	name     string
	file     string
	old, new string
	real     bool // it is in the programmer, so schedules run on the real one
}

var mutants = []mutant{
	// The store, as a careless implementation would be.
	{name: "create without compare", file: "store/memory/store.go",
		old: "case c.Held == nil && old != nil:", new: "case false:"},
	{name: "config revision ignored by claims", file: "store/memory/store.go",
		old: "if s.config.Revision != c.ConfigRevision || c.Config != (subnet.Config{}) && s.config.Config != c.Config {", new: "if false {"},
	{name: "two families claimed without care", file: "store/memory/store.go",
		old: "careful := c.Held == nil && c.Seen != 0", new: "careful := false"},
	{name: "last event of an update lost", file: "store/memory/watch.go",
		old: "u = merge(news)", new: "u = merge(news[:max(len(news)-1, 0)])"},
	{name: "gap in the history passed over", file: "store/memory/watch.go",
		old: "at.revision < s.compacted", new: "false"},
	{name: "lease expires while it is kept", file: "store/memory/server.go",
		old: "e.deadline = time.Now().Add(e.ttl)\n", new: "if e.deadline.IsZero() {\n\t\t\te.deadline = time.Now().Add(e.ttl)\n\t\t}\n"},

	// The Manager: leases.
	{name: "lease not kept alive", file: "tenure.go",
		old: "err := m.c.Store.Keep(ctx, r,", new: "keep := func(ctx context.Context, _ subnet.Record, _ subnet.Node, _ func(subnet.Renewal)) error { <-ctx.Done(); return nil }\n\t\terr := keep(ctx, r,"},
	{name: "restart takes another subnet", file: "acquire.go",
		old: "return subnet.Select(c, records,",
		new: "var foreign []subnet.Record\n\tfor _, r := range records {\n\t\tif r.Err != nil || !r.Lease.Holder.Same(h) {\n\t\t\tforeign = append(foreign, r)\n\t\t}\n\t}\n\treturn subnet.Select(c, foreign,"},
	{name: "old lease left behind by a move", file: "subnet/select.go",
		old: "return Choice{Key: k, Drop: Leftovers(records, r.Holder, k)}, nil", new: "return Choice{Key: k}, nil"},
	{name: "lost race ends the daemon", file: "acquire.go",
		old: "case errors.Is(err, subnet.ErrConflict):\n", new: "case errors.Is(err, subnet.ErrConflict):\n\t\t\treturn subnet.Record{}, err\n"},
	{name: "subnet taken back from whoever has it", file: "acquire.go",
		old: "case taken != nil:", new: "case false:"},

	// The Manager: peers.
	{name: "peers deleted when the store is away", file: "loop.go",
		old: "\tif u.Err != nil {\n", new: "\tif u.Err != nil {\n\t\tfor name := range m.table.peers {\n\t\t\tm.takePeers(nil, []string{name}, now)\n\t\t}\n"},
	{name: "no hold after a fresh snapshot", file: "peers.go",
		old: "case !t.hold(p, now):", new: "case true:"},
	{name: "own deletion means nothing", file: "loop.go",
		old: "if m.forgotten(u) {", new: "if false {"},
	{name: "hold time runs while nobody can be back", file: "loop.go",
		old: "if m.status.State != StateHeld || m.status.Config.Err != nil || m.status.Store.Err != nil {", new: "if false {"},
	{name: "restart after a wipe forgets the peers", file: "own.go",
		old: "m.wanted.until = now.Add(m.c.Hold)\n\t\t}\n\t\tc := m.table", new: "}\n\t\tc := m.table"},
	{name: "peers that left stay", file: "loop.go",
		old: "gone := u.Deleted\n", new: "gone := u.Deleted[:0:0]\n"},
	{name: "missing peers stay", file: "loop.go",
		old: "if len(gone) > 0 {", new: "if false {"},
	{name: "stale snapshot applied late", file: "tenure.go",
		old: "m.tellLoop(ctx, func() { m.status.Record = now })", new: "m.tellLoop(ctx, func() { m.status.Record = now; m.takeUpdate(subnet.Update{Snapshot: &snap}) })"},
	{name: "another network makes the last one unknown", file: "network.go",
		old: "if !slices.Contains(newer, n) && (in(own.IPv4) ||", new: "if false && (in(own.IPv4) ||"},
	{name: "config that comes before the lease not told", file: "own.go",
		old: "if latest.Err == nil && (unfit || changed) {", new: "if changed && unfit && false {"},
	{name: "removed before put", file: "loop.go",
		old: "m.c.Programmer.Change(put, remove)",
		new: "for _, r := range put {\n\t\t\tm.c.Programmer.Change(nil, append(remove[:0:0], r.Subnet))\n\t\t}\n\t\tm.mu.Unlock()\n\t\ttime.Sleep(time.Millisecond)\n\t\tm.mu.Lock()\n\t\tm.c.Programmer.Change(put, remove)"},

	// The peer policy.
	{name: "policy without the network", file: "policy.go",
		old: "if !slices.ContainsFunc(p.Networks, inside) {", new: "if !slices.ContainsFunc(p.Networks, inside) && false {"},
	{name: "policy without the own subnet", file: "policy.go",
		old: "if r.Subnet.Overlaps(own.Subnet) {", new: "if false {"},
	{name: "policy without on-link", file: "policy.go",
		old: "if p.OnLink {", new: "if true {"},
	{name: "policy without the own address", file: "policy.go",
		old: "isGateway := func(a netip.Prefix) bool { return a.Addr() == r.Gateway }\n\tif r.Gateway == p.Uplink.IPv4 ||",
		new: "isGateway := func(a netip.Prefix) bool { return false }\n\tif false && r.Gateway == p.Uplink.IPv4 ||"},
	{name: "policy without overlapping peers", file: "peers.go",
		old: "winner := t.winner(p, v.Route.Subnet); winner != nil {", new: "winner := t.winner(p, v.Route.Subnet); winner != nil && false {"},

	// The route programmer.
	{name: "foreign routes taken for ours", file: "netlinkx/table.go", real: true,
		old: "if r.protocol != t.config.Protocol {", new: "if false {"},
	{name: "routes of the run before removed at once", file: "netlinkx/wanted.go", real: true,
		old: "return t.linger && !released", new: "return false && !released"},
	{name: "route deleted by hand not put back", file: "netlinkx/observe.go", real: true,
		old: "if !t.erase(r) &&", new: "if false &&"},
}

// enough is how many schedules a mutant may survive.
const enough = 2000

// TestTeeth builds every mutant and runs schedules on it, which must catch it.
func TestTeeth(t *testing.T) {
	if testing.Short() || !withTeeth {
		t.Skip("builds many programs")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.bite(t, root)
		})
	}
}

var firstSeed = regexp.MustCompile(`seed (\d+):`)

func (m mutant) bite(t *testing.T, root string) {
	dir := t.TempDir()
	path := filepath.Join(root, filepath.FromSlash(m.file))
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%s has this %d times, want once:\n%s", m.file, n, m.old)
	}
	mutated := filepath.Join(dir, "mutated.go")
	overlay := filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		mutated: []byte(strings.Replace(string(source), m.old, m.new, 1)),
		overlay: replace,
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	binary := filepath.Join(dir, "mutant.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./internal/simulation")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	run := exec.CommandContext(ctx, binary, "-test.run=^TestSimulation$", fmt.Sprintf("-simulation.schedules=%d", enough))
	if m.real {
		run.Args = append(run.Args, "-simulation.kernel=real")
	}
	run.Dir = filepath.Join(root, "internal", "simulation")
	begin := time.Now()
	out, err := run.CombinedOutput()
	switch found := firstSeed.FindSubmatch(out); {
	case ctx.Err() != nil:
		t.Errorf("survives for %v", time.Since(begin).Round(time.Second))
	case err == nil:
		t.Errorf("survives %d schedules", enough)
	case found == nil || !strings.Contains(string(out), "invariant") || !strings.Contains(string(out), "-simulation.seed="+string(found[1])):
		t.Errorf("fails for another reason than an invariant:\n%s", out)
	default:
		line := regexp.MustCompile(`invariant \d: .*`).Find(out)
		t.Logf("caught by seed %s in %v: %s", found[1], time.Since(begin).Round(time.Millisecond), line)
	}
}
