package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/metric"
	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/netlinkx"
	"github.com/hostgw/hostgw/subnet"
)

// daemon is a running hostgwd: a Manager, and what tells the rest of the host
// about it.
type daemon struct {
	set     setting.Values
	log     *slog.Logger
	build   build
	started time.Time
	metrics *metric.Set
	notify  func(state string) // tells the service manager
	fail    context.CancelCauseFunc
	uplink  netlinkx.Uplink // as found; set before there is a manager

	readyKick chan struct{} // something happened that readiness may depend on
	guardKick chan struct{} // the lease or its network changed

	mu       sync.Mutex
	manager  *hostgw.Manager // nil until the config is known
	store    status.Store
	waitsFor string        // while there is no manager
	waiting  string        // the same, and why
	joined   hostgw.Joined // what the subnet file says; zero while it is not written
	ready    bool
	problems map[string]string // by what they are about
}

func newDaemon(set setting.Values, log *slog.Logger, b build) *daemon {
	d := &daemon{
		set: set, log: log, build: b, started: time.Now(),
		notify: func(string) {},
		fail:   func(error) {},

		readyKick: make(chan struct{}, 1),
		guardKick: make(chan struct{}, 1),
		problems:  make(map[string]string),
		store:     status.Store{Prefix: set.EtcdPrefix},
	}
	d.metrics = metric.New(d.managerStatus, d.isReady, b.version, b.revision)
	return d
}

func runDaemon(ctx context.Context, c *call) error {
	if err := c.CheckAccess(); err != nil {
		return classed{errUsage, err}
	}
	d := newDaemon(c.Values, c.log, thisBuild())
	d.notify = notifyService(c.log)
	return d.run(ctx)
}

// run is the daemon's life. It returns nil after ctx has ended and everything
// was stopped in order: routes and lease stay, for containers keep running while
// the daemon is away.
func (d *daemon) run(ctx context.Context) error {
	wish, err := wishedNetwork(d.set)
	if err != nil {
		return err
	}
	if err := checkSubnetFile(d.set.SubnetFile); err != nil {
		return err
	}
	unlock, err := lockInstance(d.set.RouteProtocol)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.checkUplink(ctx); err != nil {
		return err
	}
	ctx, d.fail = context.WithCancelCause(ctx)
	defer d.fail(nil)
	g, ctx := errgroup.WithContext(ctx)
	if err := d.serve(ctx, g); err != nil {
		d.fail(err)
		_ = g.Wait() // the servers have nothing to add
		return err
	}
	g.Go(func() error { return d.watchdog(ctx) })
	g.Go(func() error { return d.watchReadiness(ctx) })
	g.Go(func() error { return d.takePart(ctx, wish) })
	err = g.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err == nil {
		d.log.Info("stopped; routes and lease stay")
	}
	return err
}

// takePart opens the store, waits for the network's config, and runs the Manager on
// it until ctx ends.
func (d *daemon) takePart(ctx context.Context, wish subnet.Config) (err error) {
	// Whatever ends, it ends the daemon: there is nothing to do without it.
	defer func() {
		d.notify("STOPPING=1")
		d.fail(err)
	}()
	st, err := d.openStore(ctx, wish)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer st.close()
	nc := d.waitConfig(ctx, st.store, wish)
	if ctx.Err() != nil {
		return nil
	}
	if d.uplink, err = d.findUplink(ctx, nc.Config); err != nil {
		return err
	}
	programmer, err := d.newProgrammer()
	if err != nil {
		return err
	}
	guards, unlock := d.mayGuard()
	defer unlock()
	if guards {
		programmer = &unholed{RouteProgrammer: programmer, told: func(problem string) { d.problem("blackhole", problem) }}
	}
	m, err := d.newManager(st.store, programmer)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return st.wait(ctx) })
	if guards {
		g.Go(func() error { return d.guard(ctx) })
	}
	return g.Wait()
}

func (d *daemon) newProgrammer() (hostgw.RouteProgrammer, error) {
	p, err := netlinkx.NewProgrammer(d.programmerConfig(d.uplink))
	if err != nil {
		return nil, classed{errUsage, err}
	}
	return p, nil
}

func (d *daemon) newManager(store hostgw.SubnetStore, programmer hostgw.RouteProgrammer) (*hostgw.Manager, error) {
	m, err := hostgw.New(hostgw.Config{
		Store:      store,
		Uplink:     d.uplink,
		Programmer: programmer,
		Previous:   previousSubnet(d.set.SubnetFile, d.log),
		OnLink:     d.set.RouteOnlink,
		TTL:        d.set.LeaseTTL,
		Move:       d.set.MoveOnLoss,
		Logger:     d.log,
		Observe:    d.observe,
	})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.manager = m
	d.mu.Unlock()
	return m, nil
}

func (d *daemon) programmerConfig(uplink netlinkx.Uplink) netlinkx.Config {
	return netlinkx.Config{
		Uplink:   uplink,
		Protocol: d.set.RouteProtocol,
		Table:    d.set.RouteTable,
		Metric:   d.set.RouteMetric,
		Source:   d.set.RouteSrc,
		SourceV6: d.set.RouteSrcIPv6,
		OnLink:   d.set.RouteOnlink,
		Logger:   d.log,
	}
}

// observe is told by the Manager what happens. The subnet file is written before
// anything else learns of the lease.
func (d *daemon) observe(e hostgw.Event) {
	d.metrics.Observe(e)
	switch e := e.(type) {
	case *hostgw.LeaseEvent:
		d.join(e.Joined)
	case *hostgw.ConfigEvent:
		// The network may have been widened around the lease.
		if e.Config.Err == nil && e.Fits {
			d.mu.Lock()
			j := d.joined
			d.mu.Unlock()
			j.Config = e.Config.Config
			d.join(j)
		}
	}
	kick(d.readyKick)
}

// kick makes whoever waits on c look again, if he does not have to already.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// join takes in the lease that is held and the network it lies in, and tells the
// container engine. A daemon that cannot is of no use and ends.
func (d *daemon) join(j hostgw.Joined) {
	// Packets are not encapsulated: containers may send what the uplink can.
	env := subnet.NewEnv(j.Config, j.Lease.Key, d.uplink.MTU, d.set.IPMasq)
	if err := subnet.WriteEnv(d.set.SubnetFile, env); err != nil {
		d.fail(classed{errSubnetFile, fmt.Errorf("tell the container engine its subnet: %w", err)})
		return
	}
	d.log.Info("subnet file written", "file", d.set.SubnetFile, "network", networks(j.Config), "subnet", j.Lease.Key.String(), "mtu", env.MTU)
	d.mu.Lock()
	d.joined = j
	d.mu.Unlock()
	kick(d.guardKick)
}

// previousSubnet is the subnet that an earlier run wrote to the subnet file; zero
// if there was none.
func previousSubnet(file string, log *slog.Logger) subnet.Key {
	env, err := subnet.ReadEnv(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return subnet.Key{}
	case err != nil:
		log.Warn("the subnet of an earlier run cannot be asked for again", "err", err)
		return subnet.Key{}
	}
	return env.Key()
}

// checkSubnetFile finds out before anything is leased whether the subnet file
// will be writable.
func checkSubnetFile(file string) error {
	dir := filepath.Dir(file)
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return classed{errSubnetFile, fmt.Errorf("-subnet-file %s is a directory", file)}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return classed{errSubnetFile, fmt.Errorf("-subnet-file %s cannot be written: %w", file, err)}
	}
	f, err := os.CreateTemp(dir, ".subnet-")
	if err != nil {
		return classed{errSubnetFile, fmt.Errorf("-subnet-file %s cannot be written: %w", file, errors.Unwrap(err))}
	}
	f.Close()
	return os.Remove(f.Name())
}

// managerStatus is the Manager's status, if there is a Manager yet.
func (d *daemon) managerStatus() (hostgw.Status, bool) {
	return d.ask((*hostgw.Manager).Status)
}

// managerSummary is the same without the peers.
func (d *daemon) managerSummary() (hostgw.Status, bool) {
	return d.ask((*hostgw.Manager).Summary)
}

func (d *daemon) ask(question func(*hostgw.Manager) hostgw.Status) (hostgw.Status, bool) {
	d.mu.Lock()
	m := d.manager
	d.mu.Unlock()
	if m == nil {
		return hostgw.Status{}, false
	}
	return question(m), true
}

func (d *daemon) isReady() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready
}

// wait notes what the daemon waits for, and why. It logs it unless it has been
// waiting for the same thing all along: why a store cannot be reached may be told
// in ever new words.
func (d *daemon) wait(what, why string) {
	text, attrs := what, []any{"for", what}
	if why != "" {
		text += ": " + why
		attrs = append(attrs, "because", why)
	}
	d.mu.Lock()
	said := d.waitsFor == what
	d.waitsFor, d.waiting = what, text
	d.mu.Unlock()
	if what == "" || said {
		return
	}
	d.log.Warn("waiting", attrs...)
	d.notify("STATUS=waiting for " + strings.ReplaceAll(text, "\n", " "))
}

// problem notes what asks for an operator's attention about a subject, and logs
// it when it changes; empty says that all is well with it.
func (d *daemon) problem(about, what string) {
	d.mu.Lock()
	old := d.problems[about]
	if what == "" {
		delete(d.problems, about)
	} else {
		d.problems[about] = what
	}
	d.mu.Unlock()
	switch {
	case what == old:
	case what == "":
		d.log.Info("no longer a problem", "was", old)
	default:
		d.log.Warn(what)
	}
}
