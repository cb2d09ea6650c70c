package rival_test

import (
	"testing"
	"time"

	"github.com/hostgw/hostgw/store/internal/rival"
	"github.com/hostgw/hostgw/subnet"
)

// board is the place where all write their names.
type board struct {
	t      *testing.T
	now    time.Time
	user   subnet.Node
	write  int64
	writes int // by those who look
	all    []*rival.Lookout
}

func newBoard(t *testing.T, instances ...string) *board {
	b := &board{t: t, now: time.Unix(1e9, 0)}
	for _, i := range instances {
		b.all = append(b.all, &rival.Lookout{Self: subnet.Node{Name: "host", Instance: i}})
	}
	return b
}

func (b *board) put(instance string) {
	b.write++
	b.user = subnet.Node{Name: "host", Instance: instance}
}

// settle has all look until nobody writes any more.
func (b *board) settle() {
	b.t.Helper()
	for range 100 {
		before := b.write
		for _, l := range b.all {
			if l.Hear(b.user, b.write, b.now) {
				b.put(l.Self.Instance)
				b.writes++
				l.Spoke(b.now)
			}
		}
		if b.write == before {
			return
		}
	}
	b.t.Fatal("it never ends")
}

// pass lets time pass, with everybody looking when it is due.
func (b *board) pass(d time.Duration) {
	b.t.Helper()
	for end := b.now.Add(d); ; {
		next := end
		for _, l := range b.all {
			if due := l.Due(); !due.IsZero() && due.Before(next) {
				next = due
			}
		}
		b.now = next
		b.settle()
		if !next.Before(end) {
			return
		}
	}
}

func (b *board) rivals(want ...string) {
	b.t.Helper()
	for i, l := range b.all {
		got := ""
		if r := l.Rival(); r != nil {
			got = r.Instance
		}
		if got != want[i] {
			b.t.Errorf("%s knows the rival %q, want %q", l.Self.Instance, got, want[i])
		}
	}
}

// wrote fails if more was written since the last call.
func (b *board) wrote(atMost int) {
	b.t.Helper()
	if b.writes > atMost {
		b.t.Errorf("%d writes, want %d at most", b.writes, atMost)
	}
	b.writes = 0
}

func TestAlone(t *testing.T) {
	b := newBoard(t, "a")
	b.put("a")
	b.pass(24 * time.Hour)
	b.rivals("")
	b.wrote(0)
}

// TestFormerRun has what a former run wrote show up, twice, as backups do.
func TestFormerRun(t *testing.T) {
	b := newBoard(t, "a")
	for range 2 {
		b.put("former")
		b.settle()
		b.rivals("")
		b.wrote(1)
		b.pass(2 * rival.Interval)
		b.wrote(0)
	}
}

// TestAnswerInVain looks again at a write that could not be answered.
func TestAnswerInVain(t *testing.T) {
	b := newBoard(t, "a")
	b.put("former")
	for range 3 {
		if !b.all[0].Hear(b.user, b.write, b.now) {
			t.Error("an answer that was not written is not tried again")
		}
	}
	b.settle()
	b.rivals("")
}

func TestTwins(t *testing.T) {
	b := newBoard(t, "a", "b")
	b.put("b")
	b.settle()
	b.rivals("b", "a")
	b.wrote(2 * 2)
	b.pass(10 * time.Hour)
	b.rivals("b", "a")
	b.wrote(10 * 60 * 2 * 2)

	// One of them ends.
	twin := b.all[1]
	b.all = b.all[:1]
	b.pass(rival.Interval)
	b.rivals("b")
	b.pass(rival.Interval)
	b.rivals("")
	b.wrote(1)
	b.pass(time.Hour)
	b.wrote(0)

	// It was only held up, and has not heard that it was given up.
	b.all = append(b.all, twin)
	b.pass(2 * rival.Interval)
	b.rivals("b", "a")
}

func TestThree(t *testing.T) {
	b := newBoard(t, "a", "b", "c")
	b.put("b")
	b.settle()
	b.put("c")
	b.settle()
	b.pass(time.Hour)
	for _, l := range b.all {
		if l.Rival() == nil {
			t.Errorf("%s knows of no rival", l.Self.Instance)
		}
	}
	b.wrote(70 * 3 * 2 * 2)
	b.all = b.all[1:]
	b.pass(2 * rival.Interval)
	b.rivals("c", "b")
	b.all = b.all[1:]
	b.pass(2 * rival.Interval)
	b.rivals("")
}

// TestMissed has an outage begin when a rival was asked and could not answer yet.
func TestMissed(t *testing.T) {
	b := newBoard(t, "a", "b")
	b.put("b")
	b.settle()
	twin := b.all[1]
	b.all = b.all[:1]
	b.pass(rival.Interval) // asks
	b.all[0].Missed()
	b.now = b.now.Add(time.Hour)
	b.settle()
	b.rivals("b")
	b.all = append(b.all, twin)
	b.pass(time.Hour)
	b.rivals("b", "a")
}

func TestNameless(t *testing.T) {
	b := newBoard(t, "")
	b.put("b")
	b.pass(time.Hour)
	b.rivals("")
	b.wrote(0)
}
