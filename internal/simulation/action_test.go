package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostgw/hostgw/store/memory"
)

func (c *cluster) any(r *rand.Rand, ok func(*host) bool) *host {
	for _, i := range r.Perm(len(c.hosts)) {
		if ok(c.hosts[i]) {
			return c.hosts[i]
		}
	}
	return nil
}

// pick draws one of a kernel's routes.
func pick(r *rand.Rand, routes map[netip.Prefix]netip.Addr) (netip.Prefix, bool) {
	if len(routes) == 0 {
		return netip.Prefix{}, false
	}
	return slices.SortedFunc(maps.Keys(routes), netip.Prefix.Compare)[r.IntN(len(routes))], true
}

func runs(h *host) bool  { return h.run != nil }
func rests(h *host) bool { return h.run == nil }

var errAway = errors.New("no route to the store")

// leased returns the name of a record in the store; one of a host's if it can.
func (c *cluster) leased(r *rand.Rand) string {
	records := c.server.Snapshot().Records
	if len(records) == 0 {
		return ""
	}
	return records[r.IntN(len(records))].Name
}

func value(ipv4 string) string {
	return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}`, ipv4)
}

func value6(ipv4, ipv6 string) string {
	return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":"%s","BackendType":"host-gw"}`, ipv4, ipv6)
}

// actions are all that can be done to a cluster.
var actions = []struct {
	name   string
	weight int
	do     func(c *cluster, r *rand.Rand) string
}{
	{"start", 6, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, rests)
		if h == nil {
			return "nobody rests"
		}
		keep := r.IntN(4) > 0
		h.start(keep)
		return fmt.Sprintf("%s, subnet.env kept: %v", h.name, keep)
	}},
	{"restart", 4, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, runs)
		if h == nil {
			return "nobody runs"
		}
		zombie, keep := r.IntN(3) == 0, r.IntN(6) > 0
		h.stop(zombie)
		h.start(keep)
		return fmt.Sprintf("%s, killed with messages under way: %v, subnet.env kept: %v", h.name, zombie, keep)
	}},
	{"restart all", 1, func(c *cluster, r *rand.Rand) string {
		for _, h := range c.hosts {
			if h.run != nil {
				h.stop(false)
				h.start(true)
			}
		}
		return "as in an upgrade"
	}},
	{"stop", 2, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, runs)
		if h == nil {
			return "nobody runs"
		}
		run := h.stop(false)
		if r.IntN(2) > 0 {
			return h.name
		}
		return h.name + ", giving its subnet back: " + c.release(h, run)
	}},
	{"crash", 3, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, runs)
		if h == nil {
			return "nobody runs"
		}
		h.stop(true)
		return h.name
	}},
	{"cut off", 4, func(c *cluster, r *rand.Rand) string {
		h := c.hosts[r.IntN(len(c.hosts))]
		h.setFaults(memory.Faults{Err: errAway})
		return h.name
	}},
	{"cut off all", 1, func(c *cluster, r *rand.Rand) string {
		for _, h := range c.hosts {
			h.setFaults(memory.Faults{Err: errAway})
		}
		return "the store is away"
	}},
	{"connect", 5, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, func(h *host) bool { return h.faults != memory.Faults{} })
		if h == nil {
			return "nobody is cut off"
		}
		h.setFaults(memory.Faults{})
		return h.name
	}},
	{"connect all", 2, func(c *cluster, r *rand.Rand) string {
		for _, h := range c.hosts {
			h.setFaults(memory.Faults{})
		}
		return "the store is back"
	}},
	{"slow", 3, func(c *cluster, r *rand.Rand) string {
		h := c.hosts[r.IntN(len(c.hosts))]
		l := c.ledger
		f := memory.Faults{Events: time.Duration(r.Int64N(int64(l.hold / 2)))}
		if r.IntN(2) == 0 {
			longest := int64([...]time.Duration{time.Second, 10 * time.Second, l.ttl + l.hold}[r.IntN(3)])
			f.Request, f.Answer = time.Duration(r.Int64N(longest)), time.Duration(r.Int64N(longest))
		}
		h.setFaults(f)
		return fmt.Sprintf("%s: requests %v, answers %v, events %v", h.name, f.Request, f.Answer, f.Events)
	}},
	{"lose answers", 3, func(c *cluster, r *rand.Rand) string {
		h := c.hosts[r.IntN(len(c.hosts))]
		f := memory.Faults{LoseAnswers: 1 + r.IntN(3)}
		h.setFaults(f)
		return fmt.Sprintf("%s: the next %d", h.name, f.LoseAnswers)
	}},
	{"events again", 2, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, func(h *host) bool { return runs(h) && h.faults == memory.Faults{} })
		if h == nil {
			return "nobody runs without faults"
		}
		n := 1 + r.Int64N(20)
		l := c.ledger
		l.mu.Lock()
		h.heard, h.replayed = time.Time{}, time.Now()
		if !h.calmSince.IsZero() {
			h.calmSince = latest(time.Now(), h.late)
		}
		l.mu.Unlock()
		h.run.store.Replay(n)
		return fmt.Sprintf("%s hears the last %d revisions again", h.name, n)
	}},
	{"config", 3, func(c *cluster, r *rand.Rand) string {
		n, what := c.net.next(r)
		c.net, c.text = n, n.text()
		c.configure(c.text)
		return what + " " + c.text
	}},
	{"config breaks", 1, func(c *cluster, r *rand.Rand) string {
		if r.IntN(2) == 0 {
			c.usable = false
			c.server.DeleteConfig()
			return "deleted"
		}
		text := broken(r)
		c.configure(text)
		return text
	}},
	{"config again", 2, func(c *cluster, r *rand.Rand) string {
		c.configure(c.text)
		return c.text
	}},
	{"delete", 3, func(c *cluster, r *rand.Rand) string {
		name := c.leased(r)
		c.server.Delete(name)
		return name
	}},
	{"delete all", 1, func(c *cluster, r *rand.Rand) string {
		c.server.DeleteAll()
		return "leases, in one step"
	}},
	{"put", 3, (*cluster).put},
	{"wipe", 1, func(c *cluster, r *rand.Rand) string {
		c.server.Wipe()
		c.usable = false
		if r.IntN(2) == 0 {
			return "without config"
		}
		c.configure(c.text)
		return "config restored"
	}},
	{"backup", 1, func(c *cluster, r *rand.Rand) string {
		b := c.server.Backup()
		c.backup, c.backed = &b, c.net
		return "taken"
	}},
	{"restore", 1, func(c *cluster, r *rand.Rand) string {
		if c.backup == nil {
			return "no backup"
		}
		c.server.Restore(*c.backup)
		if c.usable = c.server.Snapshot().Config.Err == nil; c.usable {
			c.net, c.text = c.backed, c.backed.text()
		}
		return "backup restored"
	}},
	{"compact", 2, func(c *cluster, r *rand.Rand) string {
		c.server.Compact()
		return "history forgotten"
	}},
	{"uplink", 2, (*cluster).changeUplink},
	{"renumber", 1, func(c *cluster, r *rand.Rand) string {
		h := c.any(r, rests)
		if h == nil {
			return "nobody rests"
		}
		l := c.ledger
		l.mu.Lock()
		old := h.addrs
		delete(l.hosts, h.ipv4)
		delete(l.hosts, h.ipv6)
		h.address(h.number + 100 + r.IntN(50))
		for l.hosts[h.ipv4] != nil {
			h.address(h.number + 100 + r.IntN(50))
		}
		l.hosts[h.ipv4], l.hosts[h.ipv6] = h, h
		h.foreign = map[netip.Prefix]netip.Addr{}
		l.mu.Unlock()
		for _, a := range slices.Backward(old) { // with the first of a network its others go
			h.kernel.delAddr(a)
		}
		for _, a := range h.addrs {
			h.kernel.addAddr(a)
		}
		_, h.foreign = h.kernel.routes()
		return fmt.Sprintf("%s is %v now", h.name, h.ipv4)
	}},
	{"route deleted", 2, func(c *cluster, r *rand.Rand) string {
		h := c.hosts[r.IntN(len(c.hosts))]
		ours, _ := h.kernel.routes()
		p, ok := pick(r, ours)
		if !ok {
			return "there is none on " + h.name
		}
		h.kernel.remove(p, true)
		return fmt.Sprintf("%s loses its route to %v", h.name, p)
	}},
	{"foreign route", 2, func(c *cluster, r *rand.Rand) string {
		h := c.hosts[r.IntN(len(c.hosts))]
		if len(h.foreign) > 0 && r.IntN(2) == 0 {
			p, _ := pick(r, h.foreign)
			h.kernel.remove(p, false)
			delete(h.foreign, p)
			return fmt.Sprintf("%s loses %v", h.name, p)
		}
		w := way{c.net.subnet(r.IntN(1 << c.net.bits)), netip.AddrFrom4([4]byte{172, 17, 250, byte(1 + r.IntN(9))})}
		if !h.kernel.addForeign(w) {
			return fmt.Sprintf("%s refuses %v", h.name, w)
		}
		h.foreign[w.subnet] = w.gateway
		return fmt.Sprintf("%s gets %v", h.name, w)
	}},
	{"supervisor", 3, func(c *cluster, r *rand.Rand) string {
		return c.revive()
	}},
}

// revive starts the daemons again that ended by themselves.
func (c *cluster) revive() string {
	var names []string
	for _, h := range c.hosts {
		if rests(h) && len(h.runs) > 0 && h.runs[len(h.runs)-1].ended {
			h.start(true)
			names = append(names, h.name)
		}
	}
	return strings.Join(names, " ") + " started again"
}

// release has a daemon that was stopped give its subnet back.
func (c *cluster) release(h *host, run *run) string {
	if h.faults.Err != nil || h.faults.Request+h.faults.Answer > time.Second {
		return "the store is away"
	}
	l := c.ledger
	l.mu.Lock()
	h.releasing = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := run.m.Release(ctx)
	l.mu.Lock()
	h.releasing = false
	l.mu.Unlock()
	return fmt.Sprint(err)
}

// put writes a lease that no Manager would have written there.
func (c *cluster) put(r *rand.Rand) string {
	key := c.net.key(r)
	h := c.hosts[r.IntN(len(c.hosts))]
	name, text := key.String(), value("172.17.240.9")
	if key.IPv6.IsValid() {
		text = value6("172.17.240.9", "fd00::f0:9")
	}
	ttl := c.ledger.ttl
	if r.IntN(3) == 0 {
		ttl = 0
	}
	what := ""
	switch r.IntN(14) {
	case 0:
		what, name = "malformed key", [...]string{"nonsense", "10.5.1.0", "10.5.0.65-26", "10.5.1.0-24&", "::-0&1.2.3.4-8"}[r.IntN(5)]
	case 1:
		what, text = "malformed value", [...]string{"", "{", "{}", `{"PublicIP":"x"}`, `[]`}[r.IntN(5)]
	case 2:
		what, name = "outside the network", [...]string{"8.8.8.0-24", "0.0.0.0-0", "172.17.0.0-24", "127.0.0.0-8"}[r.IntN(4)]
	case 3:
		what, name = "the whole network", strings.ReplaceAll(c.net.ipv4().String(), "/", "-")
	case 4:
		what, text = "gateway off-link", value("192.0.2.7")
	case 5:
		what, text = "gateway of "+h.name, value6(h.ipv4.String(), h.ipv6.String())
	case 6:
		what, text = "gateway not unicast", value([...]string{"127.0.0.1", "224.0.0.5", "255.255.255.255", "172.17.0.0", "172.17.255.255"}[r.IntN(5)])
	case 7:
		what, text = "other backend", `{"PublicIP":"172.17.240.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VtepMAC":"0a:00:00:00:00:01"}}`
	case 8:
		what, text, ttl = "reservation for "+h.name, value6(h.ipv4.String(), h.ipv6.String()), 0
	case 9:
		what = "finer overlap"
		if key.IPv4.IsValid() {
			name = fmt.Sprintf("%v-%d", key.IPv4.Addr(), key.IPv4.Bits()+1)
		}
	case 10:
		what = "stolen"
		if stolen := c.leased(r); stolen != "" {
			name = stolen
		}
	default:
		what = "a flannel node's"
	}
	c.server.Put(name, []byte(text), ttl)
	return fmt.Sprintf("%s %s %s, TTL %v", what, name, text, ttl)
}

func (c *cluster) changeUplink(r *rand.Rand) string {
	h := c.hosts[r.IntN(len(c.hosts))]
	l := c.ledger
	setAddrs := func(as []netip.Prefix) {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.addrs = as
	}
	other := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 18, 9, byte(1 + h.number)}), 16)
	switch k := r.IntN(4); {
	case k == 0 && h.up:
		h.up = false
		h.foreign = map[netip.Prefix]netip.Addr{}
		h.kernel.setUp(false)
		return h.name + " goes down"
	case !h.up:
		h.up = true
		h.kernel.setUp(true)
		return h.name + " comes up"
	case k == 1:
		h.kernel.setUp(false)
		h.foreign = map[netip.Prefix]netip.Addr{}
		h.kernel.setUp(true)
		return h.name + " flaps"
	case slices.Contains(h.addrs, other):
		setAddrs(slices.DeleteFunc(slices.Clone(h.addrs), func(a netip.Prefix) bool { return a == other }))
		h.kernel.delAddr(other)
		return fmt.Sprintf("%s loses %v", h.name, other)
	}
	setAddrs(append(slices.Clone(h.addrs), other))
	h.kernel.addAddr(other)
	return fmt.Sprintf("%s gets %v", h.name, other)
}
