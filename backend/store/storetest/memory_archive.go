package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"imlb/backend/store"
)

// full tells whether there is no room for a message.
func (m *Memory) full(drafts []store.Draft) bool {
	return slices.ContainsFunc(drafts, func(d store.Draft) bool {
		a := m.owners[d.Owner]
		return d.Room > 0 && a.head-a.delivered >= d.Room
	})
}

// read returns the entries in a range that match.
func (m *Memory) read(ctx context.Context, owner store.OwnerID, r store.Range, match func(store.Entry) bool) ([]store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := m.owners[owner]
	if a == nil {
		return nil, nil
	}
	inside := a.entries[a.index(r.After+1):]
	if r.After == math.MaxUint64 {
		inside = nil
	}
	if r.Before > 0 {
		inside = inside[:max(0, a.index(r.Before)-a.index(r.After+1))]
	}
	var page []store.Entry
	for i := range inside {
		e := inside[i]
		if r.Newest {
			e = inside[len(inside)-1-i]
		}
		if len(page) >= r.Limit {
			break
		}
		if match(e) {
			e.Stanza = bytes.Clone(e.Stanza)
			page = append(page, e)
		}
	}
	return page, nil
}

// index returns the place of the first entry from a number on.
func (a *account) index(seq uint64) int {
	i, _ := slices.BinarySearchFunc(a.entries, seq, func(e store.Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	return i
}

// Span implements store.Archives.
func (m *Memory) Span(ctx context.Context, owner store.OwnerID) (first, head uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return 0, 0, err
	}
	return a.floor + 1, a.head, nil
}

// Find implements store.Archives.
func (m *Memory) Find(ctx context.Context, owner store.OwnerID, r store.Range) ([]store.Entry, error) {
	return m.read(ctx, owner, r, func(e store.Entry) bool {
		return e.Hidden == r.Hidden && (r.Hidden || r.Peer == "" || e.Peer == r.Peer)
	})
}

// Count implements store.Archives.
func (m *Memory) Count(ctx context.Context, owner store.OwnerID, r store.Range) (int, error) {
	page, err := m.Find(ctx, owner, r)
	return len(page), err
}

// ArchivePrefs implements store.Archives.
func (m *Memory) ArchivePrefs(ctx context.Context, owner store.OwnerID) (store.ArchivePrefs, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil || m.owners[owner] == nil {
		return store.ArchivePrefs{}, err
	}
	return copyPrefs(m.owners[owner].prefs), nil
}

// SetArchivePrefs implements store.Archives.
func (m *Memory) SetArchivePrefs(ctx context.Context, owner store.OwnerID, p store.ArchivePrefs) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	a.prefs = copyPrefs(p)
	return nil
}

// copyPrefs also brings the lists into their canonical form.
func copyPrefs(p store.ArchivePrefs) store.ArchivePrefs {
	p.Always = slices.Compact(slices.Sorted(slices.Values(p.Always)))
	p.Never = slices.Compact(slices.Sorted(slices.Values(p.Never)))
	return p
}

// Trim implements store.Archives.
func (m *Memory) Trim(ctx context.Context, r store.Retention, from store.OwnerID, limit int) (store.OwnerID, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	for _, owner := range slices.Sorted(maps.Keys(m.owners)) {
		if owner < from {
			continue
		}
		if removed := m.owners[owner].trim(r, max(limit, 1)); removed > 0 {
			return owner, removed, nil
		}
	}
	return 0, 0, nil
}

// trim removes hidden entries and then those at the beginning.
func (a *account) trim(r store.Retention, limit int) int {
	before, left := len(a.entries), limit
	a.entries = slices.DeleteFunc(a.entries, func(e store.Entry) bool {
		if !e.Hidden || e.Seq > a.delivered || !e.Time.Before(r.Hidden) || left == 0 {
			return false
		}
		left--
		return true
	})
	for range limit {
		if len(a.entries) == 0 || !r.Removes(a.entries[0].Seq, a.entries[0].Time, a.head, a.delivered) {
			break
		}
		a.floor = a.entries[0].Seq
		a.entries = a.entries[1:]
	}
	a.delivered = max(a.delivered, a.floor)
	return before - len(a.entries)
}

// ClaimJob implements store.Archives.
func (m *Memory) ClaimJob(ctx context.Context, name string, at, next time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if due, ok := m.jobs[name]; ok && due.After(at.Truncate(time.Millisecond)) {
		return false, nil
	}
	m.jobs[name] = next.Truncate(time.Millisecond)
	return true, nil
}

// Credentials implements store.Transfers.
func (m *Memory) Credentials(ctx context.Context, user string) ([]store.Credential, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return nil, err
	}
	var all []store.Credential
	for _, c := range a.creds {
		all = append(all, copyCredential(c))
	}
	slices.SortFunc(all, func(a, b store.Credential) int { return cmp.Compare(a.Mechanism, b.Mechanism) })
	return all, nil
}

// EraseAccount implements store.Transfers.
func (m *Memory) EraseAccount(ctx context.Context, user string) ([]store.Erased, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return nil, err
	}
	sessions := len(m.sessions)
	m.erase(a)
	return []store.Erased{
		{Table: "sessions", Rows: int64(sessions - len(m.sessions))},
		{Table: "roster_items", Rows: int64(len(a.items))},
		{Table: "credentials", Rows: int64(len(a.creds))},
		{Table: "accounts", Rows: 1},
		{Table: "entries", Rows: int64(len(a.entries))},
	}, nil
}

// RestoreRoster implements store.Transfers.
func (m *Memory) RestoreRoster(ctx context.Context, owner store.OwnerID, items []store.RosterItem, version uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	clear(a.items)
	a.version = version
	for _, it := range items {
		it = copyItem(it)
		it.Version = version
		a.items[it.Contact] = it
	}
	return nil
}

// RestoreEntries implements store.Transfers.
func (m *Memory) RestoreEntries(ctx context.Context, owner store.OwnerID, entries []store.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(entries) == 0 {
		return ctx.Err()
	}
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	if entries[0].Seq <= a.head {
		return fmt.Errorf("restore entries of owner %d: %w", owner, store.ErrExists)
	}
	for _, e := range entries {
		e.Stanza = bytes.Clone(e.Stanza)
		e.Time = e.Time.UTC().Truncate(time.Millisecond)
		a.entries = append(a.entries, e)
		a.head, a.last = e.Seq, e.Time
	}
	return nil
}

// RestoreSpan implements store.Transfers.
func (m *Memory) RestoreSpan(ctx context.Context, owner store.OwnerID, first, head, delivered uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	a.floor = max(a.floor, max(first, 1)-1)
	a.head = max(a.head, head, a.floor)
	a.delivered = max(a.delivered, min(max(delivered, a.floor), a.head))
	return nil
}

// RenameAccount implements store.Transfers.
func (m *Memory) RenameAccount(ctx context.Context, user, name string, other store.Other) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return err
	}
	if old := m.accounts[name]; old != nil {
		if other == store.KeepOther || old == a {
			return fmt.Errorf("rename account %s: %w", user, store.ErrExists)
		}
		if other == store.SucceedOther {
			a.Role, a.State = old.Role, old.State
		}
		m.erase(old)
	}
	delete(m.accounts, user)
	a.User = name
	m.accounts[name] = a
	return nil
}

// unfinished tells whether a name is that of an account that is not complete.
func unfinished(user string) bool { return strings.Contains(user, "/") }

// Tidy implements store.Transfers.
func (m *Memory) Tidy(ctx context.Context, before time.Time) (more bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for user, a := range m.accounts {
		if unfinished(user) && a.Created.Before(before) {
			m.erase(a)
		}
	}
	return false, ctx.Err()
}
