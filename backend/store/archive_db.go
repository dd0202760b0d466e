package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Span implements Archives.
func (db *DB) Span(ctx context.Context, owner OwnerID) (first, head uint64, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT floor + 1, head FROM heads WHERE owner = $1`, owner).Scan(&first, &head)
	if err != nil {
		return 0, 0, db.wrap(fmt.Sprintf("span of owner %d", owner), err)
	}
	return first, head, nil
}

// Find implements Archives. Both directions, and those with a peer, are seeks in an
// index and read in its order as far as the limit goes.
func (db *DB) Find(ctx context.Context, owner OwnerID, r Range) ([]Entry, error) {
	query, args := r.query(owner, db.dialect.byPeer)
	rows, err := db.read.QueryContext(long(ctx), `SELECT `+entryColumns+query, args...) //nolint:gosec // made of constants
	page, err := collect(rows, err, scanEntry)
	return page, db.wrap(fmt.Sprintf("search timeline of owner %d", owner), err)
}

// Count implements Archives.
func (db *DB) Count(ctx context.Context, owner OwnerID, r Range) (n int, err error) {
	query, args := r.query(owner, db.dialect.byPeer)
	err = db.read.QueryRowContext(long(ctx), `SELECT COUNT(*) FROM (SELECT seq`+query+`) AS found`, args...).Scan(&n)
	return n, db.wrap(fmt.Sprintf("count entries of owner %d", owner), err)
}

// query is a SELECT without what is selected. byPeer is the dialect's.
func (r Range) query(owner OwnerID, byPeer string) (query string, args []any) {
	const all = ` FROM entries WHERE owner = $1 AND seq > $2 AND seq < $3 AND `
	before := storable(r.Before)
	if before == 0 {
		before = storable(1<<64 - 1)
	}
	order := ` ORDER BY seq`
	if r.Newest {
		order = ` ORDER BY seq DESC`
	}
	args = []any{owner, storable(r.After), before}
	switch {
	case r.Hidden:
		return all + `hidden` + order + ` LIMIT $4`, append(args, max(r.Limit, 0))
	case r.Peer == "":
		return all + `NOT hidden` + order + ` LIMIT $4`, append(args, max(r.Limit, 0))
	}
	return byPeer + order + ` LIMIT $5`, append(args, r.Peer, max(r.Limit, 0))
}

const selectPrefs = `SELECT owner, fallback, always, never FROM archive_prefs`

func scanPrefs(r row) (owner OwnerID, p ArchivePrefs, err error) {
	var always, never string
	if err := r.Scan(&owner, &p.Default, &always, &never); err != nil {
		return 0, ArchivePrefs{}, err
	}
	err = errors.Join(json.Unmarshal([]byte(always), &p.Always), json.Unmarshal([]byte(never), &p.Never))
	return owner, p, err
}

// ArchivePrefs implements Archives.
func (db *DB) ArchivePrefs(ctx context.Context, owner OwnerID) (ArchivePrefs, error) {
	_, p, err := scanPrefs(db.read.QueryRowContext(ctx, selectPrefs+` WHERE owner = $1`, owner))
	if errors.Is(err, sql.ErrNoRows) {
		return ArchivePrefs{}, nil
	}
	return p, db.wrap(fmt.Sprintf("archive preferences of owner %d", owner), err)
}

// SetArchivePrefs implements Archives. The head is locked first, as by who appends.
func (db *DB) SetArchivePrefs(ctx context.Context, owner OwnerID, p ArchivePrefs) error {
	always, never := addressList(p.Always), addressList(p.Never)
	return db.update(ctx, fmt.Sprintf("set archive preferences of owner %d", owner), func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE heads SET choosy = $1 WHERE owner = $2`, !p.isDefault(), owner)
		if err := found(r, err, ErrNotFound); err != nil {
			return err
		}
		if p.isDefault() {
			_, err := tx.ExecContext(ctx, `DELETE FROM archive_prefs WHERE owner = $1`, owner)
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO archive_prefs (owner, fallback, always, never) VALUES ($1, $2, $3, $4)
			ON CONFLICT (owner) DO UPDATE SET fallback = excluded.fallback, always = excluded.always, never = excluded.never`,
			owner, p.Default, always, never)
		return err
	})
}

// addressList is a list as it is stored.
func addressList(addresses []string) string {
	list, err := json.Marshal(slices.Compact(slices.Sorted(slices.Values(addresses))))
	if err != nil {
		panic(err) // strings always can be
	}
	return string(list)
}

// trimPage is how many timelines are looked at with one query.
const trimPage = 1000

// trimState is what decides whether a timeline has something that goes.
type trimState struct {
	owner                  OwnerID
	head, delivered, floor uint64
	oldest                 sql.NullInt64 // time of the first entry
	hidden                 bool          // there are hidden entries that go
}

// Trim implements Archives.
func (db *DB) Trim(ctx context.Context, r Retention, from OwnerID, limit int) (next OwnerID, removed int, err error) {
	page, err := db.trimStates(ctx, r, from)
	if err != nil {
		return 0, 0, err
	}
	for _, t := range page {
		if !t.concerns(r) {
			continue
		}
		if removed, err = db.trim(ctx, r, t, max(limit, 1)); err != nil || removed > 0 {
			return t.owner, removed, err // there may be more of it
		}
	}
	if len(page) < trimPage {
		return 0, 0, nil
	}
	return page[len(page)-1].owner + 1, 0, nil
}

// selectTrimStates seeks twice for each timeline: for its first entry and, in an index
// that has only those, for a hidden one.
const selectTrimStates = `
	SELECT h.owner, h.head, h.delivered, h.floor,
		(SELECT e.time FROM entries e WHERE e.owner = h.owner AND e.seq > h.floor ORDER BY e.seq LIMIT 1),
		EXISTS (SELECT 1 FROM entries e WHERE e.owner = h.owner AND e.hidden AND e.seq <= h.delivered AND e.time < $1)
	FROM heads h WHERE h.owner >= $2 ORDER BY h.owner LIMIT $3`

func (db *DB) trimStates(ctx context.Context, r Retention, from OwnerID) ([]trimState, error) {
	rows, err := db.read.QueryContext(long(ctx), selectTrimStates, millis(r.Hidden), from, trimPage)
	page, err := collect(rows, err, func(r row) (t trimState, err error) {
		return t, r.Scan(&t.owner, &t.head, &t.delivered, &t.floor, &t.oldest, &t.hidden)
	})
	return page, db.wrap("look for entries to remove", err)
}

// concerns tells whether a timeline may have something that goes.
func (t trimState) concerns(r Retention) bool {
	if t.hidden {
		return true
	}
	if !t.oldest.Valid {
		return false
	}
	// What is delivered goes first, unless only a later age takes the first entry.
	at := fromMillis(t.oldest.Int64)
	return r.Removes(t.floor+1, at, t.head, t.delivered) || at.Before(r.Lost)
}

// trim removes entries of one timeline. Nothing that appends waits for is locked
// until the last statement: the head is.
func (db *DB) trim(ctx context.Context, r Retention, t trimState, limit int) (removed int, err error) {
	err = db.update(ctx, fmt.Sprintf("remove entries of owner %d", t.owner), func(tx *sql.Tx) error {
		removed = 0
		if t.hidden {
			n, err := t.removeHidden(ctx, tx, r, limit)
			if err != nil {
				return err
			}
			removed += n
		}
		floor, err := t.newFloor(ctx, tx, r, limit)
		if err != nil || floor == t.floor {
			return err
		}
		n, err := affected(tx.ExecContext(ctx, `
			DELETE FROM entries WHERE owner = $1 AND seq > $2 AND seq <= $3`, t.owner, t.floor, floor))
		if err != nil {
			return err
		}
		removed += n
		return raiseFloor(ctx, tx, t.owner, floor)
	})
	return removed, err
}

// removeHidden removes hidden entries, which may leave numbers out.
func (t trimState) removeHidden(ctx context.Context, tx *sql.Tx, r Retention, limit int) (int, error) {
	return affected(tx.ExecContext(ctx, `
		DELETE FROM entries WHERE owner = $1 AND hidden AND seq <= (SELECT MAX(seq) FROM (
			SELECT seq FROM entries WHERE owner = $2 AND hidden AND seq <= $3 AND time < $4 ORDER BY seq LIMIT $5) AS step)`,
		t.owner, t.owner, t.delivered, millis(r.Hidden), limit))
}

func affected(r sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// newFloor returns the number of the last entry that goes, of the first limit ones.
func (t trimState) newFloor(ctx context.Context, tx *sql.Tx, r Retention, limit int) (uint64, error) {
	rows, err := tx.QueryContext(ctx, `
		SELECT seq, time FROM entries WHERE owner = $1 AND seq > $2 ORDER BY seq LIMIT $3`, t.owner, t.floor, limit)
	type one struct {
		seq uint64
		at  time.Time
	}
	first, err := collect(rows, err, func(r row) (o one, err error) {
		var at int64
		err = r.Scan(&o.seq, &at)
		o.at = fromMillis(at)
		return o, err
	})
	floor := t.floor
	for _, e := range first {
		if !r.Removes(e.seq, e.at, t.head, t.delivered) {
			break
		}
		floor = e.seq
	}
	return floor, err
}

// raiseFloor notes that the entries up to a number are gone, and so need not be
// delivered any more.
func raiseFloor(ctx context.Context, tx *sql.Tx, owner OwnerID, floor uint64) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE heads SET floor = CASE WHEN floor < $1 THEN $2 ELSE floor END,
			delivered = CASE WHEN delivered < $3 THEN $4 ELSE delivered END WHERE owner = $5`, floor, floor, floor, floor, owner)
	return err
}

// ClaimJob implements Archives.
func (db *DB) ClaimJob(ctx context.Context, name string, now, next time.Time) (claimed bool, err error) {
	err = db.update(ctx, "claim job "+name, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `
			INSERT INTO jobs (name, due) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET due = excluded.due WHERE jobs.due <= $3`, name, millis(next), millis(now))
		err = found(r, err, errNotDue)
		claimed = err == nil
		if errors.Is(err, errNotDue) {
			return nil
		}
		return err
	})
	return claimed && err == nil, err
}

// errNotDue: the job is somebody else's, or not due.
var errNotDue = errors.New("not due")
