package netlinkx

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// Plan returns what a Programmer of config c would change now to make the
// kernel's routes equal to w, ordered by subnet, and changes nothing. It is
// empty if all is as it should be.
func Plan(ctx context.Context, c Config, w Wanted) ([]Change, error) {
	c, err := c.complete(true)
	if err != nil {
		return nil, err
	}
	requests, err := dialRequests(c.Dial)
	if err != nil {
		return nil, fmt.Errorf("netlinkx: request socket: %w", err)
	}
	defer requests.Close()
	stop := context.AfterFunc(ctx, func() { _ = requests.Close() })
	defer stop()

	t := newTable(c)
	u, _, err := requests.findLink(c.Uplink.Name)
	if err != nil {
		return nil, whyEnded(ctx, err)
	}
	t.setUplink(u)
	t.set(w)
	seen := snapshot{}
	err = requests.routes(c.Table, func() {}, func(r kernelRoute, _ uint32) {
		if t.scope.contains(r.protocol, r.subnet) {
			seen.add(r)
		}
	})
	if err != nil {
		return nil, whyEnded(ctx, err)
	}
	t.adopt(seen)

	var out []Change
	var pl plan
	for t.next(math.MaxInt, time.Now(), &pl) {
		for _, q := range slices.Concat(pl.makes, pl.breaks) {
			out = append(out, q.change(t))
		}
	}
	for _, s := range t.report() {
		if s.Err != nil {
			out = append(out, Change{Kind: ChangeNothing, Route: s.Route, Err: s.Err})
		}
	}
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Or(comparePrefix(a.Route.Subnet, b.Route.Subnet), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// Cleanup removes every route of c.Protocol, in whatever table, and returns how
// many it removed. Of c only Protocol and Dial count. No Programmer of that
// protocol should be running: it would put them back.
func Cleanup(ctx context.Context, c Config) (int, error) {
	c, err := c.complete(false)
	if err != nil {
		return 0, err
	}
	requests, err := dialRequests(c.Dial)
	if err != nil {
		return 0, fmt.Errorf("netlinkx: request socket: %w", err)
	}
	defer requests.Close()
	stop := context.AfterFunc(ctx, func() { _ = requests.Close() })
	defer stop()

	byTable := map[uint32][]request{}
	err = requests.routes(0, func() {}, func(r kernelRoute, table uint32) {
		if r.protocol == c.Protocol {
			byTable[table] = append(byTable[table], request{op: opRemove, route: r})
		}
	})
	if err != nil {
		return 0, whyEnded(ctx, err)
	}
	removed := 0
	var failed error
	for table, qs := range byTable {
		for batch := range slices.Chunk(qs, requests.batch) {
			outcomes, err := requests.ask(batch, table)
			if err != nil {
				return removed, whyEnded(ctx, err)
			}
			for _, a := range outcomes {
				switch a.outcome {
				case outcomeDone:
					removed++
				case outcomeAbsent:
				default:
					failed = cmp.Or(failed, a.why)
				}
			}
		}
	}
	return removed, failed
}

// whyEnded is err, or why ctx ended if that is what closed the socket.
func whyEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
