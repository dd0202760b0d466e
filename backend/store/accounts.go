package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	a, err := scanAccount(db.read.QueryRowContext(ctx, `SELECT owner, name, created FROM accounts WHERE name = $1`, user))
	if err != nil {
		return Account{}, db.wrap("account "+user, err)
	}
	return a, nil
}

func scanAccount(r row) (Account, error) {
	var a Account
	var created int64
	err := r.Scan(&a.Owner, &a.User, &created)
	a.Created = fromMillis(created)
	return a, err
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
	rows, err := db.read.QueryContext(ctx, `
		SELECT owner, name, created FROM accounts WHERE name > $1 ORDER BY name LIMIT $2`, after, max(limit, 0))
	list, err := collect(rows, err, scanAccount)
	return list, db.wrap("list accounts", err)
}

// DeleteAccount implements Accounts. The account is gone when the first
// transaction is; its timeline, which may be long, is then cleared in
// steps, and by the next DeleteAccount if this one is interrupted.
func (db *DB) DeleteAccount(ctx context.Context, user string) error {
	err := db.update(ctx, "delete account "+user, func(tx *sql.Tx) error {
		owner, err := ownerOf(ctx, tx, user, db.dialect.locks.change)
		if err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM sessions WHERE owner = $1`,
			`DELETE FROM roster_items WHERE owner = $1`,
			`DELETE FROM credentials WHERE owner = $1`,
			`DELETE FROM heads WHERE owner = $1`,
			`DELETE FROM accounts WHERE owner = $1`,
			`INSERT INTO purges (owner) VALUES ($1)`,
		} {
			if _, err := tx.ExecContext(ctx, statement, owner); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.purge(ctx)
}

// purgeStep is how many entries are deleted in one transaction, so that appends
// never wait long for one.
const purgeStep = 1000

// purge clears the timelines of deleted accounts.
func (db *DB) purge(ctx context.Context) error {
	for done := false; !done; {
		err := db.update(ctx, "clear timelines of deleted accounts", func(tx *sql.Tx) (err error) {
			done, err = purgeSome(ctx, tx, db.dialect.locks.change)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// purgeSome deletes some entries of one deleted account, or reports that there
// is none. Two never clear the same timeline at a time: one of them would find
// nothing left while the other may still be undone.
func purgeSome(ctx context.Context, tx *sql.Tx, lock string) (done bool, err error) {
	var owner OwnerID
	err = tx.QueryRowContext(ctx, `SELECT owner FROM purges ORDER BY owner LIMIT 1`+lock).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	r, err := tx.ExecContext(ctx, `
		DELETE FROM entries WHERE owner = $1 AND seq <=
			(SELECT MIN(seq) FROM entries WHERE owner = $2) + $3`, owner, owner, purgeStep-1)
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n > 0 {
		return false, err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM purges WHERE owner = $1`, owner)
	return false, err
}
