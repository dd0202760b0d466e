package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

const rosterColumns = `contact, name, group_names, subscription, ask, approved, pending_in, in_roster, version`

// Roster implements Rosters.
func (db *DB) Roster(ctx context.Context, owner OwnerID) (items []RosterItem, version uint64, err error) {
	err = db.view(ctx, fmt.Sprintf("roster of owner %d", owner), func(tx *sql.Tx) (err error) {
		if version, err = rosterVersion(ctx, tx, owner, ""); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `
			SELECT `+rosterColumns+` FROM roster_items WHERE owner = $1 ORDER BY contact`, owner)
		items, err = collect(rows, err, scanRosterItem)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return items, version, nil
}

// RosterSince implements Rosters.
func (db *DB) RosterSince(ctx context.Context, owner OwnerID, since uint64) (items []RosterItem, version uint64, err error) {
	err = db.view(ctx, fmt.Sprintf("changes of the roster of owner %d", owner), func(tx *sql.Tx) (err error) {
		if version, err = rosterVersion(ctx, tx, owner, ""); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `
			SELECT `+rosterColumns+` FROM roster_items WHERE owner = $1 AND version > $2`, owner, storable(since))
		if items, err = collect(rows, err, scanRosterItem); err != nil {
			return err
		}
		rows, err = tx.QueryContext(ctx, `
			SELECT contact, version FROM roster_removals WHERE owner = $1 AND version > $2`, owner, storable(since))
		removed, err := collect(rows, err, func(r row) (item RosterItem, err error) {
			return item, r.Scan(&item.Contact, &item.Version)
		})
		items = append(items, removed...)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	slices.SortStableFunc(items, func(a, b RosterItem) int { return cmp.Compare(a.Version, b.Version) })
	return items, version, nil
}

// Versions implements Rosters.
func (db *DB) Versions(ctx context.Context, owners []OwnerID) (map[OwnerID]Versions, error) {
	all := make(map[OwnerID]Versions, len(owners))
	if len(owners) == 0 {
		return all, nil
	}
	places, args := make([]string, len(owners)), make([]any, len(owners))
	for i, owner := range owners {
		places[i], args[i] = "$"+strconv.Itoa(i+1), owner
	}
	//nolint:gosec // made of numbers
	rows, err := db.read.QueryContext(ctx, `
		SELECT a.owner, a.roster_version, COALESCE(b.version, 0)
		FROM accounts a LEFT JOIN blocklists b ON b.owner = a.owner
		WHERE a.owner IN (`+strings.Join(places, ", ")+`)`, args...)
	_, err = collect(rows, err, func(r row) (owner OwnerID, err error) {
		var v Versions
		err = r.Scan(&owner, &v.Roster, &v.Blocklist)
		all[owner] = v
		return owner, err
	})
	if err != nil {
		return nil, db.wrap("versions of rosters and blocklists", err)
	}
	return all, nil
}

// rosterVersion reads the version from the account's row, under a lock if one is
// given.
func rosterVersion(ctx context.Context, tx *sql.Tx, owner OwnerID, lock string) (version uint64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT roster_version FROM accounts WHERE owner = $1`+lock, owner).Scan(&version)
	return version, err
}

func scanRosterItem(r row) (RosterItem, error) {
	var item RosterItem
	var groups []byte
	err := r.Scan(&item.Contact, &item.Name, &groups, &item.Subscription, &item.Ask, &item.Approved,
		&item.PendingIn, &item.InRoster, &item.Version)
	if err != nil {
		return RosterItem{}, err
	}
	if err := json.Unmarshal(groups, &item.Groups); err != nil {
		return RosterItem{}, fmt.Errorf("groups of %s: %w", item.Contact, err)
	}
	return item, nil
}

// UpdateRoster implements Rosters.
func (db *DB) UpdateRoster(ctx context.Context, owner OwnerID, contact string, change func(*RosterItem) bool) (item RosterItem, version uint64, err error) {
	what := fmt.Sprintf("update %s in roster of owner %d", contact, owner)
	err = db.updateSurely(ctx, what, func(tx *sql.Tx, doubtful bool) error {
		before, err := rosterVersion(ctx, tx, owner, db.dialect.locks.change)
		if err != nil {
			return err
		}
		old, err := rosterItem(ctx, tx, owner, contact)
		if err != nil || doubtful && isStored(item, old, before) {
			return err
		}
		var changed bool
		if item, changed = edited(old, change); !changed {
			version = before
			return nil
		}
		version = before + 1
		item.Version = version
		if old.InRoster && !item.InRoster {
			if err := noteRemoval(ctx, tx, owner, item); err != nil {
				return err
			}
		}
		return storeRosterItem(ctx, tx, owner, item)
	})
	if err != nil {
		return RosterItem{}, 0, err
	}
	return item, version, nil
}

// isStored tells whether an item that may have been stored was: found is there now, in a roster of that version. What
// somebody else has made the same comes to the same.
func isStored(item, found RosterItem, version uint64) bool {
	if !keep(item) {
		return found.Version == 0 && item.Version <= version
	}
	later := item.Version <= found.Version
	found.Version = item.Version
	return later && reflect.DeepEqual(item, found)
}

// rosterItem reads an item, or makes an empty one.
func rosterItem(ctx context.Context, tx *sql.Tx, owner OwnerID, contact string) (RosterItem, error) {
	item, err := scanRosterItem(tx.QueryRowContext(ctx, `
		SELECT `+rosterColumns+` FROM roster_items WHERE owner = $1 AND contact = $2`, owner, contact))
	if errors.Is(err, sql.ErrNoRows) {
		return RosterItem{Contact: contact}, nil
	}
	return item, err
}

// edited returns what change makes of an item, and whether that is to be stored.
func edited(old RosterItem, change func(*RosterItem) bool) (RosterItem, bool) {
	item := old
	item.Groups = slices.Clone(old.Groups)
	item.PendingIn = bytes.Clone(old.PendingIn)
	if !change(&item) {
		return old, false
	}
	item.Contact, item.Version = old.Contact, old.Version
	item.Groups = slices.Compact(slices.Sorted(slices.Values(item.Groups)))
	item.PendingIn = bytes.Clone(item.PendingIn)
	if len(item.PendingIn) == 0 {
		item.PendingIn = nil
	}
	// An item has a version from when it is first stored, so that what was
	// not there and is not to be kept is no change.
	return item, keep(item) || old.Version > 0
}

// keep reports whether an item says anything.
func keep(item RosterItem) bool {
	return item.InRoster || item.Approved || item.PendingIn != nil
}

// storeRosterItem writes an item, or removes it when there is nothing to keep,
// and sets the roster's version to the item's.
func storeRosterItem(ctx context.Context, tx *sql.Tx, owner OwnerID, item RosterItem) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM roster_items WHERE owner = $1 AND contact = $2`, owner, item.Contact); err != nil {
		return err
	}
	if keep(item) {
		if err := insertRosterItem(ctx, tx, owner, item); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `UPDATE accounts SET roster_version = $1 WHERE owner = $2`, item.Version, owner)
	return err
}

// noteRemoval notes that clients do not see an item any more, and forgets the oldest that are too many.
func noteRemoval(ctx context.Context, tx *sql.Tx, owner OwnerID, item RosterItem) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO roster_removals (owner, contact, version) VALUES ($1, $2, $3)
		ON CONFLICT (owner, contact) DO UPDATE SET version = excluded.version`, owner, item.Contact, item.Version)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		DELETE FROM roster_removals WHERE owner = $1 AND version <= (
			SELECT version FROM roster_removals WHERE owner = $2 ORDER BY version DESC LIMIT 1 OFFSET $3)`,
		owner, owner, RemovalsKept)
	return err
}

func insertRosterItem(ctx context.Context, tx *sql.Tx, owner OwnerID, item RosterItem) error {
	groups, err := json.Marshal(item.Groups)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO roster_items (owner, `+rosterColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		owner, item.Contact, item.Name, string(groups), item.Subscription, item.Ask, item.Approved,
		item.PendingIn, item.InRoster, item.Version)
	return err
}
