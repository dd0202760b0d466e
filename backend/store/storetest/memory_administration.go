package storetest

import (
	"context"
	"maps"
	"slices"
	"time"

	"imlb/backend/store"
)

// SetRole implements store.Administration.
func (m *Memory) SetRole(ctx context.Context, user string, role store.Role) error {
	return m.change(ctx, user, func(a *account) { a.Role = role })
}

// SetState implements store.Administration.
func (m *Memory) SetState(ctx context.Context, user string, state store.AccountState) error {
	if !state.Suspended {
		state = store.AccountState{}
	}
	if !state.Until.IsZero() {
		state.Until = state.Until.UTC().Truncate(time.Millisecond)
	}
	return m.change(ctx, user, func(a *account) { a.State = state })
}

func (m *Memory) change(ctx context.Context, user string, change func(*account)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return err
	}
	change(a)
	m.noteChange(user)
	return nil
}

func (m *Memory) noteChange(user string) {
	m.changes = append(m.changes, store.AccountChange{Number: uint64(len(m.changes)) + 1, User: user})
}

// chosen tells whether a filter chooses an account.
func (m *Memory) chosen(a *account, which store.AccountFilter) bool {
	switch which {
	case store.SuspendedAccounts:
		return a.State.SuspendedAt(now())
	case store.OnlineAccounts:
		for _, s := range m.sessions {
			if s.Owner == a.Owner {
				return true
			}
		}
		return false
	default:
		return true
	}
}

// CountAccounts implements store.Administration.
func (m *Memory) CountAccounts(ctx context.Context, which store.AccountFilter) (int, error) {
	all, err := m.FindAccounts(ctx, which, "", int(^uint(0)>>1))
	return len(all), err
}

// FindAccounts implements store.Administration.
func (m *Memory) FindAccounts(ctx context.Context, which store.AccountFilter, after string, limit int) ([]store.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var list []store.Account
	for _, user := range slices.Sorted(maps.Keys(m.accounts)) {
		if a := m.accounts[user]; user > after && len(list) < limit && !unfinished(user) && m.chosen(a, which) {
			list = append(list, a.Account)
		}
	}
	return list, nil
}

// LastAccountChange implements store.Administration.
func (m *Memory) LastAccountChange(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.changes)), ctx.Err()
}

// AccountChanges implements store.Administration.
func (m *Memory) AccountChanges(ctx context.Context, after uint64, limit int) ([]store.AccountChange, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	last := uint64(len(m.changes))
	if last > store.ChangesKept {
		after = max(after, last-store.ChangesKept)
	}
	if after >= last || limit <= 0 {
		return nil, nil
	}
	page := m.changes[after:]
	return slices.Clone(page[:min(limit, len(page))]), nil
}
