package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Claim implements Belonging.
func (db *DB) Claim(ctx context.Context, domain string) (owner string, err error) {
	err = db.update(ctx, "claim the database for "+domain, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO belongs (one, domain) VALUES (1, $1) ON CONFLICT (one) DO NOTHING`, domain)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT domain FROM belongs`).Scan(&owner)
	})
	return owner, err
}

// Domain implements Belonging.
func (db *DB) Domain(ctx context.Context) (domain string, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT domain FROM belongs`).Scan(&domain)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return domain, db.wrap("look whose the database is", err)
}

// CheckDomain is the error for a database that belongs to owner, if that is another
// domain; an empty one is none.
func CheckDomain(owner, domain string) error {
	if owner == "" || owner == domain {
		return nil
	}
	return &DomainError{Owner: owner, Domain: domain}
}

// DomainError says that a database belongs to another domain.
type DomainError struct {
	Owner  string // whose it is
	Domain string // whose it was taken for
}

// Error implements error.
func (e *DomainError) Error() string {
	return fmt.Sprintf("the database holds the users of %s, and not of %s: each domain needs a database of its own; correct the database's URL or the domain",
		e.Owner, e.Domain)
}
