package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// ErrReplayed says that the count of a login with a token is not above that of an earlier
// one, so that it may be a copy of that.
var ErrReplayed = errors.New("the count was used already")

// A Token is what a client of a user may log in with instead of a password (XEP-0484).
// Secret is kept as it is: the mechanisms prove it by an HMAC that it is the key of, so
// that a hash of it would open the account just as well.
type Token struct {
	Secret    []byte
	Mechanism string // the only one that it may be used with
	Issued    time.Time
	Expires   time.Time
	Count     uint64 // the highest that a login had, 0 for none
	Used      bool   // a login has succeeded with it
}

// TokensPerUser bounds how many tokens a user has: clients that make up a new id at
// each start do not fill the store.
const TokensPerUser = 200

// Tokens keeps what clients log in with instead of a password. A client is known by
// the id that it gives itself, and has at most two tokens: one that it uses, and a
// newer one that it has not used yet and may never have received (XEP-0484 §3.5).
// SetCredentials and DeleteAccount revoke all tokens of their user.
type Tokens interface {
	// AddToken gives a client a token, in place of one that it has not used; Count
	// and Used of t are not looked at. Tokens of the user that have expired go, and the
	// oldest if there are more than TokensPerUser. ErrNotFound when the owner does not
	// exist; ErrFenced when its credentials were replaced at login or later, which is
	// when the login began that is to be rewarded.
	AddToken(ctx context.Context, owner OwnerID, client string, t Token, login time.Time) error
	// TokensOf returns a client's tokens, the unused one first, those that have expired
	// included; none when there is no such owner or client.
	TokensOf(ctx context.Context, owner OwnerID, client string) ([]Token, error)
	// UseToken notes that a login has succeeded with a token, which ends a client's
	// other used one. A count that is not 0 must be above the token's, else nothing
	// changes and the error is ErrReplayed; ErrNotFound when there is no such token.
	UseToken(ctx context.Context, owner OwnerID, client string, secret []byte, count uint64) error
	// RevokeTokens ends all tokens of a client.
	RevokeTokens(ctx context.Context, owner OwnerID, client string) error
}

// AddToken implements Tokens.
func (db *DB) AddToken(ctx context.Context, owner OwnerID, client string, t Token, login time.Time) error {
	return db.update(ctx, fmt.Sprintf("add a token of owner %d", owner), func(tx *sql.Tx) error {
		var since int64
		err := tx.QueryRowContext(ctx, `SELECT tokens_since FROM accounts WHERE owner = $1`+db.dialect.locks.change, owner).Scan(&since)
		if err != nil {
			return err
		}
		if since >= millis(login) {
			return fmt.Errorf("the credentials are newer than the login: %w", ErrFenced)
		}
		if err := thinTokens(ctx, tx, owner, client, db.now()); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO tokens (owner, client, secret, mechanism, issued, expires, count, used)
			VALUES ($1, $2, $3, $4, $5, $6, 0, $7)`,
			owner, client, notNull(t.Secret), t.Mechanism, millis(t.Issued), millis(t.Expires), false)
		return err
	})
}

// thinTokens makes room for a client's new token.
func thinTokens(ctx context.Context, tx *sql.Tx, owner OwnerID, client string, now time.Time) error {
	_, err := tx.ExecContext(ctx, `
		DELETE FROM tokens WHERE owner = $1 AND (expires <= $2 OR client = $3 AND used = $4)`,
		owner, millis(now), client, false)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		DELETE FROM tokens WHERE owner = $1 AND (client, secret) IN
			(SELECT client, secret FROM tokens WHERE owner = $2 ORDER BY issued DESC, client, secret LIMIT $3 OFFSET $4)`,
		owner, owner, TokensPerUser, TokensPerUser-1)
	return err
}

// TokensOf implements Tokens.
func (db *DB) TokensOf(ctx context.Context, owner OwnerID, client string) ([]Token, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT secret, mechanism, issued, expires, count, used FROM tokens
		WHERE owner = $1 AND client = $2 ORDER BY used`, owner, client)
	all, err := collect(rows, err, scanToken)
	return all, db.wrap(fmt.Sprintf("tokens of owner %d", owner), err)
}

func scanToken(r row) (Token, error) {
	var t Token
	var issued, expires int64
	err := r.Scan(&t.Secret, &t.Mechanism, &issued, &expires, &t.Count, &t.Used)
	t.Issued, t.Expires = fromMillis(issued), fromMillis(expires)
	return t, err
}

// UseToken implements Tokens.
func (db *DB) UseToken(ctx context.Context, owner OwnerID, client string, secret []byte, count uint64) error {
	return db.update(ctx, fmt.Sprintf("use a token of owner %d", owner), func(tx *sql.Tx) error {
		var last uint64
		err := tx.QueryRowContext(ctx, `
			SELECT count FROM tokens WHERE owner = $1 AND client = $2 AND secret = $3`+db.dialect.locks.change,
			owner, client, secret).Scan(&last)
		if err != nil {
			return err
		}
		if count != 0 && count <= last {
			return fmt.Errorf("count %d after %d: %w", count, last, ErrReplayed)
		}
		_, err = tx.ExecContext(ctx, `
			DELETE FROM tokens WHERE owner = $1 AND client = $2 AND secret <> $3 AND used = $4`, owner, client, secret, true)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			UPDATE tokens SET count = $1, used = $2 WHERE owner = $3 AND client = $4 AND secret = $5`,
			max(count, last), true, owner, client, secret)
		return err
	})
}

// RevokeTokens implements Tokens.
func (db *DB) RevokeTokens(ctx context.Context, owner OwnerID, client string) error {
	return db.update(ctx, fmt.Sprintf("revoke tokens of owner %d", owner), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE owner = $1 AND client = $2`, owner, client)
		return err
	})
}

// revokeAllTokens ends the tokens of all clients of a user, and of those whose login is
// not over yet.
func revokeAllTokens(ctx context.Context, tx *sql.Tx, owner OwnerID, now time.Time) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE owner = $1`, owner); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE accounts SET tokens_since = $1 WHERE owner = $2`, millis(now), owner)
	return err
}
