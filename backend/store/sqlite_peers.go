package store

import (
	"context"
	"database/sql"
	"fmt"
)

// The entries of one contact are found by peer_index. As an index of SQLite it would cost a
// message a fifth of what it takes to store it, and a page of the log for each entry, since
// what comes at the same time lies far apart in it. So the last entries of a timeline are
// not in it, and come to it together; until then they are few enough to be looked at.
const (
	indexStep = 64  // so many of a timeline are worth it
	indexMost = 256 // so many of a timeline come to it at a time
)

// peerEntries is dialect.byPeer. Both parts are read in the order of their numbers, as far as
// is asked for.
const peerEntries = ` FROM (
	SELECT p.seq, e.time, p.peer, e.sent, e.resource, e.stanza, e.hidden
	FROM peer_index p CROSS JOIN entries e ON e.owner = p.owner AND e.seq = p.seq
	WHERE p.owner = $1 AND p.seq > $2 AND p.seq < $3 AND p.peer = $4 AND NOT e.hidden
	UNION ALL
	SELECT ` + entryColumns + ` FROM entries
	WHERE owner = $1 AND seq > MAX($2, (SELECT indexed FROM heads WHERE owner = $1)) AND seq < $3 AND peer = $4 AND NOT hidden)`

// The statements that bring entries into peer_index.
const (
	indexEntries = `INSERT OR FAIL INTO peer_index (owner, peer, seq)
		SELECT owner, peer, seq FROM entries WHERE owner = $1 AND seq > $2 AND seq <= $3`
	raiseIndexed = `UPDATE heads SET indexed = $1 WHERE owner = $2`
)

// indexPeers brings the entries of those timelines into peer_index that have enough for it. Many
// may have at the same time; nobody has to wait for more entries than twice those that
// are new, and one step.
func (b *appending) indexPeers(ctx context.Context, tx *sql.Tx, statements *appendStatements, claims map[OwnerID]*claim) error {
	left := uint64(indexStep)
	for _, c := range claims {
		left += 2 * c.count
	}
	for owner, c := range claims {
		if c.was.head-c.was.indexed < indexStep {
			continue
		}
		if left < indexStep {
			break
		}
		upTo := min(c.was.head, c.was.indexed+min(indexMost, left))
		left -= upTo - c.was.indexed
		if _, err := tx.StmtContext(ctx, statements.index).ExecContext(ctx, owner, c.was.indexed, upTo); err != nil {
			return err
		}
		if _, err := tx.StmtContext(ctx, statements.indexed).ExecContext(ctx, upTo, owner); err != nil {
			return err
		}
	}
	return nil
}

// indexRestored brings all entries of a timeline into peer_index.
func indexRestored(ctx context.Context, tx *sql.Tx, owner OwnerID, head uint64) error {
	var indexed uint64
	if err := tx.QueryRowContext(ctx, `SELECT indexed FROM heads WHERE owner = $1`, owner).Scan(&indexed); err != nil {
		return fmt.Errorf("index of contacts: %w", err)
	}
	if _, err := tx.ExecContext(ctx, indexEntries, owner, indexed, head); err != nil {
		return fmt.Errorf("index contacts: %w", err)
	}
	_, err := tx.ExecContext(ctx, raiseIndexed, head, owner)
	return err
}
