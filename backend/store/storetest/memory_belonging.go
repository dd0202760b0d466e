package storetest

import (
	"cmp"
	"context"

	"imlb/backend/store"
)

// Claim implements store.Belonging.
func (m *Memory) Claim(ctx context.Context, domain, cluster string) (store.Owner, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return store.Owner{}, err
	}
	m.owner.Domain = cmp.Or(m.owner.Domain, domain)
	if cluster != "" && m.owner.Domain == domain && (m.owner.Cluster == "" || len(m.liveNodes()) == 0) {
		m.owner.Cluster = cluster
	}
	return m.owner, nil
}

// Domain implements store.Belonging.
func (m *Memory) Domain(ctx context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owner.Domain, ctx.Err()
}
