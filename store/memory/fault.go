package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrAnswerLost is what a call fails with whose answer was lost: what it wrote,
// if anything, is written.
var ErrAnswerLost = errors.New("the store's answer was lost")

// Faults is what stands between one client and its server. The zero Faults is
// nothing.
type Faults struct {
	// Err, if not nil, is an outage: calls fail with it, at once, and the watch
	// delivers it, once.
	Err error

	// Request is how long a call takes to reach the server, and Answer how long
	// its answer takes back. An outage that begins while the answer is under way
	// loses it. Calls return early if their context ends.
	Request, Answer time.Duration

	// Events is how long the watch takes to hear of anything.
	Events time.Duration

	// LoseAnswers is how many of the next calls that write do write, and then
	// fail with [ErrAnswerLost].
	LoseAnswers int
}

// SetFaults replaces the faults. Calls and watches under way notice.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
	for _, e := range s.ears {
		e.ring()
	}
}

// Faults returns the faults as they are, with the LoseAnswers that remain.
func (s *Store) Faults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// Replay makes the watch go over the last n revisions again, which a store must
// never do: it shows whether a listener is robust beyond what it is promised.
func (s *Store) Replay(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rewind = n
	for _, e := range s.ears {
		e.ring()
	}
}

func (s *Store) takeRewind() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.rewind
	s.rewind = 0
	return n
}

// call does op on the server, through the faults. op reports whether it wrote.
func (s *Store) call(ctx context.Context, op func() (wrote bool, err error)) error {
	if err := s.travel(ctx, s.Faults().Request); err != nil {
		return err
	}
	wrote, err := op()
	if terr := s.travel(ctx, s.Faults().Answer); terr != nil {
		return terr
	}
	if wrote && s.loseAnswer() {
		return ErrAnswerLost
	}
	return err
}

// travel is one way between client and server. An outage at either end of it
// stops the message.
func (s *Store) travel(ctx context.Context, d time.Duration) error {
	if err := s.Faults().Err; err != nil {
		return err
	}
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("waiting for the store: %w", context.Cause(ctx))
	}
	return s.Faults().Err
}

func (s *Store) loseAnswer() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lose := s.faults.LoseAnswers > 0
	if lose {
		s.faults.LoseAnswers--
	}
	return lose
}

// listen returns an ear that hears of the lease called name, of all of them if
// name is empty, and of changes of the faults.
func (s *Store) listen(name string) *ear {
	e := &ear{name: name, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.ears = append(s.ears, e)
	s.mu.Unlock()
	s.server.listen(e)
	return e
}

func (s *Store) leave(e *ear) {
	s.server.leave(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ears = slices.DeleteFunc(s.ears, func(o *ear) bool { return o == e })
}
