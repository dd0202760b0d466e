package storetest

import (
	"cmp"
	"context"
)

// Claim implements store.Belonging.
func (m *Memory) Claim(ctx context.Context, domain string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	m.domain = cmp.Or(m.domain, domain)
	return m.domain, nil
}

// Domain implements store.Belonging.
func (m *Memory) Domain(ctx context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.domain, ctx.Err()
}
