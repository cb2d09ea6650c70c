package netlinktest

import (
	"cmp"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// fib is the forwarding information base of one address family.
type fib struct {
	tables map[uint32]*table
	byLink map[int]map[*route]struct{}
	source map[netip.Addr]map[*route]struct{} // by preferred source
}

type table struct {
	id     uint32
	routes map[netip.Prefix][]*route // in the order of preference
	bits   [129]int                  // how many destinations there are of each prefix length
}

// route is an IPv4 route, or one next hop's part of an IPv6 one: Linux keeps
// those apart, and shows neighbours with a gateway and of one metric as one
// multipath route.
type route struct {
	dst      netip.Prefix
	table    uint32
	tos      uint8
	protocol uint8
	scope    uint8
	typ      uint8
	priority uint32
	source   netip.Addr
	metrics  []byte // RTA_METRICS as it came
	hops     []hop  // empty for blackholes and the like
}

type hop struct {
	gateway netip.Addr
	link    int
	onlink  bool
	weight  uint8 // less one, as rtnh_hops
	scope   uint8 // of what the gateway was on when the route was added; IPv4 only
	dead    bool  // its link is down, but other next hops' are not; IPv6 only
}

func (r *route) ipv4() bool { return r.dst.Addr().Is4() }

// ecmp reports whether an IPv6 route can be a part of a multipath one.
func (r *route) ecmp() bool { return len(r.hops) == 1 && r.hops[0].gateway.IsValid() }

func newFIB() *fib {
	return &fib{
		tables: make(map[uint32]*table),
		byLink: make(map[int]map[*route]struct{}),
		source: make(map[netip.Addr]map[*route]struct{}),
	}
}

func (f *fib) table(id uint32, create bool) *table {
	t := f.tables[id]
	if t == nil && create {
		t = &table{id: id, routes: make(map[netip.Prefix][]*route)}
		f.tables[id] = t
	}
	return t
}

// insert puts r at the given place among the routes to its destination.
func (f *fib) insert(r *route, at int) {
	t := f.table(r.table, true)
	old := t.routes[r.dst]
	if len(old) == 0 {
		t.bits[r.dst.Bits()]++
	}
	t.routes[r.dst] = slices.Insert(old, at, r)
	for _, h := range r.hops {
		addTo(f.byLink, h.link, r)
	}
	if r.source.IsValid() {
		addTo(f.source, r.source, r)
	}
}

func (f *fib) remove(r *route) {
	t := f.tables[r.table]
	rest := slices.DeleteFunc(t.routes[r.dst], func(o *route) bool { return o == r })
	if len(rest) == 0 {
		delete(t.routes, r.dst)
		t.bits[r.dst.Bits()]--
	} else {
		t.routes[r.dst] = rest
	}
	for _, h := range r.hops {
		removeFrom(f.byLink, h.link, r)
	}
	if r.source.IsValid() {
		removeFrom(f.source, r.source, r)
	}
}

func addTo[K comparable](m map[K]map[*route]struct{}, key K, r *route) {
	set := m[key]
	if set == nil {
		set = make(map[*route]struct{})
		m[key] = set
	}
	set[r] = struct{}{}
}

func removeFrom[K comparable](m map[K]map[*route]struct{}, key K, r *route) {
	delete(m[key], r)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// through returns the routes that have a next hop through a link.
func (f *fib) through(link int) []*route { return sorted(f.byLink[link]) }

// withSource returns the routes that prefer a source address.
func (f *fib) withSource(a netip.Addr) []*route { return sorted(f.source[a]) }

// dropSource makes a route prefer no source address any more.
func (f *fib) dropSource(r *route) {
	removeFrom(f.source, r.source, r)
	r.source = netip.Addr{}
}

// sorted makes the order in which a set's events come a fixed one.
func sorted(set map[*route]struct{}) []*route {
	routes := make([]*route, 0, len(set))
	for r := range set {
		routes = append(routes, r)
	}
	slices.SortFunc(routes, func(a, b *route) int {
		return cmp.Or(
			cmp.Compare(a.table, b.table),
			a.dst.Addr().Compare(b.dst.Addr()),
			cmp.Compare(a.dst.Bits(), b.dst.Bits()),
			cmp.Compare(a.priority, b.priority),
			cmp.Compare(a.protocol, b.protocol),
			slices.CompareFunc(a.hops, b.hops, func(a, b hop) int {
				return cmp.Or(a.gateway.Compare(b.gateway), cmp.Compare(a.link, b.link))
			}),
		)
	})
	return routes
}

// sortedTables returns the tables in the order of their numbers.
func (f *fib) sortedTables() []*table {
	tables := make([]*table, 0, len(f.tables))
	for _, t := range f.tables {
		tables = append(tables, t)
	}
	slices.SortFunc(tables, func(a, b *table) int { return cmp.Compare(a.id, b.id) })
	return tables
}

// sortedRoutes returns a table's destinations in order.
func (t *table) sortedRoutes() [][]*route {
	lists := make([][]*route, 0, len(t.routes))
	for _, list := range t.routes {
		lists = append(lists, list)
	}
	slices.SortFunc(lists, func(a, b []*route) int {
		return cmp.Or(a[0].dst.Addr().Compare(b[0].dst.Addr()), cmp.Compare(a[0].dst.Bits(), b[0].dst.Bits()))
	})
	return lists
}

// place finds where in a list, which is ordered by type of service and priority,
// the routes with r's are: from first up to end, which are equal if there are
// none.
func place(list []*route, r *route) (first, end int) {
	for first < len(list) && (list[first].tos > r.tos || list[first].tos == r.tos && list[first].priority < r.priority) {
		first++
	}
	end = first
	for end < len(list) && list[end].tos == r.tos && list[end].priority == r.priority {
		end++
	}
	return first, end
}

// groups cuts a destination's list into what is shown as one route: IPv6 routes
// with a gateway and of one metric belong together.
func groups(list []*route) [][]*route {
	var all [][]*route
	for i, r := range list {
		if r.ipv4() || !r.ecmp() {
			all = append(all, list[i:i+1])
			continue
		}
		with := func(o *route) bool { return o.ecmp() && o.priority == r.priority }
		if slices.ContainsFunc(list[:i], with) {
			continue
		}
		var g []*route
		for _, o := range list[i:] {
			if with(o) {
				g = append(g, o)
			}
		}
		all = append(all, g)
	}
	return all
}

// dumped returns those of groups that a dump shows. After a multipath route it
// goes on behind its last next hop, and so misses what stands between them: a
// route of the same metric without a gateway.
func dumped(list []*route) [][]*route {
	all := groups(list)
	if len(all) == 1 {
		return all
	}
	next := 0
	return slices.DeleteFunc(all, func(g []*route) bool {
		if slices.Index(list, g[0]) < next {
			return true
		}
		next = slices.Index(list, g[len(g)-1]) + 1
		return false
	})
}

// found is a route that leads to an address, and the next hop of it that does.
type found struct {
	r *route
	h hop
}

// lookup finds the route to an address. A link that is given must be the next
// hop's; IPv4 routes of a lesser scope than the one given do not count. With a
// table, that one is looked at before the usual ones.
func (k *Kernel) lookup(f *fib, tableID uint32, dst netip.Addr, link int, scope uint8) (found, syscall.Errno) {
	tables := []uint32{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN}
	if tableID != 0 && tableID != unix.RT_TABLE_MAIN {
		tables = slices.Insert(tables, 0, tableID)
	}
	for _, id := range tables {
		t := f.tables[id]
		if t == nil {
			continue
		}
		if got, errno, ok := k.lookupTable(t, dst, link, scope); ok {
			return got, errno
		}
	}
	return found{}, unix.ENETUNREACH
}

// match returns the routes of the longest prefix that contains dst.
func (t *table) match(dst netip.Addr) []*route {
	for bits := dst.BitLen(); bits >= 0; bits-- {
		if t.bits[bits] > 0 {
			if list := t.routes[netip.PrefixFrom(dst, bits).Masked()]; len(list) > 0 {
				return list
			}
		}
	}
	return nil
}

func (k *Kernel) lookupTable(t *table, dst netip.Addr, link int, scope uint8) (got found, errno syscall.Errno, ok bool) {
	for bits := dst.BitLen(); bits >= 0; bits-- {
		if t.bits[bits] == 0 {
			continue
		}
		p, _ := dst.Prefix(bits)
		for _, r := range t.routes[p] {
			if r.tos != 0 || r.ipv4() && r.scope < scope {
				continue
			}
			switch r.typ {
			case unix.RTN_BLACKHOLE:
				return found{}, unix.EINVAL, true
			case unix.RTN_UNREACHABLE:
				return found{}, unix.EHOSTUNREACH, true
			case unix.RTN_PROHIBIT:
				return found{}, unix.EACCES, true
			case unix.RTN_THROW:
				return found{}, 0, false
			}
			for _, h := range r.hops {
				l := k.links[h.link]
				if l == nil || !l.up && r.typ != unix.RTN_LOCAL || link != 0 && link != h.link {
					continue
				}
				return found{r, h}, 0, true
			}
		}
	}
	return found{}, 0, false
}
