package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"imlb/backend/store"
)

// accountTokens are the tokens of a user, the newest last.
type accountTokens struct {
	all   []clientToken
	since time.Time // logins that began earlier get none
}

type clientToken struct {
	store.Token
	client string
}

// AddToken implements store.Tokens.
func (m *Memory) AddToken(ctx context.Context, owner store.OwnerID, client string, t store.Token, login time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	if !a.tokens.since.Before(login.Truncate(time.Millisecond)) {
		return fmt.Errorf("the credentials are newer than the login: %w", store.ErrFenced)
	}
	at := now()
	a.tokens.drop(func(old clientToken) bool { return !old.Expires.After(at) || old.client == client && !old.Used })
	t = copyToken(t)
	t.Count, t.Used = 0, false
	a.tokens.all = append(a.tokens.all, clientToken{t, client})
	slices.SortStableFunc(a.tokens.all, func(x, y clientToken) int { return x.Issued.Compare(y.Issued) })
	if more := len(a.tokens.all) - store.TokensPerUser; more > 0 {
		a.tokens.all = a.tokens.all[more:]
	}
	return nil
}

func (l *accountTokens) drop(which func(clientToken) bool) {
	l.all = slices.DeleteFunc(l.all, which)
}

// TokensOf implements store.Tokens.
func (m *Memory) TokensOf(ctx context.Context, owner store.OwnerID, client string) ([]store.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := m.owners[owner]
	if a == nil {
		return nil, nil
	}
	var unused, used []store.Token
	for _, t := range a.tokens.all {
		switch {
		case t.client != client:
		case t.Used:
			used = append(used, copyToken(t.Token))
		default:
			unused = append(unused, copyToken(t.Token))
		}
	}
	return append(unused, used...), nil
}

// UseToken implements store.Tokens.
func (m *Memory) UseToken(ctx context.Context, owner store.OwnerID, client string, secret []byte, count uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(a.tokens.all, func(t clientToken) bool { return t.client == client && bytes.Equal(t.Secret, secret) })
	if i < 0 {
		return fmt.Errorf("token of owner %d: %w", owner, store.ErrNotFound)
	}
	t := &a.tokens.all[i]
	if count != 0 && count <= t.Count {
		return fmt.Errorf("count %d after %d: %w", count, t.Count, store.ErrReplayed)
	}
	t.Count, t.Used = max(count, t.Count), true
	a.tokens.drop(func(other clientToken) bool {
		return other.client == client && other.Used && !bytes.Equal(other.Secret, secret)
	})
	return nil
}

// RevokeTokens implements store.Tokens.
func (m *Memory) RevokeTokens(ctx context.Context, owner store.OwnerID, client string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if a := m.owners[owner]; a != nil {
		a.tokens.drop(func(t clientToken) bool { return t.client == client })
	}
	return nil
}

// copyToken has the resolution that every store keeps.
func copyToken(t store.Token) store.Token {
	t.Secret = bytes.Clone(t.Secret)
	t.Issued, t.Expires = t.Issued.UTC().Truncate(time.Millisecond), t.Expires.UTC().Truncate(time.Millisecond)
	return t
}
