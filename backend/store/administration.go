package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Role says what an account may do beside chatting.
type Role uint8

// The roles, each of which may do what those before it may.
const (
	RoleUser      Role = iota
	RoleModerator      // looks after rooms
	RoleAdmin          // administers the service (XEP-0133)
)

// Roles are the roles by their words.
func Roles() []Role { return []Role{RoleUser, RoleModerator, RoleAdmin} }

// String returns the word for a role.
func (r Role) String() string {
	switch r {
	case RoleUser:
		return "user"
	case RoleModerator:
		return "moderator"
	case RoleAdmin:
		return "admin"
	default:
		return "unknown"
	}
}

// ParseRole returns the role that a word stands for.
func ParseRole(word string) (Role, error) {
	for _, r := range Roles() {
		if r.String() == word {
			return r, nil
		}
	}
	return RoleUser, fmt.Errorf("role %q: there are user, moderator and admin", word)
}

// AccountState says whether an account may be used. The zero value is an active one.
// A suspended account cannot log in. All it has stays, and messages for it are
// stored until it may again. A deleted account is not there any more.
type AccountState struct {
	Suspended bool
	Reason    string    // what its user is told; may be empty
	Until     time.Time // zero: until it is made active again; millisecond resolution
}

// stored returns the state as stores keep it.
func (s AccountState) stored() AccountState {
	if !s.Suspended {
		return AccountState{}
	}
	return s
}

// SuspendedAt tells whether the account is suspended at a time.
func (s AccountState) SuspendedAt(now time.Time) bool {
	return s.Suspended && (s.Until.IsZero() || now.Before(s.Until))
}

// AccountFilter chooses some of the accounts.
type AccountFilter uint8

// The filters.
const (
	EveryAccount AccountFilter = iota
	SuspendedAccounts
	OnlineAccounts // those with a session
)

// AccountChange says that an account was changed by SetRole or SetState, or was deleted.
type AccountChange struct {
	Number uint64 // 1, 2, 3 … without gaps
	User   string
}

// ChangesKept is how many of the last changes AccountChanges knows.
const ChangesKept = 1000

// Administration is what operators do with accounts.
type Administration interface {
	// SetRole gives a user a role; ErrNotFound.
	SetRole(ctx context.Context, user string, role Role) error
	// SetState suspends an account or makes it active again; ErrNotFound. It does not
	// end sessions: nodes do that when they hear of the change.
	SetState(ctx context.Context, user string, state AccountState) error
	// CountAccounts returns how many accounts the filter chooses.
	CountAccounts(ctx context.Context, which AccountFilter) (int, error)
	// FindAccounts is ListAccounts for those that the filter chooses.
	FindAccounts(ctx context.Context, which AccountFilter, after string, limit int) ([]Account, error)
	// LastAccountChange returns the number of the last change, 0 when there was none.
	LastAccountChange(ctx context.Context) (uint64, error)
	// AccountChanges returns up to limit changes after number after, in order. Only the
	// last ChangesKept are known. If the first one is not number after+1, those between
	// are forgotten.
	AccountChanges(ctx context.Context, after uint64, limit int) ([]AccountChange, error)
}

// accountColumns reads an account whole.
const accountColumns = `owner, name, created, role, suspended, suspend_reason, suspended_until, last_login`

func scanAccount(r row) (Account, error) {
	var a Account
	var created, until, login int64
	err := r.Scan(&a.Owner, &a.User, &created, &a.Role, &a.State.Suspended, &a.State.Reason, &until, &login)
	a.Created, a.State.Until, a.LastLogin = fromMillis(created), fromMillisOrZero(until), fromMillisOrZero(login)
	return a, err
}

// fromMillisOrZero reads a time whose 0 stands for none.
func fromMillisOrZero(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return fromMillis(ms)
}

// SetRole implements Administration.
func (db *DB) SetRole(ctx context.Context, user string, role Role) error {
	return db.update(ctx, "set role of "+user, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE accounts SET role = $1 WHERE name = $2`, role, user)
		if err := found(r, err, ErrNotFound); err != nil {
			return err
		}
		return noteChange(ctx, tx, user)
	})
}

// SetState implements Administration.
func (db *DB) SetState(ctx context.Context, user string, state AccountState) error {
	state = state.stored()
	var until int64
	if !state.Until.IsZero() {
		until = millis(state.Until)
	}
	return db.update(ctx, "set state of "+user, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `
			UPDATE accounts SET suspended = $1, suspend_reason = $2, suspended_until = $3 WHERE name = $4`,
			state.Suspended, state.Reason, until, user)
		if err := found(r, err, ErrNotFound); err != nil {
			return err
		}
		return noteChange(ctx, tx, user)
	})
}

// noteChange tells nodes that an account has changed. It comes last in a
// transaction: until the end of it all other changes wait.
func noteChange(ctx context.Context, tx *sql.Tx, user string) error {
	var number int64
	err := tx.QueryRowContext(ctx, `UPDATE account_change_counter SET number = number + 1 RETURNING number`).Scan(&number)
	if err != nil {
		return fmt.Errorf("number of the change: %w", err)
	}
	if _, err = tx.ExecContext(ctx, `INSERT INTO account_changes (number, name) VALUES ($1, $2)`, number, user); err != nil {
		return fmt.Errorf("note the change: %w", err)
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM account_changes WHERE number <= $1`, number-ChangesKept)
	return err
}

// noteLogin remembers when a user logged in last.
func noteLogin(ctx context.Context, tx *sql.Tx, owner OwnerID, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE accounts SET last_login = $1 WHERE owner = $2`, millis(now), owner)
	return err
}

// condition returns the filter in SQL. Its one argument is the time, which is $2.
func (f AccountFilter) condition() string {
	switch f {
	case SuspendedAccounts:
		return `suspended AND (suspended_until = 0 OR suspended_until > $2)`
	case OnlineAccounts:
		return `CAST($2 AS bigint) > 0 AND EXISTS (SELECT 1 FROM sessions WHERE sessions.owner = accounts.owner)`
	default:
		return `CAST($2 AS bigint) > 0`
	}
}

// CountAccounts implements Administration.
func (db *DB) CountAccounts(ctx context.Context, which AccountFilter) (n int, err error) {
	//nolint:gosec // made of constants
	err = db.read.QueryRowContext(long(ctx), `SELECT COUNT(*) FROM accounts WHERE name > $1 AND `+finished+` AND `+which.condition(),
		"", millis(db.now())).Scan(&n)
	return n, db.wrap("count accounts", err)
}

// FindAccounts implements Administration.
func (db *DB) FindAccounts(ctx context.Context, which AccountFilter, after string, limit int) ([]Account, error) {
	//nolint:gosec // made of constants
	rows, err := db.read.QueryContext(long(ctx), `
		SELECT `+accountColumns+` FROM accounts WHERE name > $1 AND `+finished+` AND `+which.condition()+` ORDER BY name LIMIT $3`,
		after, millis(db.now()), max(limit, 0))
	list, err := collect(rows, err, scanAccount)
	return list, db.wrap("find accounts", err)
}

// LastAccountChange implements Administration.
func (db *DB) LastAccountChange(ctx context.Context) (number uint64, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT number FROM account_change_counter`).Scan(&number)
	return number, db.wrap("number of the last change of an account", err)
}

// AccountChanges implements Administration.
func (db *DB) AccountChanges(ctx context.Context, after uint64, limit int) ([]AccountChange, error) {
	rows, err := db.read.QueryContext(long(ctx), `
		SELECT number, name FROM account_changes WHERE number > $1 ORDER BY number LIMIT $2`, storable(after), max(limit, 0))
	list, err := collect(rows, err, func(r row) (c AccountChange, err error) { return c, r.Scan(&c.Number, &c.User) })
	return list, db.wrap("changes of accounts", err)
}
