package filter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

const (
	iptablesFilter = "filter"
	iptablesRaw    = "raw"
	forwardChain   = "FORWARD"
	dockerUser     = "DOCKER-USER"
	preroutingRaw  = "PREROUTING"

	// exceptionComment marks our rules in chains of others. Both iptables and nft
	// list it as the rule's comment.
	exceptionComment = "managed by hostgwd"
)

// exception returns the rules that let the network's traffic through where
// somebody else drops it.
func (c Config) exception(f family) [][]expr.Any {
	var out, in []expr.Any
	if c.Uplink != "" {
		out, in = through(expr.MetaKeyOIFNAME, c.Uplink), through(expr.MetaKeyIIFNAME, c.Uplink)
	}
	accept := append([]expr.Any{&expr.Counter{}}, decide(expr.VerdictAccept)...)
	return [][]expr.Any{
		slices.Concat(out, fromNetwork(expr.CmpOpEq, f.Network), toNetwork(expr.CmpOpNeq, f.Subnet), accept),
		slices.Concat(in, fromNetwork(expr.CmpOpNeq, f.Subnet), toNetwork(expr.CmpOpEq, f.Network), accept),
	}
}

// isException reports whether the rule is one that exception made, now or
// earlier.
func (r rule) isException() bool { return r.comment() == exceptionComment }

// comment returns the rule's comment. nft, and iptables before 1.8.9, keep it in
// the user data, of which the kernel knows nothing, so that it may be anything;
// iptables since then in a match of its own, also of a rule that it saved and
// restored.
func (r rule) comment() string {
	b := r.userdata
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if userdata.Type(b[0]) == userdata.TypeComment {
			return untilZero(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	for _, e := range r.exprs {
		if name, info := e.xtables(); e.name == "match" && name == "comment" {
			return untilZero(info)
		}
	}
	return ""
}

func untilZero(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// except makes the exceptions of one family what they should be in iptables'
// filter table. It reports in which chain there is one, what is in its way, and
// whether it had to change anything.
func (c Config) except(k *kernel, f family, tables []table, chains []chain) (in string, problem error, changed bool, err error) {
	if !active(tables, f.id, iptablesFilter) {
		return "", nil, false, nil
	}
	i := slices.IndexFunc(chains, func(h chain) bool {
		return h.family == f.id && h.table == iptablesFilter && h.name == forwardChain
	})
	if i < 0 || !chains[i].base {
		return "", nil, false, nil
	}
	drops := chains[i].policy == nftables.ChainPolicyDrop
	rules := make(map[string][]rule)
	for _, name := range []string{forwardChain, dockerUser} {
		if rules[name], err = k.rules(f.id, iptablesFilter, name); err != nil {
			return "", nil, false, err
		}
	}

	place := ""
	if c.Forward {
		if slices.ContainsFunc(rules[forwardChain], func(r rule) bool {
			v, ok := r.verdict()
			return ok && v.Kind == expr.VerdictJump && v.Chain == dockerUser && r.matchesAll()
		}) {
			place = dockerUser
		} else if drops {
			place = forwardChain
		}
	}
	for _, name := range []string{forwardChain, dockerUser} {
		var want [][]expr.Any
		if name == place {
			want = c.exception(f)
		}
		did, err := placeException(f.id, name, rules[name], want)
		if err != nil {
			return "", nil, changed, err
		}
		changed = changed || did
	}

	if place != "" {
		in = objectName(f.id, iptablesFilter, place)
		if refused(rules[place]) {
			problem = &DropError{Chain: in, Rule: true, Network: f.Network}
		}
	} else if refuses := refused(rules[forwardChain]); drops || refuses {
		problem = &DropError{Chain: objectName(f.id, iptablesFilter, forwardChain), Rule: refuses, Network: f.Network}
	}
	return in, problem, changed, nil
}

// refused reports whether no packet gets as far as an exception in the chain.
func refused(rules []rule) bool {
	for _, r := range rules {
		if r.returnsAll() {
			return false
		}
		if r.refusesAll() {
			return true
		}
	}
	return false
}

// placeException makes want the only exception in the chain, behind all of the
// operator's rules: before the first that returns every packet, else at the
// end. It reports whether it changed anything.
func placeException(family nftables.TableFamily, chain string, rules []rule, want [][]expr.Any) (bool, error) {
	var foreign, ours []rule
	for _, r := range rules {
		if r.isException() {
			ours = append(ours, r)
		} else {
			foreign = append(foreign, r)
		}
	}
	end := slices.IndexFunc(foreign, rule.returnsAll)
	place := end
	if end < 0 {
		place = len(foreign)
	}
	settled := slices.Concat(foreign[:place], ours, foreign[place:])
	if slices.EqualFunc(rules, settled, func(a, b rule) bool { return a.handle == b.handle }) &&
		slices.EqualFunc(ours, want, func(r rule, exprs []expr.Any) bool { return r.is(family, exprs) }) {
		return false, nil
	}

	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open a netfilter socket: %w", err)
	}
	t := &nftables.Table{Family: family, Name: iptablesFilter}
	c := &nftables.Chain{Table: t, Name: chain}
	for _, exprs := range want {
		r := &nftables.Rule{Table: t, Chain: c, Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, exceptionComment)}
		if end >= 0 {
			r.Position = foreign[end].handle
			conn.InsertRule(r)
		} else {
			conn.AddRule(r)
		}
	}
	for _, r := range ours {
		if err := conn.DelRule(&nftables.Rule{Table: t, Chain: c, Handle: r.handle}); err != nil {
			return false, err
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("place the exception in chain %s: %w", objectName(family, iptablesFilter, chain), err)
	}
	return true, nil
}

// removeExceptions removes every exception of the family, and reports whether
// there was one.
func removeExceptions(k *kernel, id nftables.TableFamily) (bool, error) {
	rules, err := k.rules(id, iptablesFilter, "")
	if err != nil {
		return false, err
	}
	chains := make(map[string][]rule)
	for _, r := range rules {
		chains[r.chain] = append(chains[r.chain], r)
	}
	removed := false
	var errs []error
	for name, rules := range chains {
		did, err := placeException(id, name, rules, nil)
		removed = removed || did
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// obstacles returns what else of others drops the family's traffic.
func (c Config) obstacles(k *kernel, f family, tables []table, chains []chain) ([]error, error) {
	var problems []error
	for _, h := range chains {
		if !h.base || h.hook != *nftables.ChainHookForward || h.policy != nftables.ChainPolicyDrop ||
			(h.family != f.id && h.family != nftables.TableFamilyINet) || !active(tables, h.family, h.table) ||
			(h.table == iptablesFilter && h.name == forwardChain && h.family == f.id) {
			continue // the last is what except has looked at
		}
		problems = append(problems, &DropError{Chain: objectName(h.family, h.table, h.name), Network: f.Network})
	}
	if !active(tables, f.id, iptablesRaw) {
		return problems, nil
	}
	raw, err := k.rules(f.id, iptablesRaw, preroutingRaw)
	if err != nil {
		return problems, err
	}
	if slices.ContainsFunc(raw, func(r rule) bool { return r.dropsTo(f.id, f.Subnet) }) {
		problems = append(problems, &DirectAccessError{Chain: objectName(f.id, iptablesRaw, preroutingRaw), Subnet: f.Subnet})
	}
	return problems, nil
}

// active reports whether there is such a table whose chains are on their hooks.
func active(tables []table, family nftables.TableFamily, name string) bool {
	return slices.ContainsFunc(tables, func(t table) bool {
		return t.family == family && t.name == name && t.flags&nftDormant == 0
	})
}

// nftDormant is NFT_TABLE_F_DORMANT in linux/netfilter/nf_tables.h.
const nftDormant = 1
