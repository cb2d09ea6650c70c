package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/subnet"
)

// lookAgain is how long a state that is not the wanted one yet is left before it
// is looked at again without an event having asked for it; statusEvery is how
// often at most the service manager is told about changes.
const (
	lookAgain   = 20 * time.Millisecond
	statusEvery = time.Second
)

// watchReadiness makes the daemon ready, once, when the subnet file is written
// and the first set of routes is in, and tells the service manager this and, from
// then on, in a line how things are.
func (d *daemon) watchReadiness(ctx context.Context) error {
	again := time.NewTimer(0)
	defer again.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.readyKick:
			if d.isReady() {
				// Changes come in crowds; one line tells of all of them.
				again.Reset(statusEvery)
				continue
			}
		case <-again.C:
		}
		st, ok := d.managerSummary()
		d.mu.Lock()
		written, was := d.joined.Lease.Key != (subnet.Key{}), d.ready
		if written && ok && status.RoutesIn(st) {
			d.ready = true
		}
		now := d.ready
		d.mu.Unlock()
		switch {
		case now:
			line := summary(st)
			if !was {
				d.log.Info("ready", "subnet", st.Joined.Lease.Key.String(), "peers", st.Counts.Peers, "after", time.Since(d.started).Round(time.Millisecond))
				d.notify("READY=1\nSTATUS=" + line)
				saveMemory()
			} else if line != last {
				d.notify("STATUS=" + line)
			}
			last = line
		case written:
			again.Reset(lookAgain)
		}
	}
}

// saveMemory gives back what the join took and is not needed again. From then on
// memory counts for more than the little that collecting it costs a daemon in
// which hardly anything happens.
func saveMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(10)
	}
	debug.FreeOSMemory()
}

// summary is how things are, in a line.
func summary(s hostgw.Status) string {
	line := fmt.Sprintf("subnet %s, %d of %d peers routed", s.Joined.Lease.Key, s.Counts.Installed, s.Counts.Peers)
	if s.Store.Err != nil {
		line += ", store cannot be heard"
	}
	return line
}
