package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/subnet"
)

// retryEvery is how often a store that is away, or a config that is not there,
// is asked for again; tryFor is how long one answer may take.
const (
	retryEvery = 250 * time.Millisecond
	tryFor     = 5 * time.Second
)

// wishedNetwork is the network of the flags, complete and checked; zero if they
// name none.
func wishedNetwork(v setting.Values) (subnet.Config, error) {
	if !v.HasNetwork() {
		return subnet.Config{}, nil
	}
	c, err := subnet.Config{
		IPv4: subnet.Range{Network: v.Network, SubnetLen: v.SubnetLen, Min: v.SubnetMin, Max: v.SubnetMax},
		IPv6: subnet.Range{Network: v.IPv6Network, SubnetLen: v.IPv6SubnetLen, Min: v.IPv6SubnetMin, Max: v.IPv6SubnetMax},
	}.Complete()
	if err != nil {
		return c, classed{errUsage, fmt.Errorf("the network of the flags: %w", err)}
	}
	return c, nil
}

// seeded says what seedOwn did.
type seeded int

const (
	seedKept     seeded = iota // the store has that network already
	seedWritten                // there was none
	seedReplaced               // the flags have changed, and the store follows them
	seedDiffers                // the store was changed behind the flags, and stays so
)

// seedOwn sees to it that our own etcd holds the network of the flags.
//
// If it holds another one, the flags win if they have changed since they were
// last written, and the store wins if it was changed behind them: whoever spoke
// last meant it. What the flags last said is kept in a key of our own.
func seedOwn(ctx context.Context, kv clientv3.KV, prefix string, wish subnet.Config) (seeded, error) {
	text, err := json.Marshal(wish)
	if err != nil {
		return 0, err
	}
	key, saidKey := prefix+"/config", flagsKey(prefix)
	for {
		got, err := kv.Txn(ctx).Then(clientv3.OpGet(key), clientv3.OpGet(saidKey)).Commit()
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", key, err)
		}
		stored, said := first(got.Responses[0].GetResponseRange().Kvs), first(got.Responses[1].GetResponseRange().Kvs)
		repeated := says(said, text)
		outcome := seedWritten
		var revision int64
		if stored != nil {
			revision = stored.ModRevision
			have, err := subnet.ParseConfig(stored.Value)
			switch {
			case err == nil && have == wish:
				outcome = seedKept
			case repeated:
				return seedDiffers, nil
			default:
				outcome = seedReplaced
			}
		}
		if outcome == seedKept && repeated {
			return outcome, nil
		}
		puts := []clientv3.Op{clientv3.OpPut(saidKey, string(text))}
		if outcome != seedKept {
			puts = append(puts, clientv3.OpPut(key, string(text)))
		}
		done, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(puts...).Commit()
		if err != nil {
			return 0, fmt.Errorf("write %s: %w", key, err)
		}
		if done.Succeeded {
			return outcome, nil
		}
	}
}

// seedFollows reports whether seedOwn would make our own etcd hold the network of the
// flags: unless they say what they said last.
func seedFollows(ctx context.Context, kv clientv3.KV, prefix string, wish subnet.Config) (bool, error) {
	text, err := json.Marshal(wish)
	if err != nil {
		return false, err
	}
	got, err := kv.Get(ctx, flagsKey(prefix))
	if err != nil {
		return false, fmt.Errorf("read what the flags said last: %w", err)
	}
	return !says(first(got.Kvs), text), nil
}

func says(kv *mvccpb.KeyValue, text []byte) bool {
	return kv != nil && string(kv.Value) == string(text)
}

// flagsKey is where what the flags said last is kept.
func flagsKey(prefix string) string { return "/hostgwd/flags" + prefix }

func first[T any](list []T) (zero T) {
	if len(list) == 0 {
		return zero
	}
	return list[0]
}

// waitConfig waits until the store can be read and holds a network config that
// can be used, saying what it waits for. wish is the network of the flags, if they
// name one. It returns early if ctx ends.
func (d *daemon) waitConfig(ctx context.Context, store configReader, wish subnet.Config) subnet.NetworkConfig {
	for {
		nc, err := readConfig(ctx, store)
		if err == nil && nc.Err == nil {
			d.wait("", "")
			if wish != (subnet.Config{}) && nc.Config != wish {
				d.log.Warn("the store holds another network than the flags name, and it stays",
					"key", d.set.EtcdPrefix+"/config", "stored", networks(nc.Config), "flags", networks(wish))
			}
			return nc
		}
		if ctx.Err() != nil {
			return nc
		}
		switch {
		case err != nil:
			d.wait("the store", err.Error())
		case errors.Is(nc.Err, subnet.ErrNoConfig):
			d.wait("the network config", "nobody has written "+d.set.EtcdPrefix+"/config yet")
		default:
			// What is wrong with it is part of what it waits for, to be told again
			// when something else is.
			d.wait("a network config that can be used instead of "+d.set.EtcdPrefix+"/config: "+nc.Err.Error(), "")
		}
		if !sleep(ctx, retryEvery) {
			return nc
		}
	}
}

// networks is what a config is about, for the log.
func networks(c subnet.Config) (list []netip.Prefix) {
	for _, r := range []subnet.Range{c.IPv4, c.IPv6} {
		if r.IsValid() {
			list = append(list, r.Network)
		}
	}
	return list
}

// configReader is a store as far as the network config is concerned.
type configReader interface {
	NetworkConfig(ctx context.Context) (subnet.NetworkConfig, error)
}

func readConfig(ctx context.Context, store configReader) (subnet.NetworkConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	return store.NetworkConfig(ctx)
}

// sleep waits for t, and returns false if ctx ends before.
func sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
