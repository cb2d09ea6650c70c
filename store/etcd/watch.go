package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hostgw/hostgw/subnet"
)

// Watch tells what is stored as hostgw.LeaseWatcher says. It returns only when ctx
// ends. An outage is noticed at once if the connection breaks, and within some
// six seconds if etcd merely falls silent; later if it has done so again and again.
func (s *Store) Watch(ctx context.Context, deliver func(subnet.Update)) error {
	w := &watching{store: s, deliver: deliver}
	for ctx.Err() == nil {
		err := w.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errCompacted):
			w.known = false
		case !w.down:
			w.down = true
			deliver(subnet.Update{Err: fmt.Errorf("watching the leases under %s in etcd: %w", s.prefix, err)})
		}
		pause(ctx, err)
	}
	return nil
}

// watching is a Watch under way and what it remembers of what it delivered, to
// tell whether what it finds after an outage is the same.
type watching struct {
	store   *Store
	deliver func(subnet.Update)
	down    bool // the last update delivered was an error

	patience patience

	known    bool // the rest is what was delivered
	revision int64
	count    int64  // keys in the range
	newest   []mark // of the keys last written, the oldest first
}

// mark is what tells whether a key is as it was.
type mark struct {
	key      string
	revision int64
	value    []byte
}

// maxMarks keeps the question whether anything has changed within the 128 operations
// that etcd allows in a transaction by default.
const maxMarks = 60

// session tells what is stored and then what happens to it, until that breaks.
func (w *watching) session(ctx context.Context) error {
	return w.store.follow(ctx, []span{w.store.all()}, &w.patience, w.begin, w.heard)
}

// begin delivers what is there, or that it is what was there before.
func (w *watching) begin(ctx context.Context) error {
	now, err := w.read(ctx)
	if err != nil {
		return err
	}
	if now.kvs == nil {
		w.revision = now.revision
		if w.down {
			w.down = false
			w.deliver(subnet.Update{Revision: w.revision})
		}
		return nil
	}
	w.known, w.down = true, false
	w.revision, w.count, w.newest = now.revision, int64(len(now.kvs)), newest(now.kvs)
	w.deliver(subnet.Update{
		Snapshot: w.store.snapshot(now.kvs, now.revision),
		Revision: now.revision,
	})
	return nil
}

// contents is what the range holds at a revision; kvs is nil if it is just what
// was delivered before.
type contents struct {
	kvs      []*mvccpb.KeyValue
	revision int64
}

// read reads the range, unless it can tell for less that nothing has changed. It
// does not resume at the revision where it stopped hearing: a server that was
// wiped or restored meanwhile may have reached that revision again, with a
// different history, and nothing in its answers would say so.
//
// If the range holds as many keys as before, and none was written since, then
// nothing has changed, unless the revisions are another history's. So the newest
// keys must be the same too, by revision and value. If those are all keys, there is
// no doubt left. If they are only the last dozens, another history would have to
// have written just these, each at the same revision as this one did. All nodes ask
// this at the same moment when etcd comes back, so it matters that the answer is short.
func (w *watching) read(ctx context.Context) (contents, error) {
	all := w.store.all()
	if !w.known || len(w.newest) == 0 || int64(len(w.newest)) < min(w.count, maxMarks/2) {
		return w.readAll(ctx)
	}
	count := all.request()
	count.CountOnly = true
	same := []*pb.Compare{ifNoneAfter(all, w.revision)}
	for _, m := range w.newest {
		same = append(same, ifModified(m.key, m.revision), ifValue(m.key, m.value))
	}
	resp, err := w.store.txn(ctx, &pb.TxnRequest{
		Compare: same,
		Success: []*pb.RequestOp{opGet(count)},
		Failure: []*pb.RequestOp{opGet(all.request())},
	})
	if err != nil {
		return contents{}, err
	}
	got, revision := resp.Responses[0].GetResponseRange(), resp.Header.Revision
	switch {
	case !resp.Succeeded:
		return contents{nonNil(got.Kvs), revision}, nil
	case got.Count == w.count:
		return contents{nil, revision}, nil
	}
	return w.readAll(ctx)
}

func (w *watching) readAll(ctx context.Context) (contents, error) {
	resp, err := w.store.get(ctx, w.store.all())
	if err != nil {
		return contents{}, err
	}
	return contents{nonNil(resp.Kvs), resp.Header.Revision}, nil
}

// heard delivers events and takes note of them.
func (w *watching) heard(_ context.Context, events []*mvccpb.Event) error {
	if events = after(events, w.revision); len(events) == 0 {
		return nil
	}
	for _, e := range events {
		switch {
		case e.Type == mvccpb.Event_DELETE:
			w.count--
		case e.Kv.CreateRevision == e.Kv.ModRevision:
			w.count++
		}
	}
	w.newest = marked(w.newest, events)
	w.revision = events[len(events)-1].Kv.ModRevision
	u := w.store.update(latest(events))
	u.Revision = w.revision
	if u.Config == nil && len(u.Put)+len(u.Deleted) == 0 {
		return nil // some other key in the range
	}
	w.deliver(u)
	return nil
}

// update sorts events, one for each key.
func (s *Store) update(events []*mvccpb.Event) subnet.Update {
	var u subnet.Update
	for _, e := range events {
		gone := e.Type == mvccpb.Event_DELETE
		name, isLease := s.leaseName(e.Kv.Key)
		switch {
		case isLease && gone:
			u.Deleted = append(u.Deleted, name)
		case isLease:
			u.Put = append(u.Put, s.record(name, e.Kv))
		case s.isConfig(e.Kv.Key):
			c := subnet.NetworkConfig{Err: subnet.ErrNoConfig}
			if !gone {
				c = s.known.know(e.Kv)
			}
			u.Config = &c
		}
	}
	return u
}

// newest returns the marks of the keys that were last written.
func newest(kvs []*mvccpb.KeyValue) []mark {
	kvs = slices.SortedFunc(slices.Values(kvs), func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) })
	kvs = kvs[max(len(kvs)-maxMarks, 0):]
	marks := make([]mark, len(kvs))
	for i, kv := range kvs {
		marks[i] = mark{string(kv.Key), kv.ModRevision, kv.Value}
	}
	return marks
}

// marked returns marks as they are after the events. After deletions they are fewer
// than they could be, as nobody knows any more which key comes next.
func marked(marks []mark, events []*mvccpb.Event) []mark {
	last := make(map[string]bool, len(events))
	for _, e := range events {
		last[string(e.Kv.Key)] = true
	}
	marks = slices.DeleteFunc(marks, func(m mark) bool { return last[m.key] })
	for _, e := range latest(slices.Clone(events)) {
		if e.Type == mvccpb.Event_PUT {
			marks = append(marks, mark{string(e.Kv.Key), e.Kv.ModRevision, e.Kv.Value})
		}
	}
	return slices.Delete(marks, 0, max(len(marks)-maxMarks, 0))
}

func nonNil(kvs []*mvccpb.KeyValue) []*mvccpb.KeyValue {
	if kvs == nil {
		return []*mvccpb.KeyValue{}
	}
	return kvs
}

func ifValue(key string, value []byte) *pb.Compare {
	return &pb.Compare{
		Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Value{Value: value},
	}
}
