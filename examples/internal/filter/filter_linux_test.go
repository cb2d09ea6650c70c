package filter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// What each receiver sees as the source of what each sender sends.
func TestMasquerade(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		must(t, writeSetting("net.ipv4.ip_forward", "1"))
		must(t, writeSetting("net.ipv6.conf.all.forwarding", "1"))
		check := func(when string, translated bool) {
			for name, a := range map[string]addresses{"IPv4": four, "IPv6": six} {
				for _, p := range []struct {
					name     string
					from, to netip.Addr
					where    string
					mark     int
					sees     netip.Addr
				}{
					{"leaving the network", a.container, a.outside, "container", 0, a.uplink},
					{"inside the network", a.container, a.peer, "container", 0, a.container},
					{"inside the network, coming in", a.peer, a.container, "outside", 0, a.peer},
					{"from outside to an own container", a.outside, a.container, "outside", 0, a.outside},
					{"from this host's other address to an own container", a.foreign, a.container, "host", 0, a.foreign},
					{"from this host's other address to a peer's container", a.foreign, a.peer, "host", 0, a.uplink},
					{"the same, marked by kube-proxy", a.foreign, a.peer, "host", kubeProxyMark, a.foreign},
					{"from this host's other address to outside", a.foreign, a.outside, "host", 0, a.foreign},
				} {
					n := s.container
					switch p.where {
					case "outside":
						n = s.outside
					case "host":
						n = nil
					}
					want := p.sees
					if !translated {
						want = p.from
					}
					got, err := ask(n, p.from, p.to, p.mark, 2*time.Second)
					if err != nil || got != want.String() {
						t.Errorf("%s, %s, %s: receiver sees %q (%v), want %v", when, name, p.name, got, err, want)
					}
				}
				announce(t, a)
				select {
				case got := <-s.heard:
					if got != a.bridge.String() {
						t.Errorf("%s, %s, multicast: receiver sees %s, want %v", when, name, got, a.bridge)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("%s, %s, multicast: not received", when, name)
				}
			}
		}
		// That the network shows the difference at all:
		check("without rules", false)
		f := start(t, config())
		check("fully random", true)
		c := config()
		c.NoFullyRandom = true
		must(t, f.Update(c))
		settle(t, f)
		check("not fully random", true)
	})
}

// Whatever another program does to the table, it is put right, at once, and
// other tables stay as they are.
func TestRestore(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		f := start(t, config())
		ours := &nftables.Table{Family: tableFamily, Name: tableName}
		postrouting := &nftables.Chain{Table: ours, Name: "postrouting"}
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		for _, c := range []struct {
			name   string
			change func(c *nftables.Conn)
		}{
			{"flush ruleset", func(c *nftables.Conn) { c.FlushRuleset() }},
			{"delete table", func(c *nftables.Conn) { c.DelTable(ours) }},
			{"flush table", func(c *nftables.Conn) { c.FlushTable(ours) }},
			{"flush chain", func(c *nftables.Conn) { c.FlushChain(postrouting) }},
			{"delete a rule", func(c *nftables.Conn) {
				rules, err := k.rules(tableFamily, tableName, "postrouting")
				must(t, err)
				must(t, c.DelRule(&nftables.Rule{Table: ours, Chain: postrouting, Handle: rules[3].handle}))
			}},
			{"replace a rule", func(c *nftables.Conn) {
				rules, err := k.rules(tableFamily, tableName, "postrouting")
				must(t, err)
				c.ReplaceRule(&nftables.Rule{Table: ours, Chain: postrouting, Handle: rules[3].handle,
					Exprs: slices.Concat(ofFamily(nftables.TableFamilyIPv4), decide(expr.VerdictAccept))})
			}},
			{"insert a rule", func(c *nftables.Conn) {
				c.InsertRule(&nftables.Rule{Table: ours, Chain: postrouting, Exprs: decide(expr.VerdictAccept)})
			}},
			{"add a chain", func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: ours, Name: "other"}) }},
			{"set a policy", func(c *nftables.Conn) {
				drop := nftables.ChainPolicyDrop
				c.AddChain(&nftables.Chain{Table: ours, Name: "forward", Policy: &drop})
			}},
		} {
			before := f.Status().Repairs
			batch(t, c.change)
			began := time.Now()
			eventually(t, c.name+" is repaired", func() bool { return f.Status().Repairs > before })
			t.Logf("%s: repaired after %v", c.name, time.Since(began).Round(10*time.Microsecond))
			settle(t, f)
			tables, err := k.tables()
			must(t, err)
			chains, err := k.chains()
			must(t, err)
			if ok, err := config().wanted().matches(k, tables, chains); !ok || err != nil {
				t.Errorf("%s: the table is not as wanted (%v)", c.name, err)
			}
			for _, a := range []addresses{four, six} {
				if got, err := ask(s.container, a.container, a.outside, 0, 2*time.Second); err != nil || got != a.uplink.String() {
					t.Errorf("%s: receiver sees %q (%v), want %v", c.name, got, err, a.uplink)
				}
			}
		}
	})
}

// A dormant table has every rule and no effect.
func TestRestoreDormant(t *testing.T) {
	onHost(t, func(t *testing.T) {
		tool(t, "nft")
		f := start(t, config())
		command(t, "nft add table inet hostgw { flags dormant; }")
		eventually(t, "a dormant table is repaired", func() bool { return f.Status().Repairs == 1 })
		if out := command(t, "nft list table inet hostgw"); strings.Contains(out, "dormant") {
			t.Errorf("the table is still dormant:\n%s", out)
		}
	})
}

// An own change is not a reason for another: looking is enough to end it, for
// this process and for one that is started later.
func TestLookSettles(t *testing.T) {
	onHost(t, func(t *testing.T) {
		docker(t, nftables.TableFamilyIPv4, four)
		docker(t, nftables.TableFamilyIPv6, six)
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		var l looker
		defer l.close()
		_, err = l.look(t.Context(), config())
		must(t, err)
		want, err := k.generation()
		must(t, err)
		if want != l.generation {
			t.Errorf("look remembers generation %d, want %d", l.generation, want)
		}
		l.generation = 0 // look at everything again
		var later looker
		defer later.close()
		for _, l := range []*looker{&l, &later} {
			found, err := l.look(t.Context(), config())
			must(t, err)
			if got, err := k.generation(); err != nil || got != want || found.repaired {
				t.Errorf("a second look made generation %d of %d, repaired %v (%v)", got, want, found.repaired, err)
			}
		}
	})
}

// Two programs that do not agree do not keep the host busy, and the rules are
// back when the other one stops.
func TestRestoreContended(t *testing.T) {
	onHost(t, func(t *testing.T) {
		f := start(t, config())
		ours := &nftables.Table{Family: tableFamily, Name: tableName}
		began := time.Now()
		for range 200 {
			batch(t, func(c *nftables.Conn) { c.AddTable(ours); c.DelTable(ours) })
		}
		if most := burst * (2 + uint64(time.Since(began)/burstTime)); f.Status().Repairs > most {
			t.Errorf("%d repairs within %v, want at most %d", f.Status().Repairs, time.Since(began), most)
		}
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		eventually(t, "the table is back", func() bool {
			rules, err := k.rules(tableFamily, tableName, "")
			must(t, err)
			return len(rules) == 14
		})
	})
}

// While the table is replaced a hundred times every new connection is
// translated and none is lost.
func TestReplaceHasNoGap(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		f := start(t, config())
		var probes atomic.Int64
		stop := make(chan struct{})
		done := make(chan error, 2)
		for _, a := range []addresses{four, six} {
			go func() {
				for {
					got, err := ask(s.container, a.container, a.outside, 0, 5*time.Second)
					if err != nil || got != a.uplink.String() {
						done <- fmt.Errorf("receiver sees %q (%v), want %v", got, err, a.uplink)
						return
					}
					probes.Add(1)
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
				}
			}()
		}
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		for i := range 100 {
			c := config()
			c.NoFullyRandom = i%2 == 0
			before, err := k.generation()
			must(t, err)
			must(t, f.Update(c))
			settle(t, f)
			if after, err := k.generation(); err != nil || after == before {
				t.Fatalf("update %d changed nothing (%v)", i, err)
			}
			for seen := probes.Load(); probes.Load() < seen+4 && len(done) == 0; {
				time.Sleep(100 * time.Microsecond)
			}
		}
		close(stop)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		t.Logf("%d probes", probes.Load())
	})
}

// A new process takes over what an earlier one left without a change, before it
// knows its lease and after.
func TestTakeOver(t *testing.T) {
	onHost(t, func(t *testing.T) {
		var l looker
		_, err := l.look(t.Context(), config())
		must(t, err)
		l.close()
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		before, err := k.generation()
		must(t, err)
		c := config()
		c.IPv4, c.IPv6 = Family{}, Family{}
		var next looker
		defer next.close()
		for _, c := range []Config{c, config()} {
			_, err = next.look(t.Context(), c)
			must(t, err)
			if after, err := k.generation(); err != nil || after != before {
				t.Errorf("taking over changed the rules (%v)", err)
			}
		}
		// Nothing wanted is something that is known, too.
		c = config()
		c.Masquerade, c.Forward = false, false
		_, err = next.look(t.Context(), c)
		must(t, err)
		tables, err := k.tables()
		must(t, err)
		if len(tables) != 0 {
			t.Errorf("tables %v are left, want none", tables)
		}
	})
}

func TestForwardDrop(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		families := []struct {
			id nftables.TableFamily
			a  addresses
		}{{nftables.TableFamilyIPv4, four}, {nftables.TableFamilyIPv6, six}}
		for _, f := range families {
			docker(t, f.id, f.a)
		}
		c := config()
		c.Forward = false
		must(t, writeSetting("net.ipv4.ip_forward", "1"))
		must(t, writeSetting("net.ipv6.conf.all.forwarding", "1"))
		f := start(t, c)
		for _, x := range families {
			s.blocked(t, x.a)
		}
		problems := f.Status().Problems
		for _, chain := range []string{"ip filter FORWARD", "ip6 filter FORWARD"} {
			if !slices.ContainsFunc(problems, func(p error) bool {
				var e *DropError
				return errors.As(p, &e) && e.Chain == chain && !e.Rule
			}) {
				t.Errorf("problems %v do not name %s", problems, chain)
			}
		}

		must(t, f.Update(config()))
		settle(t, f)
		inUser := []string{"ip filter DOCKER-USER", "ip6 filter DOCKER-USER"}
		if st := f.Status(); !slices.Equal(st.Exceptions, inUser) || len(st.Problems) != 0 {
			t.Errorf("exceptions %q, problems %v; want %q and none", st.Exceptions, st.Problems, inUser)
		}
		for _, x := range families {
			s.passes(t, x.a)
			// The operator's own rule in DOCKER-USER goes first.
			if _, err := ask(s.container, x.a.container, x.a.refused, 0, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("to what the operator refuses: got %v, want no answer", err)
			}
		}

		// The operator appends another rule: ours move behind it.
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		for _, x := range families {
			filter := &nftables.Table{Family: x.id, Name: "filter"}
			rules, err := k.rules(x.id, "filter", "DOCKER-USER")
			must(t, err)
			last := rules[len(rules)-1]
			if !last.returnsAll() || !rules[1].isException() || !rules[2].isException() || len(rules) != 4 {
				t.Fatalf("rules of DOCKER-USER: %v", rules)
			}
			refuse := append(toNetwork(expr.CmpOpEq, netip.PrefixFrom(x.a.outside, x.a.hostBits)), &expr.Verdict{Kind: expr.VerdictDrop})
			batch(t, func(c *nftables.Conn) {
				c.InsertRule(&nftables.Rule{Table: filter, Chain: &nftables.Chain{Name: "DOCKER-USER"}, Position: last.handle, Exprs: refuse})
			})
			eventually(t, "the operator's new rule is in force", func() bool {
				_, err := ask(s.container, x.a.container, x.a.outside, 0, 50*time.Millisecond)
				return errors.Is(err, os.ErrDeadlineExceeded)
			})
		}

		// Docker starts anew: its chains go, and come back.
		for _, x := range families {
			filter := &nftables.Table{Family: x.id, Name: "filter"}
			user := &nftables.Chain{Table: filter, Name: "DOCKER-USER"}
			forward := &nftables.Chain{Table: filter, Name: "FORWARD"}
			batch(t, func(c *nftables.Conn) { c.FlushChain(forward); c.FlushChain(user); c.DelChain(user) })
			in := objectName(x.id, "filter", "FORWARD")
			eventually(t, "the exception moves to "+in, func() bool { return slices.Contains(f.Status().Exceptions, in) })
			s.passes(t, x.a)
			batch(t, func(c *nftables.Conn) {
				dockerUserChain(c, filter, x.a)
				c.InsertRule(&nftables.Rule{Table: filter, Chain: forward, Exprs: jumpToUser()})
			})
			in = objectName(x.id, "filter", "DOCKER-USER")
			eventually(t, "the exception moves to "+in, func() bool { return slices.Contains(f.Status().Exceptions, in) })
			s.passes(t, x.a)
			rules, err := k.rules(x.id, "filter", "FORWARD")
			must(t, err)
			if slices.ContainsFunc(rules, rule.isException) {
				t.Error("an exception is left in FORWARD")
			}
		}

		// A family that goes takes its exceptions along.
		c = config()
		c.IPv6 = Family{}
		must(t, f.Update(c))
		settle(t, f)
		rules, err := k.rules(nftables.TableFamilyIPv6, "filter", "")
		must(t, err)
		if slices.ContainsFunc(rules, rule.isException) {
			t.Error("an exception is left in ip6 filter")
		}
	})
}

// Whether containers of this host reach each other is Docker's business.
func TestExceptionLeavesOwnSubnetAlone(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		second, address := newNamespace(t, "second"), netip.MustParseAddr("10.5.1.200")
		ip(t, "link add docker1 type veth peer name eth0 netns "+second.Path())
		ip(t, "link set docker1 up")
		ip(t, "route add 10.5.1.200 dev docker1")
		must(t, second.SetUp("eth0"))
		must(t, second.AddAddress("eth0", netip.PrefixFrom(address, four.linkBits)))
		must(t, second.AddRoute(netip.PrefixFrom(four.container, 32), four.bridge, "eth0"))
		must(t, s.container.AddRoute(netip.PrefixFrom(address, 32), four.bridge, "eth0"))
		s.serve(t, second, address)
		must(t, writeSetting("net.ipv4.ip_forward", "1"))
		if _, err := ask(s.container, four.container, address, 0, 2*time.Second); err != nil {
			t.Fatalf("without rules: %v", err)
		}
		docker(t, nftables.TableFamilyIPv4, four)
		f := start(t, config())
		for _, uplink := range []string{"up0", ""} {
			c := config()
			c.Uplink = uplink
			must(t, f.Update(c))
			settle(t, f)
			if got := f.Status().Exceptions; len(got) != 1 {
				t.Fatalf("exceptions %q, want one", got)
			}
			s.passes(t, four)
			if _, err := ask(s.container, four.container, address, 0, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("container to container with uplink %q: got %v, want no answer", uplink, err)
			}
		}
	})
}

// The tools list what is there as an operator would have written it, and what
// they save and restore is recognised.
func TestTools(t *testing.T) {
	onHost(t, func(t *testing.T) {
		for _, name := range []string{"nft", "iptables-nft", "ip6tables-nft", "iptables-nft-save", "iptables-nft-restore"} {
			tool(t, name)
		}
		for _, iptables := range []string{"iptables-nft", "ip6tables-nft"} {
			command(t, iptables+" -P FORWARD DROP")
			command(t, iptables+" -N DOCKER-USER")
			command(t, iptables+" -A DOCKER-USER -m comment --comment operator -j RETURN")
			command(t, iptables+" -I FORWARD -j DOCKER-USER")
		}
		before := command(t, "iptables-nft -S") + command(t, "ip6tables-nft -S")
		f := start(t, config())
		for _, x := range []struct {
			iptables string
			a        addresses
		}{{"iptables-nft", four}, {"ip6tables-nft", six}} {
			want := fmt.Sprintf(`-N DOCKER-USER
-A DOCKER-USER -s %[1]v ! -d %[2]v -o up0 -m comment --comment "managed by hostgwd" -j ACCEPT
-A DOCKER-USER ! -s %[2]v -d %[1]v -i up0 -m comment --comment "managed by hostgwd" -j ACCEPT
-A DOCKER-USER -m comment --comment operator -j RETURN
`, x.a.Network, x.a.Subnet)
			if got := command(t, x.iptables+" -S DOCKER-USER"); got != want {
				t.Errorf("%s -S DOCKER-USER:\n%s\nwant:\n%s", x.iptables, got, want)
			}
			command(t, x.iptables+" -L -n -v")
		}
		// Not only listed, but understood: the tools find the rules by their text.
		check := strings.Fields("-C DOCKER-USER -s 10.5.0.0/16 ! -d 10.5.1.0/24 -o up0 -j ACCEPT -m comment --comment")
		if out, err := exec.Command("iptables-nft", append(check, exceptionComment)...).CombinedOutput(); err != nil {
			t.Errorf("iptables-nft -C: %v\n%s", err, out)
		}

		command(t, "nft -c list table inet hostgw")
		got := command(t, "nft list table inet hostgw")
		for _, line := range []string{
			"type nat hook postrouting priority srcnat - 1; policy accept;",
			"ip saddr 10.5.0.0/16 ip daddr 10.5.0.0/16 return",
			"ip daddr 10.5.1.0/24 return",
			"ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
			"ip daddr 10.5.0.0/16 masquerade fully-random",
			"ip6 saddr 2001:db8:5::/48 ip6 daddr != ff00::/8 masquerade fully-random",
			"type filter hook forward priority filter; policy accept;",
			"ip6 daddr 2001:db8:5::/48 accept",
		} {
			if !strings.Contains(got, line) {
				t.Errorf("nft list table inet hostgw lacks %q:\n%s", line, got)
			}
		}

		saved := command(t, "iptables-nft-save")
		command(t, "iptables-nft -F DOCKER-USER")
		restore := exec.Command("iptables-nft-restore")
		restore.Stdin = strings.NewReader(saved)
		if out, err := restore.CombinedOutput(); err != nil {
			t.Fatalf("iptables-nft-restore: %v\n%s", err, out)
		}
		settle(t, f)
		eventually(t, "one exception is left after a restore", func() bool {
			return strings.Count(command(t, "iptables-nft -S DOCKER-USER"), "hostgwd") == 2
		})

		c := config()
		c.Masquerade, c.Forward = false, false
		must(t, f.Update(c))
		eventually(t, "everything of ours is gone", func() bool { return f.Status().Applied })
		if after := command(t, "iptables-nft -S") + command(t, "ip6tables-nft -S"); after != before {
			t.Errorf("iptables -S after:\n%s\nbefore:\n%s", after, before)
		}
	})
}

func TestCleanup(t *testing.T) {
	onHost(t, func(t *testing.T) {
		docker(t, nftables.TableFamilyIPv4, four)
		docker(t, nftables.TableFamilyIPv6, six)
		batch(t, func(c *nftables.Conn) {
			other := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "operator"})
			chain := c.AddChain(&nftables.Chain{Table: other, Name: "forward"})
			c.AddRule(&nftables.Rule{Table: other, Chain: chain, Exprs: decide(expr.VerdictAccept), UserData: []byte{0, 255, 1}})
		})
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		everything := func() map[string]any {
			all := make(map[string]any)
			tables, err := k.tables()
			must(t, err)
			all["tables"] = tables
			chains, err := k.chains()
			must(t, err)
			all["chains"] = chains
			for _, x := range tables {
				rules, err := k.rules(x.family, x.name, "")
				must(t, err)
				all[objectName(x.family, x.name, "")] = rules
			}
			return all
		}
		before := everything()
		must(t, Cleanup(t.Context())) // nothing to do is no error
		ctx, cancel := context.WithCancel(t.Context())
		f, err := New(config())
		must(t, err)
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		settle(t, f)
		if len(f.Status().Exceptions) != 2 || reflect.DeepEqual(before, everything()) {
			t.Fatal("there is nothing to clean up")
		}
		cancel()
		must(t, <-done)
		must(t, Cleanup(t.Context()))
		if after := everything(); !reflect.DeepEqual(before, after) {
			t.Errorf("after:\n%v\nbefore:\n%v", after, before)
		}
	})
}

func TestForwarding(t *testing.T) {
	onHost(t, func(t *testing.T) {
		ip(t, "link add up0 type veth peer name other0")
		ip(t, "link add vlan.7 type veth peer name other1")
		off := []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}
		for _, setting := range off {
			must(t, writeSetting(setting, "0"))
		}
		for _, name := range []string{"up0", "other0", "vlan/7"} {
			must(t, writeSetting("net.ipv6.conf."+name+".accept_ra", "1"))
		}
		c := config()
		c.Forward = false
		f := start(t, c)
		var named []string
		for _, p := range f.Status().Problems {
			var e *ForwardingError
			if errors.As(p, &e) && e.Err == nil {
				named = append(named, e.Setting)
			}
		}
		if !slices.Equal(named, off) {
			t.Errorf("settings %q are named, want %q", named, off)
		}
		c = config()
		c.Uplink = "vlan.7"
		must(t, f.Update(c))
		settle(t, f)
		if p := f.Status().Problems; len(p) != 0 {
			t.Errorf("problems %v, want none", p)
		}
		for setting, want := range map[string]string{
			"net.ipv4.ip_forward":              "1",
			"net.ipv6.conf.all.forwarding":     "1",
			"net.ipv6.conf.vlan/7.accept_ra":   "2",
			"net.ipv6.conf.up0.accept_ra":      "1",
			"net.ipv6.conf.other0.accept_ra":   "1",
			"net.ipv6.conf.default.forwarding": "1",
		} {
			if got, err := readSetting(setting); err != nil || got != want {
				t.Errorf("%s is %q (%v), want %q", setting, got, err, want)
			}
		}
		if _, err := readSetting("net.ipv6.conf.none.accept_ra"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a setting of no interface: %v", err)
		}
	})
}

// A host that learnt its default route from a router's advertisement keeps it
// when forwarding is switched on, which the kernel alone would not do.
func TestForwardingKeepsAdvertisedRoute(t *testing.T) {
	onHost(t, func(t *testing.T) {
		s := newSite(t)
		const forwarding, accept = "net.ipv6.conf.all.forwarding", "net.ipv6.conf.up0.accept_ra"
		advertised := func() bool {
			names, err := advertisedDefaults()
			must(t, err)
			return slices.Equal(names, []string{"up0"})
		}
		learn := func() {
			t.Helper()
			must(t, writeSetting(forwarding, "0"))
			must(t, writeSetting(accept, "1"))
			s.advertise(t)
			eventually(t, "the advertised default route is there", advertised)
		}
		learn()
		must(t, writeSetting(forwarding, "1"))
		eventually(t, "the kernel alone drops the route", func() bool { return !advertised() })

		learn()
		c := config()
		c.Uplink = "" // the route says which interface it is about
		start(t, c)
		for setting, want := range map[string]string{forwarding: "1", accept: "2", "net.ipv6.conf.docker0.accept_ra": "1"} {
			if got, err := readSetting(setting); err != nil || got != want {
				t.Errorf("%s is %q (%v), want %q", setting, got, err, want)
			}
		}
		if !advertised() {
			t.Error("the advertised default route is gone")
		}
	})
}

// What drops packets and cannot be excepted is named.
func TestObstacles(t *testing.T) {
	onHost(t, func(t *testing.T) {
		for _, name := range []string{"nft", "iptables-nft"} {
			tool(t, name)
		}
		f := start(t, config())
		if p := f.Status().Problems; len(p) != 0 {
			t.Fatalf("problems %v, want none", p)
		}
		for _, c := range []struct {
			make, undo string
			want       string
		}{
			{
				"nft add table inet fw; add chain inet fw routed { type filter hook forward priority 0; policy drop; }", "nft delete table inet fw",
				"chain inet fw routed has the policy drop: it must accept what is forwarded from and to 10.5.0.0/16",
			},
			{
				"iptables-nft -A FORWARD -j REJECT", "iptables-nft -F FORWARD",
				"chain ip filter FORWARD drops every packet that reaches its end: it must accept what is forwarded from and to 10.5.0.0/16",
			},
			{
				"iptables-nft -t raw -A PREROUTING -d 10.5.1.7/32 ! -i docker0 -j DROP", "iptables-nft -t raw -F",
				"chain ip raw PREROUTING drops what other hosts send to containers in 10.5.1.0/24: start dockerd with --allow-direct-routing or --iptables=false",
			},
			{
				"iptables-nft -t raw -A PREROUTING -d 10.5.1.0/24 ! -i docker0 -j DROP", "iptables-nft -t raw -F",
				"chain ip raw PREROUTING drops what other hosts send to containers in 10.5.1.0/24: start dockerd with --allow-direct-routing or --iptables=false",
			},
		} {
			command(t, c.make)
			named := func() bool {
				return slices.ContainsFunc(f.Status().Problems, func(p error) bool { return p.Error() == c.want })
			}
			eventually(t, fmt.Sprintf("%s is named", c.make), named)
			command(t, c.undo)
			eventually(t, fmt.Sprintf("%s is no longer named", c.make), func() bool { return len(f.Status().Problems) == 0 })
		}
		// Others' addresses are others' business.
		command(t, "iptables-nft -t raw -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP")
		k, err := dialKernel()
		must(t, err)
		defer k.close()
		rules, err := k.rules(nftables.TableFamilyIPv4, "raw", "PREROUTING")
		must(t, err)
		if len(rules) != 1 || rules[0].dropsTo(nftables.TableFamilyIPv4, four.Subnet) {
			t.Errorf("rules %v: want one that is not about %v", rules, four.Subnet)
		}
	})
}

func TestLegacy(t *testing.T) {
	onHost(t, func(t *testing.T) {
		tool(t, "iptables-legacy")
		families := config().families()
		if e := legacy(t.Context(), families[0]); e != nil {
			t.Fatalf("without legacy tables: %v", e)
		}
		command(t, "iptables-legacy -P FORWARD ACCEPT")
		if e := legacy(t.Context(), families[0]); e != nil {
			t.Errorf("with the policy ACCEPT: %v", e)
		}
		command(t, "iptables-legacy -P FORWARD DROP")
		f := start(t, config())
		var e *LegacyError
		if p := f.Status().Problems; len(p) != 1 || !errors.As(p[0], &e) || e.Policy != "DROP" || e.Command != "iptables-legacy" {
			t.Errorf("problems %v, want the legacy policy", p)
		}
		t.Setenv("PATH", "/nonexistent")
		if e := legacy(t.Context(), families[0]); e == nil || e.Policy != "" {
			t.Errorf("without the command: %v", e)
		}
	})
}

// tool skips the test if a program to compare with is not installed, which is an
// error where HOSTGW_REQUIRE_TOOLS is set.
func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	} else if os.Getenv("HOSTGW_REQUIRE_TOOLS") != "" {
		t.Fatal(err)
	}
	t.Skipf("needs %s", name)
}
