package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"imlb/backend/store"
)

// accountCache remembers who owns which timeline for a short while, since every
// message asks. It remembers accounts only: a name that is none is asked for
// again, so that a new account can be written to at once.
type accountCache struct {
	store store.Accounts

	mu    sync.Mutex
	known map[string]cachedAccount
}

type cachedAccount struct {
	account store.Account
	until   time.Time
}

const (
	accountCacheTime = time.Minute
	accountCacheSize = 20_000
)

func newAccountCache(s store.Accounts) *accountCache {
	return &accountCache{store: s, known: make(map[string]cachedAccount)}
}

// lookup returns the account of a canonical bare JID; ok is false when there is
// none.
func (c *accountCache) lookup(ctx context.Context, user string) (a store.Account, ok bool, err error) {
	now := time.Now()
	c.mu.Lock()
	hit, found := c.known[user]
	c.mu.Unlock()
	if found && now.Before(hit.until) {
		return hit.account, true, nil
	}
	a, err = c.store.Account(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		c.forget(user)
		return a, false, nil
	}
	if err != nil {
		return a, false, err
	}
	c.remember(a, now)
	return a, true, nil
}

func (c *accountCache) remember(a store.Account, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= accountCacheSize {
		clear(c.known) // simple, and rare enough
	}
	c.known[a.User] = cachedAccount{account: a, until: now.Add(accountCacheTime)}
}

func (c *accountCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
}

func (c *accountCache) forget(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, user)
}
