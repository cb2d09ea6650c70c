package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// probeInterval is how often a watch that hears nothing asks etcd for a sign
	// of life, and maxSilence how long in vain before it is taken for away.
	// See patience.
	// The question is etcd's progress request on the watch's own stream. It tells
	// more than a read would, for it travels the way the events do, and costs
	// less: the answer is some twenty bytes that etcd makes without looking at
	// the keys. Two streams for each of 1 000 nodes make a thousand of them a
	// second.
	probeInterval = 2 * time.Second
	maxSilence    = 2 * probeInterval
)

// errCompacted is what a watch ends with that has fallen too far behind.
var errCompacted = errors.New("etcd has compacted the history")

// follow hears of all that happens in the spans until ctx ends or the stream
// breaks, and returns why. Once etcd has promised to tell, it calls opened, which
// reads what is there by then; from there on heard gets the events, the whole of
// one or more revisions at a time, the oldest first, some of them older than what
// opened has read. An error of either ends it.
//
// It listens first and reads then, from within. The other way round, a server
// could be wiped between the two, reach the revision that was read and go on from
// there, and no answer to the watch would tell. And it never resumes by itself,
// for the same reason.
func (s *Store) follow(parent context.Context, spans []span, p *patience, opened func(context.Context) error, heard func(context.Context, []*mvccpb.Event) error) error {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(parent))
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer cancel(nil)
	fail := func(err error) error { return explain(ctx, parent, err) }

	// clientv3 logs in first if it has a password, and would wait for that for ever.
	limit := s.calls.of(callTimeout)
	opening := time.AfterFunc(limit, func() { cancel(noAnswer(limit)) })
	stream, err := s.watch.Watch(ctx, callOptions()...)
	opening.Stop()
	if err != nil {
		return fail(err)
	}
	for _, at := range spans {
		if err := stream.Send(createRequest(at)); err != nil {
			break // receiving tells why
		}
	}
	answers := make(chan *pb.WatchResponse, 64)
	broken := make(chan error, 1)
	// What the two functions read is of no use once the stream has ended.
	reading, ended := context.WithCancel(parent)
	receiver.Go(func() {
		broken <- receive(ctx, stream, answers)
		ended()
	})
	why := func(err error) error {
		if errors.Is(err, context.Canceled) && reading.Err() != nil && parent.Err() == nil {
			return fail(<-broken)
		}
		return err
	}

	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	unanswered, created := 0, 0
	for {
		select {
		case err := <-broken:
			return fail(err)
		case <-probe.C:
			if d := p.of(maxSilence); time.Duration(unanswered)*probeInterval >= d {
				p.lost()
				return fmt.Errorf("etcd's watch is silent: %w", noAnswer(d))
			}
			unanswered++
			if err := stream.Send(progressRequest()); err != nil {
				continue // receiving tells why
			}
		case first := <-answers:
			if unanswered == 1 {
				p.answered()
			}
			unanswered = 0
			var events []*mvccpb.Event
			for _, a := range gather(first, answers) {
				switch {
				case a.CompactRevision > 0:
					return errCompacted
				case a.Canceled:
					return fmt.Errorf("etcd ended the watch: %w", fail(errors.New(a.CancelReason)))
				case a.Created:
					if created++; created < len(spans) {
						break
					}
					if err := opened(reading); err != nil {
						return why(err)
					}
				}
				events = append(events, a.Events...)
			}
			// Before it is opened, all events are older than what will be read.
			if len(events) > 0 && created == len(spans) {
				if err := heard(reading, events); err != nil {
					return why(err)
				}
			}
		}
	}
}

// receive hands on what the stream says until it breaks or ctx ends.
func receive(ctx context.Context, stream pb.Watch_WatchClient, answers chan<- *pb.WatchResponse) error {
	for {
		a, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errors.New("etcd ended the stream")
		}
		if err != nil {
			return err
		}
		select {
		case answers <- a:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gather adds to first what else is there already, so that a burst is one update.
func gather(first *pb.WatchResponse, answers <-chan *pb.WatchResponse) []*pb.WatchResponse {
	all := []*pb.WatchResponse{first}
	for {
		select {
		case a := <-answers:
			all = append(all, a)
		default:
			return all
		}
	}
}

func createRequest(at span) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(at.key), RangeEnd: []byte(at.end),
	}}}
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// after leaves out the events up to revision.
func after(events []*mvccpb.Event, revision int64) []*mvccpb.Event {
	i := slices.IndexFunc(events, func(e *mvccpb.Event) bool { return e.Kv.ModRevision > revision })
	if i < 0 {
		return nil
	}
	return events[i:]
}

// latest keeps the last event of each key, in their order.
func latest(events []*mvccpb.Event) []*mvccpb.Event {
	last := make(map[string]int, len(events))
	for i, e := range events {
		last[string(e.Kv.Key)] = i
	}
	if len(last) == len(events) {
		return events
	}
	i := -1
	return slices.DeleteFunc(events, func(e *mvccpb.Event) bool {
		i++
		return last[string(e.Kv.Key)] != i
	})
}

// pause waits before what failed with err is tried again.
func pause(ctx context.Context, err error) {
	delay := retryDelay
	if refused(err) {
		delay = refusedDelay
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
