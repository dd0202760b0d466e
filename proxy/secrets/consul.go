package secrets

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// Consul is one entry of Consul's key-value store. Give it an ACL of its own: the
// fronts need to write this key, and nobody else needs to read it.
type Consul struct {
	// Token returns the ACL token for a question; nil, or if it is empty, the client's own.
	Token func() string

	client *api.Client
	key    string
	wait   time.Duration
}

// NewConsul returns the entry under a key, which is imlb/<cluster>/secrets by
// custom. A question waits for a change for as long as wait, one minute when 0.
func NewConsul(client *api.Client, key string, wait time.Duration) *Consul {
	if wait <= 0 {
		wait = time.Minute
	}
	return &Consul{client: client, key: key, wait: wait}
}

// Get implements [Store] with a blocking query. The version is the ModifyIndex.
func (c *Consul) Get(ctx context.Context, index uint64) (Entry, error) {
	// The server adds up to a sixteenth to the wait.
	ctx, cancel := context.WithTimeout(ctx, c.wait+c.wait/16+10*time.Second)
	defer cancel()
	options := (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: c.wait, Token: c.token()}).WithContext(ctx)
	pair, meta, err := c.client.KV().Get(c.key, options)
	if err != nil {
		return Entry{}, fmt.Errorf("%s in consul: %w", c.key, err)
	}
	e := Entry{Index: meta.LastIndex}
	if pair != nil {
		e.Data, e.Version = pair.Value, pair.ModifyIndex
	}
	return e, nil
}

// CAS implements [Store].
func (c *Consul) CAS(ctx context.Context, data []byte, version uint64) (bool, error) {
	pair := &api.KVPair{Key: c.key, Value: data, ModifyIndex: version}
	won, _, err := c.client.KV().CAS(pair, (&api.WriteOptions{Token: c.token()}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("%s in consul: %w", c.key, err)
	}
	return won, nil
}

func (c *Consul) token() string {
	if c.Token == nil {
		return ""
	}
	return c.Token()
}
