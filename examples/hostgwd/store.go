package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/examples/internal/status"
	"github.com/hostgw/hostgw/store/etcd"
	"github.com/hostgw/hostgw/subnet"
)

// openedStore is a store in use.
type openedStore struct {
	store *etcd.Store
	wait  func(context.Context) error // until ctx ends, or the store is beyond waiting for
	close func()
}

// openStore opens the etcd of the flags, or starts one of our own, and sees to
// the network that the flags wish for. It returns zero without an error if ctx
// ends meanwhile.
func (d *daemon) openStore(ctx context.Context, wish subnet.Config) (openedStore, error) {
	if len(d.set.EtcdEndpoints) == 0 {
		return d.startEtcd(ctx, wish)
	}
	d.noteStore(d.set.EtcdEndpoints, false)
	client, err := dialEtcd(d.set, d.set.EtcdEndpoints)
	if err != nil {
		return openedStore{}, err
	}
	store := etcd.New(client, d.set.EtcdPrefix)
	d.seedShared(ctx, store, wish)
	return openedStore{
		store: store,
		wait:  func(ctx context.Context) error { <-ctx.Done(); return nil },
		close: func() { client.Close() },
	}, nil
}

// startEtcd starts an etcd of our own.
func (d *daemon) startEtcd(ctx context.Context, wish subnet.Config) (openedStore, error) {
	if !d.set.HasNetwork() && !embedded.Exists(d.set.DataDir) {
		return openedStore{}, classed{errUsage, fmt.Errorf("nothing to join and nothing to begin: give -etcd-endpoints=http://ADDRESS:2379 to join a network, "+
			"or -network 192.168.0.0/16 to begin one with an etcd of our own (in %s there is none yet)", d.set.DataDir)}
	}
	server, err := embedded.Start(ctx, embedded.Config{Dir: d.set.DataDir, Listen: d.set.ListenClientURLs, Logger: d.log})
	if err != nil {
		if ctx.Err() != nil {
			err = nil
		}
		return openedStore{}, err
	}
	endpoints := embedded.URLs(d.set.ListenClientURLs)
	d.noteStore(endpoints, true)
	d.log.Info("etcd started", "data", d.set.DataDir, "listen", strings.Join(endpoints, ","))
	if wish != (subnet.Config{}) {
		outcome, err := seedOwn(ctx, server.Client(), d.set.EtcdPrefix, wish)
		if err != nil {
			server.Close()
			return openedStore{}, fmt.Errorf("store the network: %w", err)
		}
		switch key := d.set.EtcdPrefix + "/config"; outcome {
		case seedWritten:
			d.log.Info("network stored", "key", key, "networks", networks(wish))
		case seedReplaced:
			d.log.Warn("the flags name another network than before, and it replaces the stored one", "key", key, "networks", networks(wish))
		}
	}
	return openedStore{
		store: etcd.New(server.Client(), d.set.EtcdPrefix),
		wait:  server.Wait,
		close: server.Close,
	}, nil
}

// seedShared writes the network of the flags to a store that is shared with other
// hosts if it has none. One that is there is never changed: on the other hosts the
// flags may say something else. It waits for the store, but not for the right to
// write.
func (d *daemon) seedShared(ctx context.Context, store *etcd.Store, wish subnet.Config) {
	if wish == (subnet.Config{}) {
		return
	}
	for {
		written, err := store.InitConfig(ctx, wish)
		switch {
		case written:
			d.log.Info("network stored", "key", d.set.EtcdPrefix+"/config", "networks", networks(wish))
			return
		case err == nil || ctx.Err() != nil:
			return
		case errors.Is(err, rpctypes.ErrPermissionDenied):
			d.log.Warn("the network of the flags is not stored: this user may not write it", "err", err)
			return
		}
		d.wait("the store", err.Error())
		if !sleep(ctx, retryEvery) {
			return
		}
	}
}

// dialEtcd makes a client, which waits for nothing. What is wrong with its
// settings or its files is an error of usage.
func dialEtcd(v setting.Values, endpoints []string) (*clientv3.Client, error) {
	client, err := etcd.Dial(etcd.ClientConfig{
		Endpoints: endpoints,
		CertFile:  v.EtcdCertFile, KeyFile: v.EtcdKeyFile, CAFile: v.EtcdCAFile,
		Username: v.EtcdUsername, Password: v.EtcdPassword,
	})
	if err != nil {
		return nil, classed{errUsage, err}
	}
	return client, nil
}

func (d *daemon) noteStore(endpoints []string, own bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store.Endpoints, d.store.Embedded = endpoints, own
}

// storeEndpoints is where a command finds the store: where the flags say, else
// where the daemon on this host has it, else where its own would listen.
func storeEndpoints(ctx context.Context, v setting.Values) ([]string, error) {
	if len(v.EtcdEndpoints) > 0 {
		return v.EtcdEndpoints, nil
	}
	if v.Socket != "" {
		if r, err := status.Get(ctx, v.Socket); err == nil && len(r.Store.Endpoints) > 0 {
			return r.Store.Endpoints, nil
		}
	}
	if err := v.CheckAccess(); err != nil {
		return nil, classed{errUsage, fmt.Errorf("%w where no hostgwd runs that can be asked for them", err)}
	}
	return embedded.URLs(v.ListenClientURLs), nil
}

// dialStore makes a client of the store that a command finds.
func dialStore(ctx context.Context, v setting.Values) (*clientv3.Client, error) {
	endpoints, err := storeEndpoints(ctx, v)
	if err != nil {
		return nil, err
	}
	return dialEtcd(v, endpoints)
}
