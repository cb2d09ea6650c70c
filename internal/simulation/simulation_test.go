package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oneSeed   = flag.Uint64("simulation.seed", 0, "run the schedule of this seed alone, and print all that happens")
	schedules = flag.Int("simulation.schedules", usualSchedules, "how many schedules to run")
	duration  = flag.Duration("simulation.duration", 0, "run schedules for this long, instead of a number of them")
	first     = flag.Uint64("simulation.first", 1, "the first seed")
	kernels   = flag.String("simulation.kernel", "", "run all schedules on one kind of kernel: model, or real for netlinktest with the real programmer")
)

// realEvery is how many schedules there are for each on netlinktest.
const realEvery = 10

func onReal(seed uint64) bool {
	switch *kernels {
	case "real":
		return true
	case "model":
		return false
	}
	return seed%realEvery == 0
}

// outcome is what became of a schedule.
type outcome struct {
	bad   []string
	lines []string
	hosts int
	steps int
	real  bool
	time  time.Duration // simulated
}

// simulate runs the schedule of a seed in a bubble of its own.
func simulate(t *testing.T, seed uint64, trace bool) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("invariant 7: seed %d: %v\n%s", seed, p, replay(seed))
			panic(p)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if p := recover(); p != nil {
				fmt.Fprintf(os.Stderr, "seed %d panics: %v\n%s\n", seed, p, replay(seed))
				panic(p)
			}
		}()
		c := newCluster(seed, onReal(seed), trace)
		o.bad = c.simulate()
		o.lines, o.hosts, o.steps, o.real, o.time = c.lines, len(c.hosts), c.steps, c.real, clock()
	})
	return o
}

func replay(seed uint64) string {
	line := fmt.Sprintf("replay with: go test ./internal/simulation -run 'TestSimulation$' -simulation.seed=%d -v", seed)
	if *kernels != "" {
		line += " -simulation.kernel=" + *kernels
	}
	return line
}

// TestSimulation runs schedules until one fails or all have passed.
func TestSimulation(t *testing.T) {
	if *oneSeed != 0 {
		o := simulate(t, *oneSeed, true)
		t.Log("\n" + strings.Join(o.lines, "\n"))
		if o.bad != nil {
			t.Errorf("seed %d:\n%s", *oneSeed, strings.Join(o.bad, "\n"))
		}
		return
	}
	// Bubbles are short-lived and small: collecting them less often saves a sixth.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	var next, done, reals, hosts, steps, most, days atomic.Int64
	var failed atomic.Bool
	begin := time.Now()
	var workers sync.WaitGroup
	defer func() {
		t.Logf("%d schedules (%d on the real programmer) in %v: %d hosts, at most %d, %d steps, %d simulated days",
			done.Load(), reals.Load(), time.Since(begin).Round(time.Millisecond), hosts.Load(), most.Load(), steps.Load(), days.Load()/24/3600)
	}()
	defer workers.Wait()
	more := func() (uint64, bool) {
		n := next.Add(1) - 1
		if failed.Load() || *duration == 0 && n >= int64(*schedules) || *duration > 0 && time.Since(begin) > *duration {
			return 0, false
		}
		return *first + uint64(n), true
	}
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed, ok := more(); ok; seed, ok = more() {
				o := simulate(t, seed, false)
				done.Add(1)
				hosts.Add(int64(o.hosts))
				steps.Add(int64(o.steps))
				days.Add(int64(o.time / time.Second))
				if o.real {
					reals.Add(1)
				}
				for m := most.Load(); int64(o.hosts) > m && !most.CompareAndSwap(m, int64(o.hosts)); m = most.Load() {
				}
				if o.bad != nil {
					failed.Store(true)
					t.Errorf("seed %d:\n%s\nthe last steps:\n%s\n%s", seed, strings.Join(o.bad, "\n"),
						strings.Join(o.lines[max(0, len(o.lines)-12):], "\n"), replay(seed))
				}
			}
		})
	}
}
