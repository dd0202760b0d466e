package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CreateAccount implements Accounts.
func (db *DB) CreateAccount(ctx context.Context, user string, creds []Credential) (Account, error) {
	a := Account{User: user, Created: fromMillis(millis(db.now()))}
	err := db.update(ctx, "create account "+user, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `INSERT INTO accounts (name, created) VALUES ($1, $2) RETURNING owner`,
			user, millis(a.Created)).Scan(&a.Owner)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO heads (owner) VALUES ($1)`, a.Owner); err != nil {
			return fmt.Errorf("timeline: %w", err)
		}
		return insertCredentials(ctx, tx, a.Owner, creds)
	})
	if err != nil {
		return Account{}, err
	}
	return a, nil
}

// insertCredentials adds keys to an account that has none. Of two for the same
// mechanism the last one stays.
func insertCredentials(ctx context.Context, tx *sql.Tx, owner OwnerID, creds []Credential) error {
	for _, c := range creds {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO credentials (owner, mechanism, salt, iterations, stored_key, server_key)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (owner, mechanism) DO UPDATE SET salt = excluded.salt, iterations = excluded.iterations,
				stored_key = excluded.stored_key, server_key = excluded.server_key`,
			owner, c.Mechanism, notNull(c.Salt), c.Iterations, notNull(c.StoredKey), notNull(c.ServerKey))
		if err != nil {
			return fmt.Errorf("%s keys: %w", c.Mechanism, err)
		}
	}
	return nil
}

// notNull keeps an empty slice from becoming NULL.
func notNull(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Account implements Accounts.
func (db *DB) Account(ctx context.Context, user string) (Account, error) {
	a, err := scanAccount(db.read.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM accounts WHERE name = $1`, user))
	if err != nil {
		return Account{}, db.wrap("account "+user, err)
	}
	return a, nil
}

// Credential implements Accounts.
func (db *DB) Credential(ctx context.Context, user, mechanism string) (Credential, error) {
	c := Credential{Mechanism: mechanism}
	err := db.read.QueryRowContext(ctx, `
		SELECT c.salt, c.iterations, c.stored_key, c.server_key
		FROM accounts a JOIN credentials c ON c.owner = a.owner
		WHERE a.name = $1 AND c.mechanism = $2`, user, mechanism).
		Scan(&c.Salt, &c.Iterations, &c.StoredKey, &c.ServerKey)
	if err != nil {
		return Credential{}, db.wrap(mechanism+" keys of "+user, err)
	}
	return c, nil
}

// LacksKeys implements Accounts.
func (db *DB) LacksKeys(ctx context.Context, mechanism string) (bool, error) {
	var lacks bool
	err := db.read.QueryRowContext(long(ctx), `
		SELECT EXISTS (SELECT 1 FROM credentials c WHERE NOT EXISTS
			(SELECT 1 FROM credentials d WHERE d.owner = c.owner AND d.mechanism = $1))`, mechanism).Scan(&lacks)
	return lacks, db.wrap("accounts without "+mechanism+" keys", err)
}

// SetCredentials implements Accounts.
func (db *DB) SetCredentials(ctx context.Context, user string, creds []Credential) error {
	return db.update(ctx, "set keys of "+user, func(tx *sql.Tx) error {
		owner, err := ownerOf(ctx, tx, user, db.dialect.locks.change)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM credentials WHERE owner = $1`, owner); err != nil {
			return err
		}
		if err := revokeAllTokens(ctx, tx, owner, db.now()); err != nil {
			return err
		}
		return insertCredentials(ctx, tx, owner, creds)
	})
}

// ownerOf looks a user up in order to change what it owns.
func ownerOf(ctx context.Context, tx *sql.Tx, user, lock string) (OwnerID, error) {
	var owner OwnerID
	err := tx.QueryRowContext(ctx, `SELECT owner FROM accounts WHERE name = $1`+lock, user).Scan(&owner)
	return owner, err
}

// ListAccounts implements Accounts.
func (db *DB) ListAccounts(ctx context.Context, after string, limit int) ([]Account, error) {
	rows, err := db.read.QueryContext(long(ctx), `
		SELECT `+accountColumns+` FROM accounts WHERE name > $1 AND `+finished+` ORDER BY name LIMIT $2`, after, max(limit, 0))
	list, err := collect(rows, err, scanAccount)
	return list, db.wrap("list accounts", err)
}

// DeleteAccount implements Accounts.
func (db *DB) DeleteAccount(ctx context.Context, user string) error {
	_, err := db.EraseAccount(ctx, user)
	return err
}

// EraseAccount implements Transfers. The account is gone when the first
// transaction is; its timeline, which may be long, is then cleared in
// steps, and by the next EraseAccount or Tidy if this one is interrupted.
func (db *DB) EraseAccount(ctx context.Context, user string) (erased []Erased, err error) {
	err = db.update(ctx, "delete account "+user, func(tx *sql.Tx) error {
		erased = nil
		owner, err := ownerOf(ctx, tx, user, db.dialect.locks.change)
		if errors.Is(err, sql.ErrNoRows) {
			return isToBeCleared(ctx, tx, user)
		}
		if err != nil {
			return err
		}
		if erased, err = eraseOwner(ctx, tx, owner, user); err != nil {
			return err
		}
		return noteChange(ctx, tx, user)
	})
	if err != nil {
		return nil, err
	}
	entries, err := db.purge(ctx, user)
	db.forget(ctx)
	return append(erased, Erased{"entries", entries}), err
}

// isToBeCleared returns sql.ErrNoRows unless a deletion of that account was interrupted.
func isToBeCleared(ctx context.Context, tx *sql.Tx, user string) error {
	var owner OwnerID
	return tx.QueryRowContext(ctx, `SELECT owner FROM purges WHERE name = $1 LIMIT 1`, user).Scan(&owner)
}

// eraseStatements remove all that belongs to an account but its entries. Each table
// that has an owner is among them.
var eraseStatements = append(slices.Clone(personalDeletes), //nolint:gochecknoglobals // A constant list.
	`DELETE FROM resumables WHERE owner = $1`,
	`DELETE FROM ended_sessions WHERE owner = $1`,
	`DELETE FROM sessions WHERE owner = $1`,
	`DELETE FROM reaped WHERE owner = $1`,
	`DELETE FROM roster_items WHERE owner = $1`,
	`DELETE FROM roster_removals WHERE owner = $1`,
	`DELETE FROM credentials WHERE owner = $1`,
	`DELETE FROM tokens WHERE owner = $1`,
	`DELETE FROM archive_prefs WHERE owner = $1`,
	`DELETE FROM heads WHERE owner = $1`,
	`DELETE FROM accounts WHERE owner = $1`,
)

// eraseOwner removes an account; its entries are to be purged afterwards.
func eraseOwner(ctx context.Context, tx *sql.Tx, owner OwnerID, user string) (erased []Erased, err error) {
	for _, statement := range eraseStatements {
		n, err := affected(tx.ExecContext(ctx, statement, owner))
		if err != nil {
			return nil, err
		}
		erased = append(erased, Erased{strings.Fields(statement)[2], int64(n)})
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO purges (owner, name) VALUES ($1, $2)`, owner, user)
	return erased, err
}

// purgeStep is how many entries are deleted in one transaction, so that appends
// never wait long for one.
const purgeStep = 1000

// purged says what was deleted of the timeline of a deleted account.
type purged struct {
	owner   OwnerID // 0: there is no such timeline
	name    string  // of the account
	entries int64
}

// purge clears the timelines of deleted accounts. It returns how many entries of
// those that had a name it has deleted.
func (db *DB) purge(ctx context.Context, name string) (entries int64, err error) {
	for {
		p, err := db.purgeSome(ctx)
		if err != nil || p.owner == 0 {
			return entries, err
		}
		if p.name == name {
			entries += p.entries
		}
	}
}

// purgeSome takes one step of purge.
func (db *DB) purgeSome(ctx context.Context) (p purged, err error) {
	err = db.update(ctx, "clear timelines of deleted accounts", func(tx *sql.Tx) (err error) {
		p, err = purgeSome(ctx, tx, db.dialect.locks.change)
		return err
	})
	return p, err
}

// purgeSome deletes some entries of one deleted account. Two never clear the same
// timeline at a time: one of them would find nothing left while the other may still be
// undone.
func purgeSome(ctx context.Context, tx *sql.Tx, lock string) (p purged, err error) {
	err = tx.QueryRowContext(ctx, `SELECT owner, name FROM purges ORDER BY owner LIMIT 1`+lock).Scan(&p.owner, &p.name)
	if errors.Is(err, sql.ErrNoRows) {
		return purged{}, nil
	}
	if err != nil {
		return purged{}, err
	}
	r, err := tx.ExecContext(ctx, `
		DELETE FROM entries WHERE owner = $1 AND seq <=
			(SELECT MIN(seq) FROM entries WHERE owner = $2) + $3`, p.owner, p.owner, purgeStep-1)
	if err != nil {
		return purged{}, err
	}
	if p.entries, err = r.RowsAffected(); err != nil || p.entries > 0 {
		return p, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM purges WHERE owner = $1`, p.owner)
	return p, err
}

// finished chooses the accounts that are there: not those that are being brought in.
const finished = `name NOT LIKE '%/%'`

// Tidy implements Transfers.
func (db *DB) Tidy(ctx context.Context, before time.Time) (more bool, err error) {
	p, err := db.purgeSome(ctx)
	if err == nil && p.owner != 0 && p.entries == 0 { // that was all of it
		db.forget(ctx)
	}
	if err != nil || p.owner != 0 {
		return true, err
	}
	var user string
	err = db.read.QueryRowContext(long(ctx), `SELECT name FROM accounts WHERE name LIKE '%/%' AND created < $1 LIMIT 1`,
		millis(before)).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, db.wrap("look for imports that were interrupted", err)
	}
	err = db.update(ctx, "erase what is left of an import", func(tx *sql.Tx) error {
		owner, err := ownerOf(ctx, tx, user, db.dialect.locks.change)
		if err != nil {
			return err
		}
		_, err = eraseOwner(ctx, tx, owner, user)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = nil // somebody else was faster
	}
	return true, err
}
