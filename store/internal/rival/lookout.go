// Package rival finds out whether another living process claims the same lease
// with the same address. All stores of this module share it.
package rival

import (
	"time"

	"github.com/hostgw/hostgw/subnet"
)

// Interval is how often a rival is asked whether it is still there, and how long it
// has to answer.
const Interval = time.Minute

// maxAnswers is how often an instance is answered: once when it is first heard of,
// and once more so that it hears of this one after its own answer.
const maxAnswers = 2

// Lookout is one process's part in a conversation: all who keep a lease write their
// name to one place that is kept with it, and read there who wrote last.
//
// A foreign name alone means nothing. A process that has ended wrote it, and a
// restored backup shows it again. So its first sight is only answered with the own
// name, and it is a rival's if it is written again after that, within Interval, as
// only a living process does. Each instance is answered twice, and not again before
// half of Interval is over, so that two living ones come to know of each other and
// then fall silent. Once an Interval the own name is written again to ask whether a
// rival lives; if it has not answered by the next time, it has gone.
//
// The zero Lookout, with Self set, is ready for use, by one goroutine at a time. It
// sees nothing if Self has no Instance.
type Lookout struct {
	Self subnet.Node

	met   map[string]*other // by instance
	rival *other            // the one to tell of; nil if there is none
}

// other is an instance that was heard of.
type other struct {
	node     subnet.Node
	rival    bool      // it lives
	write    int64     // the last one heard of
	heard    time.Time // when
	spoken   bool      // the own name was written since
	owed     bool      // an answer to that write
	answers  int       // in a row
	answered time.Time // the last of them
	due      bool      // to be asked
	asked    time.Time // zero if that was forgotten
}

// Hear takes note of who wrote last and of a number that tells that write from
// others, and reports whether to write the own name now, in its place. Called again
// with the same write, it only judges what time has made of it.
func (l *Lookout) Hear(user subnet.Node, write int64, now time.Time) (speak bool) {
	if l.Self.Instance == "" {
		return false
	}
	if user.Instance != "" && user.Instance != l.Self.Instance {
		l.sight(user, write, now)
	}
	for instance, o := range l.met {
		over := now.Sub(o.last()) >= Interval
		switch {
		case over && (!o.rival || o.asked.After(o.heard)):
			delete(l.met, instance)
			continue
		case over:
			o.due = true
		}
		speak = speak || o.owed && instance == user.Instance || o.due
	}
	if l.rival != nil && l.met[l.rival.node.Instance] != l.rival {
		l.rival = nil
		for _, o := range l.met {
			if o.rival {
				l.rival = o
			}
		}
	}
	return speak
}

func (l *Lookout) sight(user subnet.Node, write int64, now time.Time) {
	o := l.met[user.Instance]
	if o == nil || !o.rival && now.Sub(o.heard) >= Interval {
		if l.met == nil {
			l.met = map[string]*other{}
		}
		o = &other{node: user, write: write - 1}
		l.met[user.Instance] = o
	}
	if o.write == write {
		return
	}
	if o.spoken && !o.rival {
		o.rival = true
		l.rival = o
	}
	if now.Sub(o.answered) >= Interval/2 {
		o.answers = 0
	}
	o.node, o.write, o.heard, o.spoken, o.due = user, write, now, false, false
	o.owed = o.answers < maxAnswers
}

// last is when it was heard of or asked, whichever was later.
func (o *other) last() time.Time {
	if o.asked.After(o.heard) {
		return o.asked
	}
	return o.heard
}

// Spoke takes note that the own name was written, as Hear wanted.
func (l *Lookout) Spoke(now time.Time) {
	for _, o := range l.met {
		if o.due {
			o.asked, o.answers = now, 0
		}
		if o.due || o.owed {
			o.answers++
			o.answered = now
		}
		o.spoken, o.owed, o.due = true, false, false
	}
}

// Missed takes note that nothing could be heard for a while: a rival's silence means
// nothing then, and it is asked again.
func (l *Lookout) Missed() {
	for _, o := range l.met {
		o.asked = time.Time{}
	}
}

// Due is when Hear is to be called next even though nobody has written; zero if it
// need not be.
func (l *Lookout) Due() time.Time {
	var first time.Time
	for _, o := range l.met {
		if due := o.last().Add(Interval); o.rival && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	return first
}

// Rival returns the rival to tell of, the last one that showed up; nil if there is
// none.
func (l *Lookout) Rival() *subnet.Node {
	if l.rival == nil {
		return nil
	}
	return new(l.rival.node)
}
