package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// storable brings a number from outside into the range of an SQL integer. No
// stored number reaches the end of it, so that the order is kept.
func storable(n uint64) uint64 { return min(n, math.MaxInt64) }

// entryColumns reads and writes an entry whole.
const entryColumns = `seq, time, peer, sent, resource, stanza, hidden`

const insertEntry = `INSERT INTO entries (owner, ` + entryColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// insertedAtOnce is how many entries of a batch one statement writes.
const insertedAtOnce = 8

// insertStatement is insertEntry for n entries. When one of them cannot be written its
// transaction is undone, so SQLite need not note what it would take to undo the others.
func insertStatement(n int) string {
	return strings.Replace(insertEntry, "INSERT", "INSERT OR FAIL", 1) + strings.Repeat(`, (?, ?, ?, ?, ?, ?, ?, ?)`, n-1)
}

// Read implements Timelines.
func (db *DB) Read(ctx context.Context, owner OwnerID, after uint64, limit int) ([]Entry, error) {
	rows, err := db.read.QueryContext(ctx, `
		SELECT `+entryColumns+` FROM entries
		WHERE owner = $1 AND seq > $2 ORDER BY seq LIMIT $3`, owner, storable(after), max(limit, 0))
	page, err := collect(rows, err, scanEntry)
	return page, db.wrap(fmt.Sprintf("read timeline of owner %d", owner), err)
}

func scanEntry(r row) (Entry, error) {
	var e Entry
	var at int64
	err := r.Scan(&e.Seq, &at, &e.Peer, &e.Sent, &e.Resource, &e.Stanza, &e.Hidden)
	e.Time = fromMillis(at)
	return e, err
}

// Head implements Timelines.
func (db *DB) Head(ctx context.Context, owner OwnerID) (head, delivered uint64, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT head, delivered FROM heads WHERE owner = $1`, owner).Scan(&head, &delivered)
	if err != nil {
		return 0, 0, db.wrap(fmt.Sprintf("head of owner %d", owner), err)
	}
	return head, delivered, nil
}

// SetDelivered implements Timelines.
func (db *DB) SetDelivered(ctx context.Context, delivered map[OwnerID]uint64) error {
	if len(delivered) == 0 {
		return nil
	}
	owners := slices.Sorted(maps.Keys(delivered))
	if db.raiseDelivered != "" {
		return db.update(ctx, "set delivered numbers", func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, db.raiseDelivered, owners, numbersOf(owners, delivered))
			return err
		})
	}
	for some := range slices.Chunk(owners, setAtOnce) {
		err := db.update(ctx, "set delivered numbers", func(tx *sql.Tx) error {
			return db.setDelivered(context.WithoutCancel(ctx), tx, some, delivered)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// setAtOnce is for how many timelines or sessions something is set in one transaction, where
// each takes a statement: those who append wait for it.
const setAtOnce = 250

func (db *DB) setDelivered(ctx context.Context, tx *sql.Tx, owners []OwnerID, delivered map[OwnerID]uint64) error {
	set := tx.StmtContext(ctx, db.appends.deliver)
	for _, owner := range owners {
		seq := storable(delivered[owner])
		if _, err := set.ExecContext(ctx, seq, seq, owner, seq); err != nil {
			return fmt.Errorf("owner %d: %w", owner, err)
		}
	}
	return nil
}

func numbersOf(owners []OwnerID, delivered map[OwnerID]uint64) []uint64 {
	numbers := make([]uint64, len(owners))
	for i, owner := range owners {
		numbers[i] = storable(delivered[owner])
	}
	return numbers
}
