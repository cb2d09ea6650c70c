package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const (
	tableName   = "hostgw"
	tableFamily = nftables.TableFamilyINet

	// kubeProxyMark is on packets that kube-proxy translates itself.
	kubeProxyMark = 0x4000
)

// content is a table as it should be: chains, and the rules of each. An empty
// content is no table at all.
type content []chainContent

type chainContent struct {
	chain chain
	rules [][]expr.Any
}

// family is one address family of a Config, with what goes with it.
type family struct {
	Family
	id        nftables.TableFamily
	multicast netip.Prefix
}

func (c Config) families() []family {
	var all []family
	if !c.IPv4.isZero() {
		all = append(all, family{c.IPv4, nftables.TableFamilyIPv4, netip.MustParsePrefix("224.0.0.0/4")})
	}
	if !c.IPv6.isZero() {
		all = append(all, family{c.IPv6, nftables.TableFamilyIPv6, netip.MustParsePrefix("ff00::/8")})
	}
	return all
}

// wanted returns what our table should hold.
func (c Config) wanted() content {
	var all content
	if c.Masquerade {
		// One before the priority of iptables' nat table: first come, first served,
		// and packets that only return from here are translated there as ever.
		to := newChain("postrouting", nftables.ChainTypeNAT, *nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-1)
		masquerade := []expr.Any{&expr.Masq{FullyRandom: !c.NoFullyRandom}}
		for _, f := range c.families() {
			to.add(f, withMark(kubeProxyMark), decide(expr.VerdictReturn))
			to.add(f, fromNetwork(expr.CmpOpEq, f.Network), toNetwork(expr.CmpOpEq, f.Network), decide(expr.VerdictReturn))
			to.add(f, toNetwork(expr.CmpOpEq, f.Subnet), decide(expr.VerdictReturn))
			to.add(f, fromNetwork(expr.CmpOpEq, f.Network), toNetwork(expr.CmpOpNeq, f.multicast), masquerade)
			to.add(f, toNetwork(expr.CmpOpEq, f.Network), masquerade)
		}
		all = append(all, to)
	}
	if c.Forward {
		to := newChain("forward", nftables.ChainTypeFilter, *nftables.ChainHookForward, *nftables.ChainPriorityFilter)
		for _, f := range c.families() {
			to.add(f, fromNetwork(expr.CmpOpEq, f.Network), decide(expr.VerdictAccept))
			to.add(f, toNetwork(expr.CmpOpEq, f.Network), decide(expr.VerdictAccept))
		}
		all = append(all, to)
	}
	return all
}

func newChain(name string, kind nftables.ChainType, hook nftables.ChainHook, priority nftables.ChainPriority) chainContent {
	return chainContent{chain: chain{
		family: tableFamily, table: tableName, name: name,
		base: true, kind: kind, hook: hook, priority: priority, policy: nftables.ChainPolicyAccept,
	}}
}

func (c *chainContent) add(f family, parts ...[]expr.Any) {
	c.rules = append(c.rules, slices.Concat(append([][]expr.Any{ofFamily(f.id)}, parts...)...))
}

// matches reports whether our table in the kernel holds exactly this.
func (c content) matches(k *kernel, tables []table, chains []chain) (bool, error) {
	i := slices.IndexFunc(tables, isOurs)
	if i < 0 || len(c) == 0 {
		return i < 0 && len(c) == 0, nil
	}
	if tables[i].flags != 0 {
		return false, nil // dormant: its chains are on no hook
	}
	mine := slices.DeleteFunc(slices.Clone(chains), func(h chain) bool {
		return h.family != tableFamily || h.table != tableName
	})
	if len(mine) != len(c) {
		return false, nil
	}
	rules, err := k.rules(tableFamily, tableName, "")
	if err != nil {
		return false, err
	}
	for _, want := range c {
		if !slices.Contains(mine, want.chain) {
			return false, nil
		}
		have := slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return r.chain != want.chain.name })
		if !slices.EqualFunc(have, want.rules, func(r rule, exprs []expr.Any) bool { return r.is(tableFamily, exprs) }) {
			return false, nil
		}
	}
	return true, nil
}

// apply makes our table in the kernel hold this, in one transaction.
func (c content) apply() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open a netfilter socket: %w", err)
	}
	// Deleting what does not exist would fail the transaction; adding what exists
	// does not.
	t := &nftables.Table{Family: tableFamily, Name: tableName}
	conn.AddTable(t)
	conn.DelTable(t)
	if len(c) > 0 {
		conn.AddTable(t)
	}
	for _, want := range c {
		to := conn.AddChain(&nftables.Chain{
			Table: t, Name: want.chain.name, Type: want.chain.kind,
			Hooknum: &want.chain.hook, Priority: &want.chain.priority, Policy: &want.chain.policy,
		})
		for _, exprs := range want.rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: to, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace table %s: %w", objectName(tableFamily, tableName, ""), err)
	}
	return nil
}

func isOurs(t table) bool { return t.family == tableFamily && t.name == tableName }
