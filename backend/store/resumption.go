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

// SaveResumable implements Resumption.
func (db *DB) SaveResumable(ctx context.Context, id string, epoch uint64, r Resumable) error {
	return db.updateSurely(ctx, fmt.Sprintf("save session %s at epoch %d", id, epoch), func(tx *sql.Tx, _ bool) error {
		// The row is locked by that, so that nobody takes the session over meanwhile.
		var owner OwnerID
		err := tx.QueryRowContext(ctx, `
			UPDATE sessions SET handled = COALESCE($1, handled) WHERE id = $2 AND epoch = $3 RETURNING owner`,
			r.handled(), id, storable(epoch)).Scan(&owner)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrFenced
		}
		if err != nil {
			return err
		}
		//nolint:gosec // made of constants
		_, err = tx.ExecContext(ctx, `
			INSERT INTO resumables (session, owner, hold, parked, point, count, pos, claimed, voided, early, roster, blocklist, state, note)
			VALUES ($1, $2, $3, CASE WHEN $4 THEN `+db.dialect.clock+` - $5 ELSE 0 END, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
			ON CONFLICT (session) DO UPDATE SET hold = excluded.hold, parked = excluded.parked,
				`+latest("point", "count", "pos", "claimed", "voided", "early", "roster", "blocklist")+`,
				state = excluded.state, note = COALESCE(excluded.note, resumables.note)`,
			id, owner, r.Hold.Milliseconds(), !r.Parked.IsZero(), millis(db.now())-millis(r.Parked),
			pointOf(epoch, r.Number), r.Count, storable(r.Pos), storable(r.Claimed), r.Voided, r.Early,
			storable(r.Told.Roster), storable(r.Told.Blocklist), notNil(r.State), r.Note)
		return err
	})
}

// latest sets columns that say where a session stands in an upsert, unless what is there is of a later point.
func latest(columns ...string) string {
	for i, column := range columns {
		columns[i] = column + ` = CASE WHEN excluded.point >= resumables.point THEN excluded.` + column + ` ELSE resumables.` + column + ` END`
	}
	return strings.Join(columns, ", ")
}

// pointOf is higher for a later point.
func pointOf(epoch uint64, number uint32) int64 {
	return int64(storable(epoch<<32 | uint64(number))) //nolint:gosec // Storable.
}

// handled is the count to be stored, nil for the one that is.
func (r Resumable) handled() *uint32 {
	if r.Unsure {
		return nil
	}
	return &r.Handled
}

// notNil makes an empty value of none.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// SetResumePoints implements Resumption. The points are set in the order of their
// sessions, so that two processes cannot lock each other out.
func (db *DB) SetResumePoints(ctx context.Context, points []ResumePoint) error {
	if len(points) == 0 {
		return nil
	}
	points = sortedPoints(points)
	if db.setPoints != "" {
		return db.update(ctx, "set resume points", func(tx *sql.Tx) error {
			return setPointsAtOnce(ctx, tx, db.setPoints, points)
		})
	}
	for some := range slices.Chunk(points, setAtOnce) {
		err := db.update(ctx, "set resume points", func(tx *sql.Tx) error {
			return setEachPoint(context.WithoutCancel(ctx), tx, some)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func setEachPoint(ctx context.Context, tx *sql.Tx, points []ResumePoint) error {
	set, err := tx.PrepareContext(ctx, `
		UPDATE resumables SET point = $1, count = $2, pos = $3, claimed = $4, voided = $5, early = $6, roster = $7, blocklist = $8
			WHERE session = $9 AND point <= $1 AND EXISTS (SELECT 1 FROM sessions WHERE id = $9 AND epoch = $10)`)
	if err != nil {
		return err
	}
	defer set.Close()
	for _, p := range points {
		_, err := set.ExecContext(ctx, pointOf(p.Epoch, p.Number), p.Count, storable(p.Pos), storable(p.Claimed), p.Voided, p.Early,
			storable(p.Told.Roster), storable(p.Told.Blocklist), p.ID, storable(p.Epoch))
		if err != nil {
			return fmt.Errorf("session %s: %w", p.ID, err)
		}
	}
	return nil
}

// setPointsAtOnce sets all points with one statement.
func setPointsAtOnce(ctx context.Context, tx *sql.Tx, statement string, points []ResumePoint) error {
	n := len(points)
	ids, epochs, numbers := make([]string, n), make([]int64, n), make([]int64, n)
	counts, places, claimed, voided, early := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n), make([][]byte, n)
	rosters, blocklists := make([]int64, n), make([]int64, n)
	for i, p := range points {
		ids[i], epochs[i], places[i] = p.ID, int64(storable(p.Epoch)), int64(storable(p.Pos)) //nolint:gosec // Storable.
		numbers[i], counts[i], voided[i] = pointOf(p.Epoch, p.Number), int64(p.Count), int64(p.Voided)
		claimed[i], early[i] = int64(storable(p.Claimed)), p.Early                                    //nolint:gosec // Storable.
		rosters[i], blocklists[i] = int64(storable(p.Told.Roster)), int64(storable(p.Told.Blocklist)) //nolint:gosec // Storable.
	}
	_, err := tx.ExecContext(ctx, statement, ids, epochs, numbers, counts, places, claimed, voided, early, rosters, blocklists)
	return err
}

func sortedPoints(points []ResumePoint) []ResumePoint {
	return slices.SortedFunc(slices.Values(points), func(a, b ResumePoint) int { return cmp.Compare(a.ID, b.ID) })
}

// NoteResumable implements Resumption.
func (db *DB) NoteResumable(ctx context.Context, id string, owner OwnerID, note []byte) error {
	return db.update(ctx, "note for session "+id, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE resumables SET note = $1 WHERE session = $2 AND owner = $3`, note, id, owner)
		return err
	})
}

// Resume implements Resumption.
func (db *DB) Resume(ctx context.Context, id string, owner OwnerID, node string, seen uint64) (s Session, r Resumable, err error) {
	err = db.update(ctx, "resume session "+id, func(tx *sql.Tx) error {
		var over int64 // how long ago
		err := tx.QueryRowContext(ctx, `
			SELECT `+db.dialect.clock+` - CASE l.until WHEN 0 THEN l.ended ELSE l.until END
			FROM sessions s JOIN leases l ON l.id = s.lease WHERE s.id = $1`, id).Scan(&over)
		if err != nil {
			return err // sql.ErrNoRows is ErrNotFound
		}
		lease, err := currentLease(ctx, tx, node, db.dialect.locks.refer)
		if err != nil {
			return fmt.Errorf("lease of %s: %w", node, err)
		}
		s, err = scanSession(tx.QueryRowContext(ctx, `
			UPDATE sessions SET epoch = epoch + 1, lease = $1 WHERE id = $2 AND owner = $3 AND ($4 = 0 OR epoch = $4)
				AND EXISTS (SELECT 1 FROM resumables WHERE session = $2) RETURNING `+sessionColumns, lease, id, owner, storable(seen)))
		if errors.Is(err, sql.ErrNoRows) && seen != 0 {
			return ErrFenced
		}
		if err != nil {
			return err // as above
		}
		r, err = db.scanResumable(tx.QueryRowContext(ctx, `
			SELECT hold, parked > 0, `+db.dialect.clock+` - parked, count, pos, claimed, voided, CASE WHEN point >= $1 THEN early END,
				roster, blocklist, state, note
			FROM resumables WHERE session = $2`, pointOf(s.Epoch-1, 0), id)) // an earlier version, which has no points, does not remove early
		if err != nil {
			return err
		}
		r.Handled, r.Lease = s.Handled, fromMillis(millis(db.now())-over)
		// What whoever had it stores late of where it stands is of an earlier point.
		//nolint:gosec // made of constants
		_, err = tx.ExecContext(ctx, `
			UPDATE resumables SET parked = 0, point = $1, early = $2, taken = `+db.dialect.clock+` WHERE session = $3`,
			pointOf(s.Epoch, 0), r.Early, id)
		return err
	})
	if err != nil {
		return Session{}, Resumable{}, err
	}
	return s, r, nil
}

// scanResumable reads a session's hold, whether and for how long it has waited, and the rest.
func (db *DB) scanResumable(row row) (r Resumable, err error) {
	var hold, waited int64
	var parked bool
	err = row.Scan(&hold, &parked, &waited, &r.Count, &r.Pos, &r.Claimed, &r.Voided, &r.Early, &r.Told.Roster, &r.Told.Blocklist, &r.State, &r.Note)
	if len(r.Note) == 0 {
		r.Note = nil
	}
	r.Hold = time.Duration(hold) * time.Millisecond
	if parked {
		r.Parked = fromMillis(millis(db.now()) - waited)
	}
	return r, err
}

// Holding implements Resumption.
func (db *DB) Holding(ctx context.Context, id string, owner OwnerID) (h Holding, err error) {
	var taken, since int64
	err = db.read.QueryRowContext(ctx, `
		SELECT s.epoch, r.parked > 0 OR l.until = 0, CASE WHEN l.until > 0 AND l.until <= `+db.dialect.clock+` THEN l.node ELSE '' END,
			r.taken, `+db.dialect.clock+` - r.taken
		FROM resumables r JOIN sessions s ON s.id = r.session JOIN leases l ON l.id = s.lease
		WHERE r.session = $1 AND r.owner = $2`, id, owner).Scan(&h.Epoch, &h.Parked, &h.Lapsed, &taken, &since)
	if taken > 0 {
		h.Taken = fromMillis(millis(db.now()) - since)
	}
	return h, db.wrap("session "+id, err)
}

// Park implements Resumption.
func (db *DB) Park(ctx context.Context, id string, epoch uint64) error {
	return db.update(ctx, fmt.Sprintf("park session %s at epoch %d", id, epoch), func(tx *sql.Tx) error {
		// The row is locked by that, so that nobody takes the session over meanwhile.
		r, err := tx.ExecContext(ctx, `UPDATE sessions SET epoch = epoch WHERE id = $1 AND epoch = $2`, id, storable(epoch))
		if err := found(r, err, ErrFenced); err != nil {
			return err
		}
		//nolint:gosec // made of constants
		_, err = tx.ExecContext(ctx, `UPDATE resumables SET parked = `+db.dialect.clock+` WHERE session = $1 AND parked = 0`, id)
		return err
	})
}

// EndedSession implements Resumption.
func (db *DB) EndedSession(ctx context.Context, id string, owner OwnerID) (handled uint32, err error) {
	err = db.read.QueryRowContext(ctx, `
		SELECT handled FROM ended_sessions WHERE id = $1 AND owner = $2`, id, owner).Scan(&handled)
	return handled, db.wrap("session "+id, err)
}

// ForgetEnded implements Resumption.
func (db *DB) ForgetEnded(ctx context.Context, before time.Time, limit int) error {
	return db.update(ctx, "forget ended sessions", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			DELETE FROM ended_sessions WHERE id IN (SELECT id FROM ended_sessions WHERE ended < $1 ORDER BY ended LIMIT $2)`,
			millis(before), limit)
		return err
	})
}

// bury notes what a client may still be told of a session that has been removed, and fills
// in its state, if it was resumable.
func (db *DB) bury(ctx context.Context, tx *sql.Tx, s *Session) error {
	if _, err := tx.ExecContext(ctx, `UPDATE heads SET ended = $1 WHERE owner = $2`, millis(db.now()), s.Owner); err != nil {
		return fmt.Errorf("note the end of session %s: %w", s.ID, err)
	}
	var state []byte
	err := tx.QueryRowContext(ctx, `DELETE FROM resumables WHERE session = $1 RETURNING state`, s.ID).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bury session %s: %w", s.ID, err)
	}
	s.State = string(state)
	_, err = tx.ExecContext(ctx, `
		INSERT INTO ended_sessions (id, owner, handled, ended) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
		s.ID, s.Owner, s.Handled, millis(db.now()))
	return err
}
