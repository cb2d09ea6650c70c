package netlinkx

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Run does the work until ctx ends, and then returns nil after the last of its
// goroutines has ended. Routes stay in the kernel. It must be called once. It
// returns early with an error if a netlink socket cannot be opened or breaks.
//
// It touches no route before the first Set. It calls report from one goroutine,
// with the uplink when it first sees it and whenever it changes, with the state
// of each wanted route whenever that changes, and when Stats change. Routes wait
// for report to return.
func (p *Programmer) Run(ctx context.Context, report func(Report)) error {
	if err := p.start(); err != nil {
		return err
	}
	// Events first: what changes after a dump is told.
	events, err := dialEvents(p.config.Dial)
	if err != nil {
		return fmt.Errorf("netlinkx: event socket: %w", err)
	}
	requests, err := dialRequests(p.config.Dial)
	if err != nil {
		_ = events.Close()
		return fmt.Errorf("netlinkx: request socket: %w", err)
	}
	defer requests.Close()
	muteEchoes(events, requests.PID())

	l := &listener{conn: events, own: requests.PID(), table: p.config.Table, wake: make(chan struct{}, 1)}
	r := &run{
		programmer: p,
		table:      newTable(p.config),
		requests:   requests,
		events:     l,
		report:     report,
		log:        p.config.Logger,
		retries:    bucket{rate: 10, burst: 20},
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(l.run)
	g.Go(func() error {
		defer l.close()
		return r.loop(ctx)
	})
	return g.Wait()
}

const (
	// confirmAfter is when a periodic look that found a difference is repeated,
	// to tell what no event told from what an event was about to tell.
	confirmAfter = 50 * time.Millisecond

	// lookRatio is how much longer looks in doubt keep apart than they take.
	lookRatio = 10
	lookPause = 20 * time.Millisecond // at least

	logPause   = time.Second // between two summaries of the same kind
	errorPause = time.Second // before a look that failed is repeated
)

// run is the state of one Run, all of it owned by the goroutine of loop.
type run struct {
	programmer *Programmer
	table      *table
	requests   *requestConn
	events     *listener
	report     func(Report)
	log        *slog.Logger
	retries    bucket

	active   bool                      // Set has been called
	blind    bool                      // what is in scope has not been looked at
	resync   time.Time                 // when the periodic look is due; zero for never
	confirm  time.Time                 // when its confirmation is; zero if it found nothing
	suspects map[netip.Prefix]struct{} // what it found
	rested   time.Time                 // looks in doubt may go on from then

	uplinkNews bool
	told       Stats
	settled    bool      // the first pass has been logged
	quiet      time.Time // until then nothing is logged

	plan plan
}

func (r *run) loop(ctx context.Context) error {
	u, _, err := r.requests.findLink(r.table.uplink.Name)
	if err != nil {
		return err
	}
	r.setUplink(u)
	r.uplinkNews = true // also if it is as it was when it was found
	r.tell()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.programmer.wake:
		case <-r.events.wake:
		case <-timer.C:
		}
		if err := r.step(ctx); err != nil {
			return err
		}
		r.tell()
		r.summarize(time.Now())
		if at := r.next(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
	}
}

// next returns when the next step is due that nothing asks for; zero for never.
func (r *run) next() time.Time {
	t := r.table
	var at time.Time
	soonest := func(c time.Time) {
		if !c.IsZero() && (at.IsZero() || c.Before(at)) {
			at = c
		}
	}
	if r.active {
		if r.confirm.IsZero() {
			soonest(r.resync)
		}
		soonest(r.confirm)
	}
	if t.doubt || r.blind {
		soonest(r.rested)
	}
	if r.active && !r.blind {
		soonest(t.contended)
		if t.again && t.bad > 0 {
			soonest(r.retries.next(time.Now()))
		}
	}
	if t.tally.any() {
		soonest(r.quiet)
	}
	return at
}

// step takes in what has happened and does what follows from it.
func (r *run) step(ctx context.Context) error {
	t := r.table
	if err := r.hear(r.events.take()); err != nil {
		return err
	}
	if p := r.programmer.take(); p.set != nil || r.active && len(p.change) > 0 {
		if t.apply(p) {
			r.events.scope.Store(t.scope)
			r.blind = true
			r.rested = time.Time{}
		}
		if !r.active {
			r.active = true
			r.schedule(time.Now())
		}
	}
	if !r.active {
		return nil
	}
	if err := r.lookIfDue(time.Now()); err != nil {
		return err
	}
	if r.blind {
		return nil
	}
	now := time.Now()
	t.calm(now)
	t.resume(now)
	if t.again && (t.bad == 0 || r.retries.take(now)) {
		t.retry()
	}
	if err := r.pass(ctx); err != nil {
		return err
	}
	// A request that contradicted what we knew wants a look at once.
	if t.doubt && !time.Now().Before(r.rested) {
		if err := r.lookIfDue(time.Now()); err != nil {
			return err
		}
		return r.pass(ctx)
	}
	return nil
}

// hear takes events into account.
func (r *run) hear(events []event, overrun bool) error {
	t := r.table
	if overrun {
		t.stats.Overruns++
		t.doubt = true
		r.log.Warn("kernel events lost, looking at everything")
	}
	resolve := false
	for _, e := range events {
		r.exonerate(e)
		switch e.kind {
		case eventRoute:
			t.observe(e.route)
		case eventOnLink:
			t.again = true
		case eventLink:
			old := t.uplink
			if t.follow(e.link, e.deleted) {
				resolve = true
			}
			r.noteUplink(old)
		case eventAddress:
			old := t.uplink
			t.readdress(e.address, e.deleted)
			r.noteUplink(old)
		}
	}
	if !resolve {
		return nil
	}
	u, _, err := r.requests.findLink(t.uplink.Name)
	if err != nil {
		return err
	}
	r.setUplink(u)
	return nil
}

// exonerate drops the suspicion of what an event has told after all.
func (r *run) exonerate(e event) {
	switch e.kind {
	case eventRoute:
		delete(r.suspects, e.route.route.subnet)
	case eventLink, eventAddress:
		clear(r.suspects)
	}
}

func (r *run) setUplink(u Uplink) {
	old := r.table.uplink
	u.IPv4, u.IPv6 = old.IPv4, old.IPv6
	r.table.setUplink(u)
	r.noteUplink(old)
}

// noteUplink logs and reports what has become of old.
func (r *run) noteUplink(old Uplink) {
	u := r.table.uplink
	if sameUplink(old, u) {
		return
	}
	if r.active {
		switch {
		case u.Index == 0:
			r.log.Warn("uplink is gone", "uplink", u.Name)
		case u.Index != old.Index:
			r.log.Info("uplink has another index", "uplink", u.Name, "index", u.Index, "before", old.Index)
		case u.Up != old.Up && !u.Up:
			r.log.Warn("uplink is down", "uplink", u.Name)
		case u.Up != old.Up:
			r.log.Info("uplink is up", "uplink", u.Name)
		}
	}
	r.uplinkNews = true
}

func (r *run) schedule(now time.Time) {
	if every := r.programmer.config.Resync; every > 0 {
		r.resync = now.Add(every)
	}
}

// lookIfDue looks at the kernel if something asked for it or if it is time.
func (r *run) lookIfDue(now time.Time) error {
	t := r.table
	asked := (t.doubt || r.blind) && !now.Before(r.rested)
	confirming := !r.confirm.IsZero() && !now.Before(r.confirm)
	periodic := !r.resync.IsZero() && !now.Before(r.resync) && r.confirm.IsZero()
	if !asked && !confirming && !periodic {
		return nil
	}

	u, _, err := r.requests.findLink(t.uplink.Name)
	var seen snapshot
	if err == nil {
		seen = make(snapshot, len(t.kernel))
		err = r.requests.routes(t.config.Table, func() {}, func(k kernelRoute, _ uint32) {
			if t.scope.contains(k.protocol, k.subnet) {
				seen.add(k)
			}
		})
	}
	took := time.Since(now)
	now = now.Add(took)
	r.rested = now.Add(max(lookPause, lookRatio*took))
	r.schedule(now)
	if err != nil {
		r.log.Error("cannot look at the kernel's routes", "error", err)
		r.rested = now.Add(errorPause)
		t.doubt = true
		r.confirm = time.Time{}
		return nil
	}
	t.stats.Looks++
	events, overrun := r.events.take()
	if periodic {
		clear(t.stuck)
	}
	if periodic && !asked {
		if err := r.hear(events, overrun); err != nil {
			return err
		}
		t.again = true
		differ := t.differ(seen)
		if len(differ) == 0 && sameUplink(t.uplink, u) {
			return nil
		}
		r.suspects = make(map[netip.Prefix]struct{}, len(differ))
		for _, p := range differ {
			r.suspects[p] = struct{}{}
		}
		r.confirm = now.Add(confirmAfter)
		return nil
	}
	for _, e := range events {
		r.exonerate(e)
	}
	if confirming {
		for _, p := range t.differ(seen) {
			if _, ok := r.suspects[p]; ok {
				t.stats.Found++
			}
		}
	}
	r.suspects, r.confirm = nil, time.Time{}
	t.doubt, r.blind = false, false
	r.setUplink(u)
	t.adopt(seen)
	// What was told meanwhile is in what was seen, or comes on top of it.
	return r.hear(events, overrun)
}

// pass decides about everything that is marked and asks the kernel for what
// follows, a batch at a time: first the makes, then the breaks they allow.
func (r *run) pass(ctx context.Context) error {
	t := r.table
	for ctx.Err() == nil && t.next(r.requests.batch, time.Now(), &r.plan) {
		made, err := r.ask(r.plan.makes)
		if err != nil {
			return err
		}
		breaks := r.plan.breaks[:0]
		for _, q := range r.plan.breaks {
			if q.after < 0 || made[q.after] {
				breaks = append(breaks, q)
			}
		}
		if _, err := r.ask(breaks); err != nil {
			return err
		}
	}
	r.plan = plan{}
	if !r.settled && ctx.Err() == nil {
		r.settled = true
		r.announce()
	}
	return nil
}

// ask sends requests, tells the table about the answers, and reports which of
// them were done.
func (r *run) ask(qs []request) (done []bool, err error) {
	for batch := range slices.Chunk(qs, r.requests.batch) {
		answers, err := r.requests.ask(batch, r.table.config.Table)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		for i, q := range batch {
			delete(r.suspects, q.route.subnet)
			r.table.done(q, answers[i].outcome, answers[i].why, now)
			done = append(done, answers[i].outcome == outcomeDone)
		}
	}
	return done, nil
}

// tell reports what is new.
func (r *run) tell() {
	t := r.table
	var out Report
	if r.uplinkNews {
		u := t.uplink
		u.Addrs = append([]netip.Prefix(nil), u.Addrs...)
		out.Uplink = &u
		r.uplinkNews = false
	}
	if !r.blind {
		out.Routes = t.report()
	}
	if out.Uplink == nil && len(out.Routes) == 0 && t.stats == r.told {
		return
	}
	r.told = t.stats
	out.Stats = t.stats
	r.report(out)
}
