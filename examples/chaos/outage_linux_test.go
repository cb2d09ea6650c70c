package chaos

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

// tells is whether daemons must say, in a step, that the store could not be heard.
type tells int

const (
	tellsPerhaps tells = iota // as they happen to be connected
	tellsAlways
	tellsNever
)

// told is how often a daemon has said that an outage began and that it ended.
type told struct {
	process      *daemon.Process
	begun, ended int
}

func toldBy(p *daemon.Process) told {
	log := p.Log()
	return told{p, strings.Count(log, "store cannot be heard"), strings.Count(log, "store can be heard again")}
}

func (w *world) told() map[*node]told {
	all := map[*node]told{}
	for _, n := range w.nodes {
		all[n] = toldBy(n.daemon)
	}
	return all
}

// checkTold checks that every daemon has said once for each time that it began that it
// ended, and what else the step has it say. A daemon that was started in this step may
// have found the store away without ever having heard it, and says something else then.
func (w *world) checkTold(t *testing.T, s step, before map[*node]told) {
	t.Helper()
	for _, n := range w.nodes {
		eventually(t, n.Name+" has said that every outage is over", func() (bool, string) {
			now := toldBy(n.daemon)
			return now.begun == now.ended, fmt.Sprintf("it said %d times that one began, and %d times that it ended", now.begun, now.ended)
		})
		now := toldBy(n.daemon)
		if now.process != before[n].process {
			continue
		}
		switch outages := now.begun - before[n].begun; {
		case s.tells == tellsAlways && outages == 0:
			t.Errorf("%s: %s has not said that the store could not be heard", s.name, n.Name)
		case s.tells == tellsNever && outages > 0:
			t.Errorf("%s: %s has said %d times that the store could not be heard", s.name, n.Name, outages)
		}
	}
}

// waitTold waits until every daemon that runs since before has said that the store
// cannot be heard.
func (w *world) waitTold(t *testing.T, before map[*node]told) {
	t.Helper()
	for _, n := range w.nodes {
		eventually(t, n.Name+" says that the store cannot be heard", func() (bool, string) {
			now := toldBy(n.daemon)
			return now.process != before[n].process || now.begun > before[n].begun, "not said"
		})
	}
}
