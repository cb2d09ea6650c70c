package etcd

import (
	"context"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hostgw/hostgw/subnet"
)

// knownConfig is the network config as it was read last, with the key it was read
// from. Claims compare its text too: an etcd that has lost everything gives out its
// revisions again, and then the revision alone does not tell two configs apart.
type knownConfig struct {
	mu     sync.Mutex
	config subnet.NetworkConfig
	kv     *mvccpb.KeyValue
}

// know reads a config and takes note of it.
func (k *knownConfig) know(kv *mvccpb.KeyValue) subnet.NetworkConfig {
	c := readConfig(kv)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.config, k.kv = c, kv
	return c
}

// of returns the key of the config that c was chosen under, if it is the known one.
func (k *knownConfig) of(c subnet.Claim) (*mvccpb.KeyValue, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	same := c.Config == subnet.Config{} || k.config.Err == nil && k.config.Config == c.Config
	return k.kv, k.kv != nil && k.config.Revision == c.ConfigRevision && same
}

// configOf returns the key of the config that c was chosen under, or
// subnet.ErrConflict if that is not what is stored.
func (s *Store) configOf(ctx context.Context, c subnet.Claim) (*mvccpb.KeyValue, error) {
	if kv, ok := s.known.of(c); ok {
		return kv, nil
	}
	if _, err := s.NetworkConfig(ctx); err != nil {
		return nil, err
	}
	kv, ok := s.known.of(c)
	if !ok {
		return nil, fmt.Errorf("the config was written: %w", subnet.ErrConflict)
	}
	return kv, nil
}

// NetworkConfig reads the network config alone.
func (s *Store) NetworkConfig(ctx context.Context) (subnet.NetworkConfig, error) {
	resp, err := s.get(ctx, span{key: s.config()})
	if err != nil {
		return subnet.NetworkConfig{}, fmt.Errorf("reading %s from etcd: %w", s.config(), err)
	}
	for _, kv := range resp.Kvs {
		return s.known.know(kv), nil
	}
	return subnet.NetworkConfig{Err: subnet.ErrNoConfig}, nil
}
