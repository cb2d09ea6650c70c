package etcd

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// busy is an etcd that can be reached and takes its time.
type busy struct {
	pb.KVClient
	pb.WatchClient
	delay  time.Duration  // of each call
	answer func(int) bool // whether it answers the n-th question of a watch's stream, from zero
}

func (b *busy) Range(ctx context.Context, _ *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	timer := time.NewTimer(b.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return &pb.RangeResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *busy) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse], error) {
	return &busyStream{ctx: ctx, answer: b.answer, said: make(chan *pb.WatchResponse, 100)}, nil
}

type busyStream struct {
	grpc.ClientStream
	ctx    context.Context
	answer func(int) bool
	said   chan *pb.WatchResponse
	asked  int
}

func (s *busyStream) Send(r *pb.WatchRequest) error {
	if r.GetCreateRequest() != nil {
		s.said <- &pb.WatchResponse{Created: true}
		return nil
	}
	if s.answer(s.asked) {
		s.said <- &pb.WatchResponse{}
	}
	s.asked++
	return nil
}

func (s *busyStream) Recv() (*pb.WatchResponse, error) {
	select {
	case a := <-s.said:
		return a, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// watched returns how long a watch with patience p goes on, at most an hour.
func (b *busy) watched(t *testing.T, p *patience) time.Duration {
	t.Helper()
	s := &Store{layout: newLayout("/a"), watch: b}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	began := time.Now()
	opened := func(context.Context) error { return nil }
	heard := func(context.Context, []*mvccpb.Event) error { return nil }
	if err := s.follow(ctx, []span{s.all()}, p, opened, heard); err == nil {
		t.Error("a watch ended without an error")
	}
	return time.Since(began)
}

// A watch that hears nothing is given up at the question after its patience has
// run out. Each time it is twice as long, and shrinks as answers come again.
func TestWatchPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p patience
		var took []time.Duration
		silent := &busy{answer: func(int) bool { return false }}
		for range 5 {
			took = append(took, silent.watched(t, &p))
		}
		const s = time.Second
		if want := []time.Duration{6 * s, 10 * s, 18 * s, 34 * s, 34 * s}; !slices.Equal(took, want) {
			t.Errorf("watches on which nothing is heard went on for %v, want %v", took, want)
		}

		late := &busy{answer: func(n int) bool { return n%2 == 1 }}
		if took := late.watched(t, &p); took != time.Hour {
			t.Errorf("a watch that answers every second question was given up after %v", took)
		}
		if d := p.of(maxSilence); d != 8*maxSilence {
			t.Errorf("late answers changed the patience to %v", d)
		}

		twice := &busy{answer: func(n int) bool { return n < 2 }}
		if took, want := twice.watched(t, &p), 4*s+2*maxSilence+2*s; took != want {
			t.Errorf("after two answers in time, which quarter the patience of %v, a watch went on for %v, want %v", 8*maxSilence, took, want)
		}
	})
}

// Calls wait longer the more often they were not answered, and only those that
// nobody cancelled count.
func TestCallPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &busy{delay: time.Hour}
		s := &Store{layout: newLayout("/a"), kv: b}
		waited := func(ctx context.Context) time.Duration {
			began := time.Now()
			if _, err := s.get(ctx, s.all()); err == nil {
				t.Error("an answer after an hour was waited for")
			}
			return time.Since(began)
		}
		var took []time.Duration
		for range 5 {
			took = append(took, waited(t.Context()))
		}
		const u = callTimeout
		if want := []time.Duration{u, 2 * u, 4 * u, 8 * u, 8 * u}; !slices.Equal(took, want) {
			t.Errorf("calls waited for %v, want %v", took, want)
		}

		answered := func(delay, then time.Duration) {
			t.Helper()
			b.delay = delay
			if _, err := s.get(t.Context(), s.all()); err != nil {
				t.Errorf("an answer after %v: %v", delay, err)
			}
			if d := s.calls.of(u); d != then {
				t.Errorf("after an answer within %v calls wait for %v, want %v", delay, d, then)
			}
		}
		answered(5*u, 8*u)
		answered(time.Second, 4*u)
		answered(time.Second, 2*u)
		answered(time.Second, u)
		answered(time.Second, u)

		b.delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.get(ctx, s.all()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call whose context ended: %v", err)
		}
		if d := s.calls.of(u); d != u {
			t.Errorf("a call that was given up by its caller made calls wait for %v", d)
		}
	})
}
