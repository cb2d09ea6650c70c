package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func median(ds []time.Duration) time.Duration { return quantile(ds, 0.5) }

// quantile returns the smallest of ds that at least the share q does not exceed.
func quantile(ds []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(ds))
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// starts measures how long hostgwd takes from process start until the last route
// is in the kernel, and ip -batch for the same plain routes, in turn.
func (b *bench) starts(ctx context.Context, rounds int) error {
	fmt.Println("| peers | ip -batch | hostgwd, process start to last route | ratio |")
	fmt.Println("|---|---|---|---|")
	times := map[int]time.Duration{}
	for _, n := range []int{1000, 10000, 20000} {
		if err := b.fill(ctx, n); err != nil {
			return err
		}
		var batches, starts []time.Duration
		for range rounds {
			if err := b.flush(); err != nil {
				return err
			}
			d, err := b.batch(n)
			if err != nil {
				return err
			}
			batches = append(batches, d)
			if err := b.flush(); err != nil {
				return err
			}
			if d, err = b.coldStart(ctx, n); err != nil {
				return err
			}
			starts = append(starts, d)
		}
		times[n] = median(starts)
		fmt.Printf("| %d | %s | %s | %.2f |\n", n, ms(median(batches)), ms(median(starts)),
			float64(median(starts))/float64(median(batches)))
	}
	fmt.Printf("\n20 000 peers take %.2f times as long as 10 000.\n\n", float64(times[20000])/float64(times[10000]))
	return nil
}

func (b *bench) batch(n int) (time.Duration, error) {
	var text bytes.Buffer
	for i := range n {
		subnet, gateway := peer(i)
		fmt.Fprintf(&text, "route add %s via %s dev eth0\n", subnet, gateway)
	}
	start := time.Now()
	err := b.ip(text.Bytes(), "-batch", "-")
	return time.Since(start), err
}

func (b *bench) coldStart(ctx context.Context, n int) (time.Duration, error) {
	events, err := b.listen()
	if err != nil {
		return 0, err
	}
	defer events.close()
	start := time.Now()
	p, err := b.start()
	if err != nil {
		return 0, err
	}
	defer p.Kill()
	end, err := events.wait(ctx, n, added)
	if err != nil {
		return 0, fmt.Errorf("starting with %d peers: %w; hostgwd says:\n%s", n, err, p.Log())
	}
	if err := b.forget(ctx); err != nil {
		return 0, err
	}
	return end.Sub(start), nil
}

// forget removes the host's own lease, so that the next start is a first one.
func (b *bench) forget(ctx context.Context) error {
	c := b.etcd.Client()
	leases, err := c.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		if _, err := c.Revoke(ctx, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// size measures memory and idle processor use with 10 000 peers.
func (b *bench) size(ctx context.Context) error {
	const n, idle = 10000, 20 * time.Second
	if err := b.flush(); err != nil {
		return err
	}
	p, err := b.joined(ctx, n)
	if err != nil {
		return err
	}
	defer p.Kill()
	before, err := use(p.PID())
	if err != nil {
		return err
	}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := use(p.PID())
	if err != nil {
		return err
	}
	fmt.Println("| 10 000 peers | |")
	fmt.Println("|---|---|")
	mb := func(bytes int) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
	fmt.Printf("| resident memory, %v after the start | %s |\n", idle, mb(after.anonymous+after.mapped))
	fmt.Printf("| of it hostgwd's own | %s |\n", mb(after.anonymous))
	fmt.Printf("| of it the mapped program, with the etcd server that is in it | %s |\n", mb(after.mapped))
	fmt.Printf("| processor time used in those %v | %v |\n\n", idle, after.processor-before.processor)
	return nil
}

// changes measures how long after etcd's event a changed lease is in the kernel,
// for single changes and for a burst.
func (b *bench) changes(ctx context.Context) error {
	const n, burst, singles = 2000, 1000, 200
	if err := b.flush(); err != nil {
		return err
	}
	p, err := b.joined(ctx, n)
	if err != nil {
		return err
	}
	defer p.Kill()
	var lates, alone []time.Duration
	for round := range 5 {
		d, err := b.change(ctx, burst, round)
		if err != nil {
			return err
		}
		lates = append(lates, d)
	}
	for round := range singles {
		d, err := b.change(ctx, 1, 5+round)
		if err != nil {
			return err
		}
		alone = append(alone, d)
	}
	fmt.Printf("| lease changes, %d peers | median | 99th percentile |\n|---|---|---|\n", n)
	fmt.Printf("| one: etcd's event to the kernel's | %s | %s |\n", ms(median(alone)), ms(quantile(alone, 0.99)))
	fmt.Printf("| %d at once: etcd's last event to the kernel's last | %s | %s |\n\n", burst, ms(median(lates)), ms(quantile(lates, 0.99)))
	return nil
}

// change moves n peers to other gateways, and returns how long after the last of
// etcd's events the last route was changed. A watch in this process tells when
// that event was there to be heard; the route may be in the kernel before this
// process has heard it, which counts as zero.
func (b *bench) change(ctx context.Context, n, round int) (time.Duration, error) {
	events, err := b.listen()
	if err != nil {
		return 0, err
	}
	defer events.close()
	wctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := b.etcd.Client().Watch(wctx, prefix+"/subnets/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r, ok := <-w; !ok || r.Err() != nil {
		return 0, fmt.Errorf("watching etcd: %w", r.Err())
	}
	heard := make(chan time.Time, 1)
	go func() {
		seen := 0
		for r := range w {
			if seen += len(r.Events); seen >= n {
				heard <- time.Now()
				return
			}
		}
		close(heard)
	}()
	for some := range slices.Chunk(indices(n), 100) {
		var ops []clientv3.Op
		for _, i := range some {
			ops = append(ops, putLease(i, moved(i, round)))
		}
		if _, err := b.etcd.Client().Txn(ctx).Then(ops...).Commit(); err != nil {
			return 0, err
		}
	}
	done, err := events.wait(ctx, n, added)
	if err != nil {
		return 0, err
	}
	at, ok := <-heard
	if !ok {
		return 0, errors.New("etcd's events did not arrive")
	}
	return max(done.Sub(at), 0), nil
}

// healing measures how soon a route that was deleted by hand is back, and all
// routes after the uplink went down and up.
func (b *bench) healing(ctx context.Context, repairs int) error {
	const n = 1000
	if err := b.flush(); err != nil {
		return err
	}
	p, err := b.joined(ctx, n)
	if err != nil {
		return err
	}
	defer p.Kill()
	events, err := b.listen()
	if err != nil {
		return err
	}
	defer events.close()
	var backs, flaps []time.Duration
	for i := range repairs {
		subnet, _ := peer(i % n)
		isBack := func(e event) bool { return e.subnet == subnet && !e.deleted }
		start := time.Now()
		if err := b.host.DeleteRoute(subnet); err != nil {
			return err
		}
		end, err := events.wait(ctx, 1, isBack)
		if err != nil {
			return fmt.Errorf("waiting for %s to be back: %w", subnet, err)
		}
		backs = append(backs, end.Sub(start))
	}
	for range 10 {
		if err := b.host.SetDown("eth0"); err != nil {
			return err
		}
		if err := b.host.SetUp("eth0"); err != nil {
			return err
		}
		start := time.Now()
		end, err := events.wait(ctx, n, added)
		if err != nil {
			return fmt.Errorf("waiting for %d routes after a link flap: %w", n, err)
		}
		flaps = append(flaps, end.Sub(start))
	}
	fmt.Printf("| repair, %d peers | median | 99th percentile |\n|---|---|---|\n", n)
	fmt.Printf("| a route deleted by hand is back, %d tries | %s | %s |\n", repairs, ms(median(backs)), ms(quantile(backs, 0.99)))
	fmt.Printf("| all routes are back after the link is up, %d tries | %s | %s |\n", len(flaps), ms(median(flaps)), ms(quantile(flaps, 0.99)))
	return nil
}
