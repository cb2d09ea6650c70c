package filter

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
)

const (
	// retryPause is how long after a failure the next attempt is made, if no event
	// asks for one before.
	retryPause = time.Second

	// In each burstTime at most burst repairs are made, so that two programs that
	// do not agree about the rules do not keep the host busy.
	burst     = 20
	burstTime = time.Second

	// legacyPause is how often at most a command is run to see what the kernel does
	// not tell.
	legacyPause = time.Minute
)

// Run keeps the rules until ctx ends, and returns nil after the last of its
// goroutines has ended. The rules stay in the kernel. It puts right what others
// change as soon as the kernel tells. What fails is tried again and is in the
// Status meanwhile. It must be called once.
func (f *Filter) Run(ctx context.Context) error {
	for {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		f.failed(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryPause):
		}
	}
}

// session keeps the rules as long as the events can be heard.
func (f *Filter) session(ctx context.Context) error {
	e, err := listen()
	if err != nil {
		return err
	}
	defer e.close()

	events := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return e.watch(ctx, func() {
			select {
			case events <- struct{}{}:
			default:
			}
		})
	})
	g.Go(func() error { return f.keep(ctx, events) })
	return g.Wait()
}

// keep looks at the rules whenever there is a reason to.
func (f *Filter) keep(ctx context.Context, events <-chan struct{}) error {
	var resync <-chan time.Time
	if f.resync > 0 {
		t := time.NewTicker(f.resync)
		defer t.Stop()
		resync = t.C
	}
	var l looker
	defer l.close()
	var repairs int
	var began time.Time
	for {
		f.mu.Lock()
		c := f.config
		f.mu.Unlock()

		var retry <-chan time.Time
		found, err := l.look(ctx, c)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			l.close() // the next attempt has a fresh socket
			f.failed(err)
			retry = time.After(retryPause)
		default:
			f.looked(c, found)
		}
		if found.repaired {
			if now := time.Now(); now.Sub(began) > burstTime {
				repairs, began = 0, now
			}
			if repairs++; repairs >= burst {
				f.log.Warn("another program keeps changing the packet filter rules", "table", objectName(tableFamily, tableName, ""), "repairs", repairs, "within", burstTime)
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(burstTime):
				}
			}
		}

		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-events:
		case <-resync:
		case <-retry:
		}
	}
}

// looker compares what is wanted with what the kernel holds.
type looker struct {
	kernel *kernel // nil until needed

	config     Config // as of the last look that found all well
	generation uint32 // of the kernel's rules then; zero if there was none
	last       finding

	legacy     []error
	legacyTime time.Time
}

// finding is what a look found.
type finding struct {
	repaired   bool // something that was in order before was not
	exceptions []string
	problems   []error
	forwarding []string // settings that were switched on
}

func (l *looker) close() {
	if l.kernel != nil {
		l.kernel.close()
		l.kernel = nil
	}
}

// look makes the kernel's rules those of c.
func (l *looker) look(ctx context.Context, c Config) (finding, error) {
	var found finding
	families := c.families()
	if len(families) == 0 {
		return found, nil
	}
	if l.kernel == nil {
		k, err := dialKernel()
		if err != nil {
			return found, err
		}
		l.kernel = k
	}
	k := l.kernel
	same := l.config == c && l.generation != 0
	settled := l.config == c // the rules were in order once
	for _, f := range families {
		problem, changed := c.forwarding(f)
		if problem != nil {
			found.problems = append(found.problems, problem)
		}
		if changed {
			found.forwarding = append(found.forwarding, f.forwardSetting())
		}
	}

	// A change made here is looked at again: what stands in the kernel counts, not
	// what was sent to it.
	const attempts = 5
	for range attempts {
		before, err := k.generation()
		if err != nil {
			return found, err
		}
		if same && before == l.generation {
			found.exceptions, found.problems = l.last.exceptions, append(found.problems, l.last.problems...)
			return l.finish(ctx, found, families), nil
		}
		same = false
		rules, changed, err := c.rules(k, families)
		if err != nil {
			return found, err
		}
		found.repaired = found.repaired || changed && settled
		if changed {
			continue
		}
		after, err := k.generation()
		if err != nil {
			return found, err
		}
		if before == after {
			l.config, l.generation, l.last = c, before, rules
		}
		found.exceptions, found.problems = rules.exceptions, append(found.problems, rules.problems...)
		return l.finish(ctx, found, families), nil
	}
	return found, errors.New("the packet filter rules change faster than they can be put right")
}

// finish adds to what was found what the kernel does not tell by generation.
func (l *looker) finish(ctx context.Context, found finding, families []family) finding {
	if now := time.Now(); now.Sub(l.legacyTime) >= legacyPause {
		l.legacy, l.legacyTime = nil, now
		for _, f := range families {
			if e := legacy(ctx, f); e != nil {
				l.legacy = append(l.legacy, e)
			}
		}
	}
	found.problems = slices.Concat(found.problems, l.legacy)
	return found
}

// rules makes the rules what they should be, once, and reports whether anything
// had to change.
func (c Config) rules(k *kernel, families []family) (found finding, changed bool, err error) {
	tables, err := k.tables()
	if err != nil {
		return found, false, err
	}
	chains, err := k.chains()
	if err != nil {
		return found, false, err
	}
	want := c.wanted()
	ok, err := want.matches(k, tables, chains)
	if err != nil {
		return found, false, err
	}
	if !ok {
		if err := want.apply(); err != nil {
			return found, false, err
		}
		changed = true
	}
	for _, id := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		if slices.ContainsFunc(families, func(f family) bool { return f.id == id }) {
			continue
		}
		// A family that was switched off may have left exceptions behind.
		did, err := removeExceptions(k, id)
		changed = changed || did
		if err != nil {
			return found, changed, err
		}
	}
	for _, f := range families {
		in, problem, did, err := c.except(k, f, tables, chains)
		changed = changed || did
		if err != nil {
			return found, changed, err
		}
		if in != "" {
			found.exceptions = append(found.exceptions, in)
		}
		if problem != nil {
			found.problems = append(found.problems, problem)
		}
		others, err := c.obstacles(k, f, tables, chains)
		if err != nil {
			return found, changed, err
		}
		found.problems = append(found.problems, others...)
	}
	return found, changed, nil
}

// looked records what a look found, and says what is new.
func (f *Filter) looked(c Config, found finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.status
	idle := len(c.families()) == 0
	if applied := !idle && f.config == c; applied != s.Applied {
		s.Applied, s.Since = applied, time.Now()
		if applied {
			f.log.Info("packet filter rules are in place", "table", objectName(tableFamily, tableName, ""), "masquerade", c.Masquerade, "forward", c.Forward)
		}
	}
	s.Err = nil
	if found.repaired {
		s.Repairs++
		f.log.Warn("packet filter rules had been changed by another program and are restored", "table", objectName(tableFamily, tableName, ""))
	}
	for _, name := range found.forwarding {
		f.log.Info("forwarding switched on", "setting", name)
	}
	for _, in := range found.exceptions {
		if !slices.Contains(s.Exceptions, in) {
			f.log.Info("packets of the network are accepted in a chain that drops others", "chain", in)
		}
	}
	for _, p := range found.problems {
		if !slices.ContainsFunc(s.Problems, func(q error) bool { return q.Error() == p.Error() }) {
			f.log.Warn("packets may be dropped", "err", p)
		}
	}
	s.Exceptions, s.Problems = found.exceptions, found.problems
}

func (f *Filter) failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.Err == nil || f.status.Err.Error() != err.Error() {
		f.log.Error("packet filter rules cannot be kept", "err", err)
	}
	f.status.Err = err
	if f.status.Applied {
		f.status.Applied, f.status.Since = false, time.Now()
	}
}

// Cleanup removes our table, and our exceptions from the chains of others,
// whatever Config made them. It leaves the forwarding settings on.
func Cleanup(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	k, err := dialKernel()
	if err != nil {
		return err
	}
	defer k.close()
	tables, err := k.tables()
	if err != nil {
		return err
	}
	var errs []error
	if slices.ContainsFunc(tables, isOurs) {
		errs = append(errs, content(nil).apply())
	}
	for _, id := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		_, err := removeExceptions(k, id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
