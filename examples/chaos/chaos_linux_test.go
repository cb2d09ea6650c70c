package chaos

import (
	"cmp"
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// flapSlack is how long after a link has come up packets of its host may still be
// lost: until routes that the kernel dropped are back, and neighbours have found
// each other's addresses again, for which the kernel waits a second between two
// tries.
const flapSlack = 2 * time.Second

// flap is a host's link being away for a while: what may lose packets.
type flap struct {
	host       *node
	from, till time.Time
}

// allows reports whether a loss is one that nobody could have prevented.
func (f *flap) allows(l loss) bool {
	return f != nil && (l.from == f.host || l.to == f.host) && !l.at.Before(f.from) && l.at.Before(f.till.Add(flapSlack))
}

// step breaks something and puts it right again. It returns what link was away, if
// one was.
type step struct {
	name   string
	do     func(t *testing.T, w *world, r *rand.Rand) *flap
	within time.Duration // how soon after that the store must be heard; prompt if zero
	tells  tells
}

// prompt is how soon after the store's return every daemon must act on what it holds:
// a second, and two more for a machine that is busy with other tests. The log says how
// long it took.
const prompt = 3 * time.Second

// afterFlap is the same after a link was away. What etcd sent meanwhile TCP sends
// again only after pauses that have doubled: the next one may be as long as the link
// was away, and fall to a neighbour that has yet to be found.
const afterFlap = flapSlack + prompt

// afterSilence is the same for who was connected to a member that fell silent: it
// takes some six seconds to tell that from a busy one.
const afterSilence = 6*time.Second + prompt

// longestPause is the longest time in which a path may not have been probed, for
// something that was lost then could not be seen. It is forty times what a machine
// needs that has little else to do.
const longestPause = time.Second

var steps = []step{
	{name: "stop all and back up", do: backUp, tells: tellsAlways},
	{name: "kill -9 the leader", do: killLeader},
	{name: "stop a majority", do: stopMajority, tells: tellsAlways},
	{name: "partition the leader", do: func(t *testing.T, w *world, r *rand.Rand) *flap {
		return partition(t, w, w.etcd.leader(t))
	}},
	{name: "partition a follower", do: func(t *testing.T, w *world, r *rand.Rand) *flap {
		others := w.etcd.others(w.etcd.leader(t))
		return partition(t, w, others[r.IntN(len(others))])
	}},
	{name: "freeze all members", do: freeze},
	{name: "wipe and restart empty", do: wipe, tells: tellsAlways},
	{name: "restore an old backup", do: restore, tells: tellsAlways},
	{name: "compact", do: compact, tells: tellsNever},
	{name: "kill -9 daemons", do: killDaemons, tells: tellsNever},
	{name: "pull a host's cable", do: pullCable, within: afterFlap},
	{name: "set a host's link down", do: linkDown, within: afterFlap},
}

// TestChaos breaks everything in turn. After each step all must be as it was: the
// same leases, exactly the right routes, every daemon hearing the store and having
// said so. No step may lose a packet or touch a route, but for the flaps of a link,
// which may cost the packets of that host while it is away, and its own routes.
func TestChaos(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with -chaos.seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	began, used := time.Now(), cpuUsed(t)
	w := newWorld(t)
	w.heardWithin(t, "the first", patience)
	w.unmark(t)
	w.mesh.account(t)
	t.Logf("%d hosts have joined after %v", hosts, time.Since(began).Round(time.Millisecond))

	sent, lost := 0, 0
	for round := range *roundsFlag {
		order := slices.Clone(steps)
		if round > 0 {
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		for _, s := range order {
			before := w.told()
			w.watchRoutes(t)
			began := time.Now()
			away := s.do(t, w, r)
			heard := w.heardWithin(t, s.name, cmp.Or(s.within, prompt))
			back := time.Since(began) - heard
			w.etcd.waitAll(t)
			w.waitReady(t)
			w.waitLeases(t)
			w.unmark(t)
			w.waitRoutes(t)
			w.checkTold(t, s, before)
			if away != nil {
				time.Sleep(time.Until(away.till.Add(flapSlack))) // what is lost from now on is not excused
			}
			a := w.mesh.account(t)
			w.check(t, s.name, away, a)
			sent, lost = sent+a.sent, lost+len(a.lost)
			t.Logf("%-22s %6v until etcd was back, %6v more until all heard a change; %5d probes, %v apart at most, %d lost%s", s.name,
				back.Round(time.Millisecond), heard.Round(time.Millisecond), a.sent, a.pause.Round(time.Millisecond), len(a.lost), away.tell(a.lost))
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d probes on %d paths in %v, %d lost; this process used %.1f CPUs", sent, hosts*(hosts-1), time.Since(began).Round(time.Second), lost,
		float64(cpuUsed(t)-used)/float64(time.Since(began)))
}

// check checks that nothing was lost and no route touched but what had to be.
func (w *world) check(t *testing.T, name string, away *flap, a account) {
	t.Helper()
	if a.sent == 0 {
		t.Errorf("%s: no probes were sent", name)
	}
	if a.pause > longestPause {
		t.Errorf("%s: a path was not probed for %v, so that nobody knows what was lost", name, a.pause)
	}
	if away != nil && len(a.lost) == 0 {
		t.Errorf("%s: the probes do not see that the link of %s was away", name, away.host.Name)
	}
	wrong := 0
	for _, l := range a.lost {
		if away.allows(l) {
			continue
		}
		if wrong++; wrong <= 10 {
			t.Errorf("%s: a packet from %s to %s was lost at %s", name, l.from.Name, l.to.Name, l.at.Format("15:04:05.000"))
		}
	}
	if wrong > 10 {
		t.Errorf("%s: %d packets more were lost", name, wrong-10)
	}
	for n, events := range w.routeEvents(t) {
		if away != nil && n == away.host {
			continue
		}
		for _, e := range events {
			t.Errorf("%s: a route of %s was touched at %s: %v", name, n.Name, e.At.Format("15:04:05.000"), e)
		}
	}
}

// tell says how long packets were lost around a flap.
func (f *flap) tell(lost []loss) string {
	if f == nil || len(lost) == 0 {
		return ""
	}
	last := f.from
	for _, l := range lost {
		if l.at.After(last) {
			last = l.at
		}
	}
	return ", all of " + f.host.Name + "; away for " + f.till.Sub(f.from).Round(time.Millisecond).String() +
		", last lost " + last.Sub(f.till).Round(time.Millisecond).String() + " after it was back"
}

func killLeader(t *testing.T, w *world, r *rand.Rand) *flap {
	m := w.etcd.leader(t)
	m.kill()
	w.heardWithin(t, "a new leader", prompt)
	w.unmark(t)
	m.start(t)
	return nil
}

// stopMajority stops one member in order and kills another. While there is no
// leader a daemon is killed and started, and stays on what it knew. Those that are
// connected to the third member hear from it that there is none, after the three
// election times that it takes for a passing thing.
func stopMajority(t *testing.T, w *world, r *rand.Rand) *flap {
	before := w.told()
	m := w.etcd.members
	at := r.IntN(len(m))
	down := []*member{m[at], m[(at+1)%len(m)]}
	down[0].stop()
	down[1].kill()
	n := w.nodes[r.IntN(hosts)]
	n.daemon.Kill()
	w.start(t, n)
	if err := w.etcd.try(t, clientv3.OpPut("/up", "1")); err == nil {
		t.Error("a minority of etcd takes writes")
	}
	w.waitTold(t, before)
	for _, m := range down {
		m.start(t)
	}
	return nil
}

// partition cuts a member off until the others have gone on without it, pulling
// the cable so that connections fall silent instead of breaking.
func partition(t *testing.T, w *world, m *member) *flap {
	if err := w.Bridge.SetDown(m.Port); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the others go on", func() (bool, string) {
		for _, o := range w.etcd.others(m) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := o.client.Put(ctx, "/up", "1")
			cancel()
			if err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
	w.heardWithin(t, "partition", afterSilence) // also by those that were connected to it
	w.unmark(t)
	if err := w.Bridge.SetUp(m.Port); err != nil {
		t.Fatal(err)
	}
	return nil
}

// freeze has all members hang for a while, with their connections open.
func freeze(t *testing.T, w *world, r *rand.Rand) *flap {
	signal := func(s syscall.Signal) {
		for _, m := range w.etcd.members {
			if err := m.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	time.Sleep(2 * time.Second)
	signal(syscall.SIGCONT)
	return nil
}

// backUp copies what etcd holds, as far as that can be done: while no member runs.
func backUp(t *testing.T, w *world, r *rand.Rand) *flap {
	w.backup = w.etcd.backUp(t)
	w.backedUp = w.created
	return nil
}

// restore has etcd be what it was when it was backed up, before it was wiped perhaps.
// The hosts find their leases as they were then.
func restore(t *testing.T, w *world, r *rand.Rand) *flap {
	if w.backup == "" {
		backUp(t, w, r)
		w.etcd.wait(t)
	}
	w.etcd.restore(t, w.backup)
	w.created = w.backedUp
	return nil
}

// wipe has etcd lose everything, and the operator put the config back, which is when
// the store is back.
func wipe(t *testing.T, w *world, r *rand.Rand) *flap {
	for _, m := range w.etcd.members {
		m.kill()
	}
	for _, m := range w.etcd.members {
		m.wipe(t)
		m.start(t)
	}
	w.etcd.waitAll(t)
	if got := w.stored(t); len(got) > 0 {
		t.Errorf("the wiped etcd holds %v", got)
	}
	w.etcd.do(t, clientv3.OpPut(prefix+"/config", config))
	w.created = nil
	return nil
}

// compact has etcd forget all history while some daemons are not listening.
func compact(t *testing.T, w *world, r *rand.Rand) *flap {
	deaf := r.Perm(hosts)[:3]
	signal := func(s syscall.Signal) {
		for _, i := range deaf {
			if err := syscall.Kill(w.nodes[i].daemon.PID(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	key := prefix + "/subnets/192.168.251.64-26"
	for range 20 {
		w.etcd.do(t, clientv3.OpPut(key, "{}"))
		w.etcd.do(t, clientv3.OpDelete(key))
	}
	eventually(t, "etcd compacts", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := w.etcd.client.Get(ctx, "/up")
		if err == nil {
			_, err = w.etcd.client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
		}
		if err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	signal(syscall.SIGCONT)
	return nil
}

func killDaemons(t *testing.T, w *world, r *rand.Rand) *flap {
	dead := r.Perm(hosts)[:3]
	for _, i := range dead {
		w.nodes[i].daemon.Kill()
	}
	for _, i := range dead {
		w.start(t, w.nodes[i])
	}
	return nil
}

// pullCable takes a host's carrier away: its routes stay.
func pullCable(t *testing.T, w *world, r *rand.Rand) *flap {
	n := w.nodes[r.IntN(hosts)]
	return away(t, n, func() error { return w.Bridge.SetDown(n.Port) }, func() error { return w.Bridge.SetUp(n.Port) })
}

// linkDown sets a host's uplink down: the kernel drops its routes, without a word.
// The default route is put back as a network manager does it; those to the peers
// are hostgwd's.
func linkDown(t *testing.T, w *world, r *rand.Rand) *flap {
	n := w.nodes[r.IntN(hosts)]
	return away(t, n, func() error { return n.SetDown("eth0") }, func() error {
		if err := n.SetUp("eth0"); err != nil {
			return err
		}
		return n.AddDefaultRoutes("eth0")
	})
}

func away(t *testing.T, n *node, down, up func() error) *flap {
	f := &flap{host: n, from: time.Now()}
	if err := down(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := up(); err != nil {
		t.Fatal(err)
	}
	f.till = time.Now()
	return f
}

// cpuUsed is how long this process has computed.
func cpuUsed(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
