package simulation

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/subnet"
)

// ledger is what the checks know: what the store has held at every revision,
// told by the store itself, and what has been done to the hosts. Its lock also
// guards the fields of hosts and runs that goroutines other than the driver's
// read or write.
type ledger struct {
	mu sync.Mutex

	records map[string]*stored // what the store holds now, by name
	ways    map[way]*stored    // the same, readable ones only, by the routes they ask for
	lost    map[way][]loss     // the losses of a way, the last one last
	gone    map[string][]loss  // those of a record, by its name
	past    []stored           // records that were in the store, the last one last

	networks    []netip.Prefix // ever configured
	usable      bool           // whether the config in the store can be used now
	usableSince time.Time
	config      subnet.Config   // the last that could be used
	breaks      []breakage      // when it could not
	operated    map[string]bool // what operators have written, by content

	hosts map[netip.Addr]*host // by the address they have now
	ttl   time.Duration
	hold  time.Duration

	epoch      int
	violations []string
	note       func(format string, args ...any) // trace; nil if nobody reads it
}

// stored is a record and since when it has been there with this holder.
type stored struct {
	subnet.Record
	since   time.Time
	noticed time.Time // the same, but for what its node need not have noticed
	written time.Time // when it was last put
	gone    time.Time // when it went; zero if it has not
}

// loss is how a way got lost.
type loss struct {
	at       time.Time
	revision int64 // what went in one step has the same,
	epoch    int   // and this: how often the store had begun anew by then

	of      subnet.Record
	noticed time.Time // since when it had been there

	// whole says that the store lost or changed everything at once, instead of
	// one lease.
	whole bool

	replaced bool // another holder's lease has its name now
}

func newLedger(ttl, hold time.Duration) *ledger {
	return &ledger{
		records: map[string]*stored{}, ways: map[way]*stored{}, lost: map[way][]loss{}, gone: map[string][]loss{},
		operated: map[string]bool{}, breaks: []breakage{{at: time.Now()}}, hosts: map[netip.Addr]*host{}, ttl: ttl, hold: hold,
	}
}

// violate notes that invariant number n does not hold.
func (l *ledger) violate(n int, format string, args ...any) {
	l.violations = append(l.violations, fmt.Sprintf("%v invariant %d: ", clock(), n)+fmt.Sprintf(format, args...))
	if l.note != nil {
		l.note("VIOLATION "+format, args...)
	}
}

// clock is the simulated time, counted from when every bubble begins.
func clock() time.Duration {
	return time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
}

// breakage is a time in which there was no config that could be used.
type breakage struct {
	at, until time.Time // until is zero if it is not over
}

// unnoticed is how long something may be away without a host's having to notice.
const unnoticed = 2 * time.Second

// waysOf returns the routes that a record of our backend asks for.
func waysOf(r subnet.Record) []way {
	if r.Err != nil || r.Lease.Holder.BackendType != "host-gw" {
		return nil
	}
	return asked(r)
}

// asked returns the routes that a readable record asks for.
func asked(r subnet.Record) (ws []way) {
	if k := r.Lease.Key.IPv4; k.IsValid() {
		ws = append(ws, way{k, r.Lease.Holder.PublicIP})
	}
	if k := r.Lease.Key.IPv6; k.IsValid() {
		ws = append(ws, way{k, r.Lease.Holder.PublicIPv6})
	}
	return ws
}

// subnets is what a record takes: an unreadable value under a readable key takes
// its subnet too, but one wider than any config can have cut takes nothing.
func subnets(r subnet.Record) subnet.Key {
	k := r.Lease.Key
	if r.Err != nil {
		k, _ = subnet.ParseKey(r.Name)
	}
	if k.IPv4.Bits() < 10 {
		k.IPv4 = netip.Prefix{}
	}
	if k.IPv6.Bits() < 9 {
		k.IPv6 = netip.Prefix{}
	}
	return k
}

func content(r subnet.Record) string {
	h := r.Lease.Holder
	return fmt.Sprint(r.Name, r.Err, h.PublicIP, h.PublicIPv6, h.BackendType)
}

// take takes in a change of the store, under the store's lock.
func (l *ledger) take(d memory.Deed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	u := d.Update
	switch {
	case u.Snapshot != nil:
		l.epoch++
		l.takeConfig(u.Snapshot.Config, now)
		had, named := l.ways, l.records
		l.records, l.ways = map[string]*stored{}, map[way]*stored{}
		for _, r := range u.Snapshot.Records {
			l.enter(r, now, l.back(r, now))
		}
		for w, old := range had {
			if s := l.ways[w]; s == nil {
				l.lost[w] = append(l.lost[w], loss{at: now, whole: true})
			} else {
				s.since, s.noticed = old.since, old.noticed
			}
		}
		for name, old := range named {
			l.bygone(*old, now)
			if l.records[name] == nil {
				l.gone[name] = append(l.gone[name], loss{at: now, noticed: old.noticed, of: old.Record, whole: true})
			}
		}
		l.trace("store is now %d records, config usable %v", len(l.records), l.usable)
	case u.Config != nil:
		l.takeConfig(*u.Config, now)
	case len(u.Put) > 0:
		l.trace("%v %s: %s of %v", d.By, d.Node.Instance, u.Put[0].Name, u.Put[0].Lease.Holder.PublicIP)
		if d.By == memory.Claim {
			l.checkClaimed(u.Put[0], d.Node)
		} else {
			l.operated[content(u.Put[0])] = true
		}
		since, noticed := now, now
		if d.By == memory.Operator {
			noticed = l.back(u.Put[0], now)
		}
		if old := l.records[u.Put[0].Name]; old != nil {
			l.leave(old, loss{at: now, revision: u.Revision, replaced: true})
			if same(old.Record, u.Put[0]) {
				since, noticed = old.since, old.noticed
				if old.Token != u.Put[0].Token {
					noticed = now // who keeps it by its token has to begin anew
				}
			}
		}
		l.enter(u.Put[0], since, noticed)
	case len(u.Deleted) > 0:
		l.trace("%v %s: %s deleted", d.By, d.Node.Instance, u.Deleted[0])
		old := l.records[u.Deleted[0]]
		l.checkDeleted(*old, d, now)
		l.leave(old, loss{at: now, revision: u.Revision})
	}
}

// same reports whether a and b are of the same node, and route the same way.
func same(a, b subnet.Record) bool {
	h, o := a.Lease.Holder, b.Lease.Holder
	return a.Err == nil && b.Err == nil && h.Same(o) && h.BackendType == o.BackendType
}

// back returns since when a record that somebody else than its node puts there
// has been there: if it was gone, for too short a time for its node to miss it.
func (l *ledger) back(r subnet.Record, now time.Time) time.Time {
	if gone := l.gone[r.Name]; len(gone) > 0 {
		if last := gone[len(gone)-1]; same(last.of, r) && now.Sub(last.at) < unnoticed {
			return last.noticed
		}
	}
	return now
}

func (l *ledger) takeConfig(nc subnet.NetworkConfig, now time.Time) {
	usable := nc.Err == nil
	switch {
	case !usable && l.usable:
		l.breaks = append(l.breaks, breakage{at: now})
	case usable && !l.usable:
		l.usableSince = now
		l.breaks[len(l.breaks)-1].until = now
	}
	l.usable = usable
	if !l.usable {
		return
	}
	l.config = nc.Config
	for _, n := range nc.Config.Networks() {
		if !slices.Contains(l.networks, n) {
			l.networks = append(l.networks, n)
		}
	}
}

func (l *ledger) enter(r subnet.Record, since, noticed time.Time) {
	s := &stored{Record: r, since: since, noticed: noticed, written: time.Now()}
	l.records[r.Name] = s
	for _, w := range waysOf(r) {
		l.ways[w] = s
	}
}

func (l *ledger) leave(s *stored, how loss) {
	delete(l.records, s.Name)
	l.bygone(*s, how.at)
	how.noticed, how.of, how.epoch = s.noticed, s.Record, l.epoch
	l.gone[s.Name] = append(l.gone[s.Name], how)
	for _, w := range waysOf(s.Record) {
		delete(l.ways, w)
		l.lost[w] = append(l.lost[w], how)
	}
}

func (l *ledger) bygone(s stored, now time.Time) {
	s.gone = now
	l.past = append(l.past, s)
}

// checkClaimed checks what a Manager has just written: invariant 1.
func (l *ledger) checkClaimed(r subnet.Record, by subnet.Node) {
	run := l.runOf(by)
	if run == nil {
		l.violate(1, "%s written by %q, who is nobody", r.Name, by.Instance)
		return
	}
	old := l.records[r.Name]
	if old != nil {
		if old.Err != nil || !old.Lease.Holder.Same(r.Lease.Holder) {
			l.violate(1, "%s took %s, which %v held", by.Instance, r.Name, old.Lease.Holder.PublicIP)
		}
		if l.operated[content(old.Record)] {
			l.operated[content(r)] = true
		}
		if old.Token != r.Token {
			l.violate(7, "%s left the token %d of %s behind", by.Instance, old.Token, r.Name)
		}
		return
	}
	if o := run.gave; !run.held && o.gone.Equal(time.Now()) && o.since.Before(run.asked) {
		l.violate(1, "%s claimed %s and gave up %s, which it could have taken back", by.Instance, r.Name, o.Name)
	}
	for _, o := range l.records {
		if !subnets(o.Record).Overlaps(r.Lease.Key) {
			continue
		}
		// An operator may do what he likes, also while a claim is under way.
		if l.operated[content(o.Record)] && !o.written.Before(run.asked) {
			continue
		}
		l.violate(1, "%s claimed %s, which overlaps %s of %v", by.Instance, r.Name, o.Name, o.Lease.Holder.PublicIP)
	}
}

// checkDeleted checks that what went was its deleter's to delete, and that what
// expired had been left alone.
func (l *ledger) checkDeleted(s stored, d memory.Deed, now time.Time) {
	switch d.By {
	case memory.Claim:
		if run := l.runOf(d.Node); run == nil || s.Err != nil || !run.host.has(s.Lease.Holder) && !run.zombie {
			l.violate(1, "%s dropped %s, which %v held", d.Node.Instance, s.Name, s.Lease.Holder.PublicIP)
		} else if l.config.Fits(s.Lease.Key) {
			run.gave, run.gave.gone = s, now
		}
	case memory.Release:
		h := l.holder(s.Record)
		other := h != nil && h.run != nil && h.run.held && h.run.record.Name != s.Name // one of a family that the config has no more
		if h == nil || !h.releasing && !other {
			l.violate(1, "%s of %v was released, but not by its node", s.Name, s.Lease.Holder.PublicIP)
		}
	case memory.Expiry:
		if s.Err != nil {
			return
		}
		h := l.holder(s.Record)
		if h != nil && h.run != nil && !h.run.ended && h.run.held && h.run.record.Name == s.Name && h.run.record.Token == s.Token &&
			now.Sub(h.calmSince) > l.ttl && !h.calmSince.IsZero() && now.Sub(l.usableSince) > l.ttl && l.usable {
			l.violate(1, "%s of %s expired, though its node could keep it", s.Name, h.name)
		}
	}
}

func (l *ledger) runOf(n subnet.Node) *run {
	for _, h := range l.hosts {
		for _, r := range h.runs {
			if r.instance == n.Instance {
				return r
			}
		}
	}
	return nil
}

// holder is the host whose address is in a record.
func (l *ledger) holder(r subnet.Record) *host {
	if r.Err != nil {
		return nil
	}
	for _, a := range [...]netip.Addr{r.Lease.Holder.PublicIP, r.Lease.Holder.PublicIPv6} {
		if h := l.hosts[a]; h != nil {
			return h
		}
	}
	return nil
}

func (l *ledger) trace(format string, args ...any) {
	if l.note != nil {
		l.note("    "+format, args...)
	}
}

// takeRoutes takes in what h's daemon has just changed in its kernel:
// invariants 2, 4 and 5.
func (l *ledger) takeRoutes(h *host, gone, came way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trace("%s: route %v becomes %v", h.name, gone, came)
	if came != (way{}) {
		if l.ways[came] == nil && l.lost[came] == nil {
			l.violate(2, "%s routes %v, which no lease ever said", h.name, came)
		}
	}
	if gone != (way{}) && came == (way{}) {
		if w := l.inPlaceOf(h, gone); w != (way{}) {
			l.violate(4, "%s removed its route %v before it put %v in its place", h.name, gone, w)
		}
	}
	if gone != (way{}) {
		if wrong := l.unjustified(h, gone, came, time.Now()); wrong != "" {
			n := 4
			if h.faults.Err != nil || l.lastLoss(gone).whole {
				n = 5
			}
			l.violate(n, "%s removed its route %v: %s", h.name, gone, wrong)
		}
	}
}

// inPlaceOf returns the way that h must put in the place of w, because the lease
// that says so took the place of the other in one step of the store; zero if
// there is none.
func (l *ledger) inPlaceOf(h *host, w way) way {
	if h.run == nil {
		return way{}
	}
	if _, current := h.knows(w.subnet); !current {
		return way{}
	}
	last, heard := l.lastLoss(w), h.heardBy(time.Now())
	if slices.ContainsFunc(l.lost[w], func(o loss) bool { return o.at.After(heard) && !o.replaced }) {
		return way{} // it may just hear of an earlier loss
	}
	for n, s := range l.ways {
		if !last.replaced || n.subnet != w.subnet || !s.since.Equal(last.at) || h.local(n) != "" {
			continue
		}
		for _, o := range l.records {
			if o != s && subnets(o.Record).Overlaps(s.Lease.Key) {
				return way{}
			}
		}
		return n
	}
	return way{}
}

// unjustified says why h's daemon had no reason to remove the way w, or to put
// came in its place; "" if it had one.
func (l *ledger) unjustified(h *host, w, came way, now time.Time) string {
	run := h.run
	if run == nil {
		return "no daemon runs there"
	}
	if h.local(w) != "" {
		return "" // the host itself changed
	}
	if known, _ := h.knows(w.subnet); !known {
		return "" // it began after the network of this lease had gone from the config
	}
	there, heard := l.ways[w], h.heardBy(now)
	contends := func(r subnet.Record) bool {
		return (r.Lease.Key.IPv4.Overlaps(w.subnet) || r.Lease.Key.IPv6.Overlaps(w.subnet)) && !slices.Contains(waysOf(r), w)
	}
	for _, o := range l.records {
		if o != there && contends(o.Record) {
			return "" // the subnet was taken, or somebody put an overlapping one
		}
	}
	for _, o := range slices.Backward(l.past) {
		if !o.gone.After(heard) {
			break
		}
		if contends(o.Record) {
			return "" // as far as it knows
		}
	}

	if there != nil && !there.since.After(heard) {
		return fmt.Sprintf("%s is in the store, and %s knows: since %v", there.Name, h.name, there.since.Format(time.TimeOnly))
	}
	if came.subnet == w.subnet && l.ways[came] == nil && l.lastLoss(came).whole {
		return "" // both are missed, and came went last
	}
	for i, loss := range l.lost[w] {
		if last := i == len(l.lost[w])-1; (last || loss.at.After(heard)) && !l.whole(h, loss) {
			return ""
		}
	}
	if now.Sub(h.replayed) < unnoticed {
		return "" // a replay may show it the end of a great loss as if that were all
	}
	last := l.lastLoss(w)
	if run.heldAt.After(last.at) {
		// It had no lease then. Only who finds a lease gone that it had before can
		// suspect that the store has lost more.
		if !run.lingers() {
			return ""
		}
	}
	if wait := now.Sub(l.expecting(h, last.at, now)); wait < l.hold {
		return fmt.Sprintf("the store lost everything at %v, and the peer has had only %v to come back", last.at.Format(time.TimeOnly), wait)
	}
	return ""
}

// whole reports whether a loss must look to h like one of everything: it
// was, or h's own lease was lost in the same step.
func (l *ledger) whole(h *host, of loss) bool {
	return of.whole || slices.ContainsFunc(l.gone[h.run.record.Name], func(own loss) bool {
		return own.at.Equal(of.at) && own.revision == of.revision && own.epoch == of.epoch && !own.replaced && !own.whole
	})
}

func (l *ledger) lastLoss(w way) (last loss) {
	if n := len(l.lost[w]); n > 0 {
		last = l.lost[w][n-1]
	}
	return last
}

// expecting returns since when h, as far as it knows, can expect that a peer
// which the store lost at the given time is back: while the config is unusable,
// h cut off or its own lease gone, nobody can be.
func (l *ledger) expecting(h *host, lost, now time.Time) time.Time {
	heard := h.heardBy(now)
	if h.faults.Err != nil && now.After(h.downAt) {
		return now
	}
	var config time.Time
	for _, b := range l.breaks {
		switch {
		case b.at.After(heard):
		case b.until.IsZero():
			return now
		case b.until.Sub(b.at) > unnoticed:
			config = b.until
		}
	}
	own := h.run.record
	since := now
	if r := l.records[own.Name]; r != nil && h.has(r.Lease.Holder) {
		since = r.noticed
	}
	for _, loss := range l.gone[own.Name] {
		if loss.at.After(heard) {
			since = loss.noticed // it may believe that nothing has happened since
			break
		}
	}
	return latest(lost, config, h.upSince, since, h.run.heldAt)
}

func latest(ts ...time.Time) time.Time { return slices.MaxFunc(ts, time.Time.Compare) }
