package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// sessionColumns reads a session whole, in a SELECT as well as after RETURNING.
const sessionColumns = `id, owner,
	(SELECT name FROM accounts WHERE accounts.owner = sessions.owner), resource,
	(SELECT node FROM leases WHERE leases.id = sessions.lease), epoch, handled, created`

func scanSession(r row) (Session, error) { return scanSessionAnd(r) }

// scanSessionAnd reads what stands behind these columns as well.
func scanSessionAnd(r row, more ...any) (Session, error) {
	var s Session
	var created int64
	err := r.Scan(append([]any{&s.ID, &s.Owner, &s.User, &s.Resource, &s.Node, &s.Epoch, &s.Handled, &created}, more...)...)
	s.Created = fromMillis(created)
	return s, err
}

// endedColumns are sessionColumns with what is told of a session that is over, but for its state.
const endedColumns = sessionColumns + `, shown`

func scanEnded(r row) (Session, error) {
	var shown string
	s, err := scanSessionAnd(r, &shown)
	s.Shown = shown
	return s, err
}

// CreateSession implements Sessions.
func (db *DB) CreateSession(ctx context.Context, s Session) (replaced *Session, err error) {
	err = db.updateSurely(ctx, "create session "+s.ID, func(tx *sql.Tx, doubtful bool) (err error) {
		// One at a time for each owner, so that a resource has one session.
		if _, err := rosterVersion(ctx, tx, s.Owner, db.dialect.locks.change); err != nil {
			return fmt.Errorf("owner %d: %w", s.Owner, err)
		}
		if doubtful {
			if made, err := hasSession(ctx, tx, s.ID, ""); made || err != nil {
				return err // what it has replaced is known
			}
		}
		if replaced, err = db.endResource(ctx, tx, s.Owner, s.Resource); err != nil {
			return fmt.Errorf("end the session before: %w", err)
		}
		if err := noteLogin(ctx, tx, s.Owner, db.now()); err != nil {
			return fmt.Errorf("note the login: %w", err)
		}
		lease, err := currentLease(ctx, tx, s.Node, db.dialect.locks.refer)
		if err != nil {
			return fmt.Errorf("lease of %s: %w", s.Node, err)
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO sessions (id, owner, resource, lease, epoch, handled, created)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			s.ID, s.Owner, s.Resource, lease, 1, s.Handled, millis(db.now()))
		if err != nil || replaced == nil || replaced.Shown == "" {
			return err
		}
		return noteReaped(ctx, tx, lease, []Session{*replaced})
	})
	if err != nil {
		return nil, err
	}
	return replaced, nil
}

// hasSession tells whether there is a session with an ID.
func hasSession(ctx context.Context, tx *sql.Tx, id, lock string) (bool, error) {
	var found string
	err := tx.QueryRowContext(ctx, `SELECT id FROM sessions WHERE id = $1`+lock, id).Scan(&found)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// endResource ends the owner's session with a resource, if there is one.
func (db *DB) endResource(ctx context.Context, tx *sql.Tx, owner OwnerID, resource string) (*Session, error) {
	s, err := scanEnded(tx.QueryRowContext(ctx, `
		DELETE FROM sessions WHERE owner = $1 AND resource = $2 RETURNING `+endedColumns, owner, resource))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = db.bury(ctx, tx, &s)
	return &s, err
}

// currentLease returns the lease that a node holds, locked so that it stays. For
// a node without one it returns one that is over.
func currentLease(ctx context.Context, tx *sql.Tx, node, lock string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM leases WHERE node = $1 AND until > 0`+lock, node).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	err = tx.QueryRowContext(ctx, `
		INSERT INTO leases (node, incarnation, until) VALUES ($1, '', 0)
		ON CONFLICT (node, incarnation) DO UPDATE SET until = 0 RETURNING id`, node).Scan(&id)
	return id, err
}

// Session implements Sessions.
func (db *DB) Session(ctx context.Context, id string) (Session, error) {
	s, err := scanSession(db.read.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE id = $1`, id))
	if err != nil {
		return Session{}, db.wrap("session "+id, err)
	}
	return s, nil
}

// SessionsOf implements Sessions.
func (db *DB) SessionsOf(ctx context.Context, owner OwnerID) ([]Session, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT `+sessionColumns+` FROM sessions WHERE owner = $1 ORDER BY resource`, owner)
	list, err := collect(rows, err, scanSession)
	return list, db.wrap(fmt.Sprintf("sessions of owner %d", owner), err)
}

// NoteShown implements Sessions.
func (db *DB) NoteShown(ctx context.Context, id string, epoch uint64, shown string) error {
	return db.update(ctx, fmt.Sprintf("note whom session %s has shown itself at epoch %d", id, epoch), func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `
			UPDATE sessions SET shown = $1 WHERE id = $2 AND epoch = $3`, shown, id, storable(epoch))
		return found(r, err, ErrFenced)
	})
}

// StatesOf implements Sessions.
func (db *DB) StatesOf(ctx context.Context, owner OwnerID) ([]Session, error) {
	//nolint:gosec // made of constants
	rows, err := db.read.QueryContext(ctx, `
		SELECT `+endedColumns+`, (SELECT state FROM resumables WHERE session = sessions.id),
			EXISTS (SELECT 1 FROM leases WHERE id = sessions.lease AND until > `+db.dialect.clock+`)
		FROM sessions WHERE owner = $1 ORDER BY resource`, owner)
	list, err := collect(rows, err, func(r row) (s Session, err error) {
		var state []byte
		var lives bool
		var shown string
		if s, err = scanSessionAnd(r, &shown, &state, &lives); !lives {
			s.Node = ""
		}
		s.State, s.Shown = string(state), shown
		return s, err
	})
	return list, db.wrap(fmt.Sprintf("states of the sessions of owner %d", owner), err)
}

// NodeOf implements Sessions.
func (db *DB) NodeOf(ctx context.Context, owner OwnerID, resource string) (node string, err error) {
	//nolint:gosec // made of constants
	err = db.read.QueryRowContext(ctx, `
		SELECT l.node FROM sessions s JOIN leases l ON l.id = s.lease
		WHERE s.owner = $1 AND s.resource = $2 AND `+db.served(), owner, resource).Scan(&node)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return node, db.wrap(fmt.Sprintf("node of a session of owner %d", owner), err)
}

// NodesOf implements Sessions.
func (db *DB) NodesOf(ctx context.Context, owner OwnerID) ([]string, error) {
	//nolint:gosec // made of constants
	rows, err := db.read.QueryContext(ctx, `
		SELECT DISTINCT l.node FROM sessions s JOIN leases l ON l.id = s.lease
		WHERE s.owner = $1 AND `+db.served()+` ORDER BY l.node`, owner)
	names, err := collect(rows, err, func(r row) (name string, err error) { return name, r.Scan(&name) })
	return names, db.wrap(fmt.Sprintf("nodes of the sessions of owner %d", owner), err)
}

// served is the condition for a session s with a lease l that a node has it now.
func (db *DB) served() string {
	return `l.until > ` + db.dialect.clock + ` AND NOT EXISTS (SELECT 1 FROM resumables r WHERE r.session = s.id AND r.parked > 0)`
}

// ConnectedContacts implements Sessions.
func (db *DB) ConnectedContacts(ctx context.Context, owner OwnerID) ([]string, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT r.contact FROM roster_items r JOIN accounts a ON a.name = r.contact
		WHERE r.owner = $1 AND EXISTS (SELECT 1 FROM sessions s WHERE s.owner = a.owner)`, owner)
	list, err := collect(rows, err, func(r row) (contact string, err error) { return contact, r.Scan(&contact) })
	slices.Sort(list)
	return list, db.wrap(fmt.Sprintf("connected contacts of owner %d", owner), err)
}

// RecentContacts implements Sessions.
func (db *DB) RecentContacts(ctx context.Context, owner OwnerID, since time.Time) ([]RecentContact, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT contact, nodes FROM (
			SELECT r.contact, h.ended, (
				SELECT COUNT(DISTINCT l.node) FROM sessions s JOIN leases l ON l.id = s.lease WHERE s.owner = a.owner) AS nodes
			FROM roster_items r JOIN accounts a ON a.name = r.contact JOIN heads h ON h.owner = a.owner
			WHERE r.owner = $1) AS contacts
		WHERE nodes > 0 OR ended >= $2`, owner, millis(since))
	list, err := collect(rows, err, func(r row) (c RecentContact, err error) { return c, r.Scan(&c.User, &c.Nodes) })
	slices.SortFunc(list, func(a, b RecentContact) int { return strings.Compare(a.User, b.User) })
	return list, db.wrap(fmt.Sprintf("recent contacts of owner %d", owner), err)
}

// LastEnd implements Sessions.
func (db *DB) LastEnd(ctx context.Context, owner OwnerID) (time.Time, error) {
	var ended int64
	err := db.read.QueryRowContext(ctx, `SELECT ended FROM heads WHERE owner = $1`, owner).Scan(&ended)
	return fromMillisOrZero(ended), db.wrap(fmt.Sprintf("last session of owner %d", owner), err)
}

// SetHandled implements Sessions.
func (db *DB) SetHandled(ctx context.Context, id string, epoch uint64, handled uint32) error {
	return db.update(ctx, fmt.Sprintf("set handled count of session %s at epoch %d", id, epoch), func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `
			UPDATE sessions SET handled = $1 WHERE id = $2 AND epoch = $3`, handled, id, storable(epoch))
		return found(r, err, ErrFenced)
	})
}

// EndSession implements Sessions.
func (db *DB) EndSession(ctx context.Context, id string, epoch uint64) error {
	return db.update(ctx, fmt.Sprintf("end session %s at epoch %d", id, epoch), func(tx *sql.Tx) error {
		s, err := scanSession(tx.QueryRowContext(ctx, `
			DELETE FROM sessions WHERE id = $1 AND epoch = $2 RETURNING `+sessionColumns, id, storable(epoch)))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrFenced
		}
		if err != nil {
			return err
		}
		return db.bury(ctx, tx, &s)
	})
}

// TakeLease implements Sessions.
func (db *DB) TakeLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	return db.update(ctx, "take lease of "+node, func(tx *sql.Tx) error {
		//nolint:gosec // made of constants
		_, err := tx.ExecContext(ctx, `
			UPDATE leases SET `+db.leaseEnds()+` WHERE node = $1 AND incarnation <> $2 AND until > 0`, node, incarnation)
		if err != nil {
			return fmt.Errorf("take over: %w", err)
		}
		//nolint:gosec // made of constants
		_, err = tx.ExecContext(ctx, `
			INSERT INTO leases (node, incarnation, until) VALUES ($1, $2, `+db.dialect.clock+` + $3)
			ON CONFLICT (node, incarnation) DO UPDATE SET until = excluded.until`,
			node, incarnation, lasts.Milliseconds())
		return err
	})
}

// leaseEnds ends a lease in an UPDATE. One that was over already has ended then.
func (db *DB) leaseEnds() string {
	return `ended = CASE WHEN until < ` + db.dialect.clock + ` THEN until ELSE ` + db.dialect.clock + ` END, until = 0`
}

// RenewLease implements Sessions.
func (db *DB) RenewLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	return db.update(ctx, "renew lease of "+node, func(tx *sql.Tx) error {
		//nolint:gosec // made of constants
		r, err := tx.ExecContext(ctx, `
			UPDATE leases SET until = `+db.dialect.clock+` + $1 WHERE node = $2 AND incarnation = $3 AND until > 0`,
			lasts.Milliseconds(), node, incarnation)
		return found(r, err, ErrLeaseLost)
	})
}

// EndLease implements Sessions.
func (db *DB) EndLease(ctx context.Context, node, incarnation string) error {
	return db.update(ctx, "end lease of "+node, func(tx *sql.Tx) error {
		//nolint:gosec // made of constants
		_, err := tx.ExecContext(ctx, `
			UPDATE leases SET `+db.leaseEnds()+` WHERE node = $1 AND incarnation = $2 AND until > 0`, node, incarnation)
		if err != nil {
			return err
		}
		return db.dropLeases(ctx, tx)
	})
}

// LiveNodes implements Sessions.
func (db *DB) LiveNodes(ctx context.Context) ([]string, error) {
	//nolint:gosec // made of constants
	rows, err := db.read.QueryContext(ctx, `SELECT DISTINCT node FROM leases WHERE until > `+db.dialect.clock+` ORDER BY node`)
	names, err := collect(rows, err, func(r row) (name string, err error) { return name, r.Scan(&name) })
	return names, db.wrap("live nodes", err)
}

// leaseMemory is how long after its end a lease is kept that was not given
// up: its holder may only have been cut off, and go on with it. Once it is
// forgotten the holder has to be started again.
const leaseMemory = 30 * 24 * time.Hour

// unused is the condition for a lease that no session belongs to.
const unused = `NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.lease = leases.id)`

// dropLeases removes the leases that are over and have no session left. Whether
// they have is asked again once they are locked: a session may have been created
// meanwhile.
func (db *DB) dropLeases(ctx context.Context, tx *sql.Tx) error {
	//nolint:gosec // made of constants
	rows, err := tx.QueryContext(ctx, `
		SELECT id FROM leases WHERE (until = 0 OR until < `+db.dialect.clock+` - $1) AND `+unused+db.dialect.locks.take,
		leaseMemory.Milliseconds())
	ids, err := collect(rows, err, func(r row) (id int64, err error) { return id, r.Scan(&id) })
	if err != nil {
		return fmt.Errorf("look for leases to drop: %w", err)
	}
	for _, id := range ids {
		if _, err := tx.ExecContext(ctx, `DELETE FROM leases WHERE id = $1 AND `+unused, id); err != nil {
			return fmt.Errorf("drop lease %d: %w", id, err)
		}
	}
	return nil
}

// overdue are the ids of the sessions for which nobody need wait any more: their lease
// is over, and they cannot be resumed or have had their time for that; or they were
// left to whoever resumes them, and nobody has.
func (db *DB) overdue() string {
	now := db.dialect.clock
	return `
	SELECT id FROM sessions WHERE lease IN (SELECT id FROM leases WHERE until <= ` + now + `) AND NOT EXISTS (
		SELECT 1 FROM resumables r JOIN leases l ON l.id = sessions.lease
		WHERE r.session = sessions.id AND r.hold + CASE l.until WHEN 0 THEN l.ended ELSE l.until END > ` + now + `)
	UNION ALL SELECT session FROM resumables WHERE parked > 0 AND parked + hold <= ` + now
}

// unclaimed is the condition for a session in reaped that no other node which lives is about to announce.
func (db *DB) unclaimed(node string) string {
	return `NOT EXISTS (
		SELECT 1 FROM leases l WHERE l.id = reaped.lease AND l.until > ` + db.dialect.clock + ` AND l.node <> ` + node + `)`
}

// ReapSessions implements Sessions. As long as all is well there is nothing to
// find, and nobody has to wait for a transaction.
func (db *DB) ReapSessions(ctx context.Context, node string, limit int) ([]Session, error) {
	var left bool
	//nolint:gosec // made of constants
	err := db.read.QueryRowContext(long(ctx), `
		SELECT EXISTS (`+db.overdue()+`) OR EXISTS (SELECT 1 FROM reaped WHERE `+db.unclaimed("$1")+`)`, node).Scan(&left)
	if err != nil || !left || limit <= 0 {
		return nil, db.wrap("look for sessions without a lease", err)
	}
	var reaped []Session
	err = db.updateSurely(ctx, "reap sessions", func(tx *sql.Tx, _ bool) error {
		ended, err := db.endOverdue(ctx, tx, limit)
		if err != nil {
			return err
		}
		lease, err := currentLease(ctx, tx, node, db.dialect.locks.refer)
		if err != nil {
			return fmt.Errorf("lease of %s: %w", node, err)
		}
		if err := noteReaped(ctx, tx, lease, ended); err != nil {
			return err
		}
		if reaped, err = db.claimReaped(ctx, tx, lease, node, limit); err != nil {
			return err
		}
		return db.dropLeases(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return reaped, nil
}

// endOverdue ends sessions for which nobody need wait any more.
func (db *DB) endOverdue(ctx context.Context, tx *sql.Tx, limit int) ([]Session, error) {
	//nolint:gosec // made of constants
	rows, err := tx.QueryContext(ctx, `
		DELETE FROM sessions WHERE id IN (
			SELECT id FROM sessions WHERE id IN (`+db.overdue()+`) LIMIT $1`+db.dialect.locks.take+`)
		RETURNING `+endedColumns, limit)
	ended, err := collect(rows, err, scanEnded)
	if err != nil {
		return nil, err
	}
	// In the order in which appends lock heads.
	slices.SortFunc(ended, func(a, b Session) int { return cmp.Compare(a.Owner, b.Owner) })
	for i := range ended {
		if err := db.bury(ctx, tx, &ended[i]); err != nil {
			return nil, err
		}
	}
	return ended, nil
}

// noteReaped notes that whoever has the lease is to announce the ends of sessions.
func noteReaped(ctx context.Context, tx *sql.Tx, lease int64, ended []Session) error {
	for _, s := range ended {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO reaped (session, owner, resource, lease, state, shown) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (session) DO NOTHING`, s.ID, s.Owner, s.Resource, lease, []byte(s.State), s.Shown)
		if err != nil {
			return fmt.Errorf("note the end of session %s: %w", s.ID, err)
		}
	}
	return nil
}

// claimReaped gives a node ends that it is to announce.
func (db *DB) claimReaped(ctx context.Context, tx *sql.Tx, lease int64, node string, limit int) ([]Session, error) {
	//nolint:gosec // made of constants
	rows, err := tx.QueryContext(ctx, `
		UPDATE reaped SET lease = $1 WHERE session IN (
			SELECT session FROM reaped WHERE `+db.unclaimed("$2")+` LIMIT $3`+db.dialect.locks.take+`)
		RETURNING session, owner, COALESCE((SELECT name FROM accounts WHERE accounts.owner = reaped.owner), ''), resource, state, shown`,
		lease, node, limit)
	return collect(rows, err, func(r row) (s Session, err error) {
		return s, r.Scan(&s.ID, &s.Owner, &s.User, &s.Resource, &s.State, &s.Shown)
	})
}

// ForgetReaped implements Sessions.
func (db *DB) ForgetReaped(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return db.update(ctx, "forget sessions that were reaped", func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM reaped WHERE session = $1`, id); err != nil {
				return fmt.Errorf("session %s: %w", id, err)
			}
		}
		return nil
	})
}
