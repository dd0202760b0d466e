package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Credentials implements Transfers.
func (db *DB) Credentials(ctx context.Context, user string) (all []Credential, err error) {
	err = db.view(ctx, "keys of "+user, func(tx *sql.Tx) error {
		owner, err := ownerOf(ctx, tx, user, "")
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `
			SELECT mechanism, salt, iterations, stored_key, server_key FROM credentials WHERE owner = $1 ORDER BY mechanism`, owner)
		all, err = collect(rows, err, func(r row) (c Credential, err error) {
			return c, r.Scan(&c.Mechanism, &c.Salt, &c.Iterations, &c.StoredKey, &c.ServerKey)
		})
		return err
	})
	return all, err
}

// RestoreRoster implements Transfers.
func (db *DB) RestoreRoster(ctx context.Context, owner OwnerID, items []RosterItem, version uint64) error {
	return db.update(ctx, fmt.Sprintf("restore roster of owner %d", owner), func(tx *sql.Tx) error {
		if _, err := rosterVersion(ctx, tx, owner, db.dialect.locks.change); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM roster_items WHERE owner = $1`, owner); err != nil {
			return err
		}
		for _, it := range items {
			restored, _ := edited(RosterItem{Contact: it.Contact}, func(item *RosterItem) bool { *item = it; return true })
			restored.Version = version
			if err := insertRosterItem(ctx, tx, owner, restored); err != nil {
				return fmt.Errorf("%s: %w", it.Contact, err)
			}
		}
		_, err := tx.ExecContext(ctx, `UPDATE accounts SET roster_version = $1 WHERE owner = $2`, storable(version), owner)
		return err
	})
}

// RestoreEntries implements Transfers.
func (db *DB) RestoreEntries(ctx context.Context, owner OwnerID, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	last := entries[len(entries)-1]
	return db.update(ctx, fmt.Sprintf("restore entries of owner %d", owner), func(tx *sql.Tx) error {
		var head uint64
		err := tx.QueryRowContext(ctx, `SELECT head FROM heads WHERE owner = $1`+db.dialect.locks.change, owner).Scan(&head)
		if err != nil {
			return err
		}
		if entries[0].Seq <= head {
			return ErrExists
		}
		_, err = tx.ExecContext(ctx, `UPDATE heads SET head = $1, time = $2 WHERE owner = $3`,
			storable(last.Seq), millis(last.Time), owner)
		if err != nil {
			return err
		}
		return db.insertEntries(ctx, tx, owner, entries)
	})
}

// insertEntries writes entries in the database's own way.
func (db *DB) insertEntries(ctx context.Context, tx *sql.Tx, owner OwnerID, entries []Entry) error {
	if db.append != nil {
		var rows entryRows
		for _, e := range entries {
			rows.add(owner, e)
		}
		_, err := tx.ExecContext(ctx, pgInsert, rows.columns()...)
		return err
	}
	for _, e := range entries {
		_, err := tx.ExecContext(ctx, insertEntry,
			owner, storable(e.Seq), millis(e.Time), e.Peer, e.Sent, e.Resource, notNull(e.Stanza), e.Hidden)
		if err != nil {
			return fmt.Errorf("number %d: %w", e.Seq, err)
		}
	}
	return indexRestored(ctx, tx, owner, storable(entries[len(entries)-1].Seq))
}

// RestoreSpan implements Transfers.
func (db *DB) RestoreSpan(ctx context.Context, owner OwnerID, first, head, delivered uint64) error {
	floor := storable(max(first, 1) - 1)
	head = max(storable(head), floor)
	delivered = min(max(storable(delivered), floor), head)
	return db.update(ctx, fmt.Sprintf("restore span of owner %d", owner), func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `
			UPDATE heads SET floor = CASE WHEN floor < $1 THEN $2 ELSE floor END,
				head = CASE WHEN head < $3 THEN $4 ELSE head END,
				delivered = CASE WHEN delivered < $5 THEN $6 ELSE delivered END
			WHERE owner = $7`, floor, floor, head, head, delivered, delivered, owner)
		return found(r, err, ErrNotFound)
	})
}

// RenameAccount implements Transfers.
func (db *DB) RenameAccount(ctx context.Context, user, name string, other Other) error {
	erased := false
	err := db.update(ctx, "rename account "+user, func(tx *sql.Tx) error {
		owner, err := ownerOf(ctx, tx, user, db.dialect.locks.change)
		if err != nil {
			return err
		}
		if erased, err = makeWay(ctx, tx, owner, name, other, db.dialect.locks.change); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE accounts SET name = $1 WHERE owner = $2`, name, owner)
		if err != nil || !erased {
			return err
		}
		return noteChange(ctx, tx, name)
	})
	if err != nil || !erased {
		return err
	}
	_, err = db.purge(ctx, name)
	db.forget(ctx)
	return err
}

// makeWay erases the account that has a name, if there is one, for the sake of another.
func makeWay(ctx context.Context, tx *sql.Tx, successor OwnerID, name string, other Other, lock string) (erased bool, err error) {
	old, err := ownerOf(ctx, tx, name, lock)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case other == KeepOther || old == successor:
		return false, ErrExists
	}
	if other == SucceedOther {
		_, err := tx.ExecContext(ctx, `
			UPDATE accounts SET (role, suspended, suspend_reason, suspended_until) =
				(SELECT role, suspended, suspend_reason, suspended_until FROM accounts WHERE owner = $1)
			WHERE owner = $2`, old, successor)
		if err != nil {
			return false, err
		}
	}
	_, err = eraseOwner(ctx, tx, old, name)
	return true, err
}
