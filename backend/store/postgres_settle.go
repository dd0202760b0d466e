package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"time"
)

// The pauses between attempts to learn what became of a batch, and how long that
// is tried: a server that has crashed needs seconds to come back.
const (
	outcomePause    = 50 * time.Millisecond
	outcomePatience = 30 * time.Second
)

// settle finds out whether a batch was committed whose connection was lost
// while it was. An error means that it could not be learnt.
func (db *DB) settle(ctx context.Context, b *appending) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, outcomePatience)
	defer cancel()
	for {
		if stored, err = db.isStored(ctx, b); err == nil {
			return stored, nil
		}
		if wait(ctx, outcomePause) != nil {
			return false, err
		}
	}
}

// isStored looks for the first thing that the batch would have left behind: it
// was one transaction, so one thing stands for all of it. The row that the
// transaction changes as well is locked before, so that one which still runs
// is waited for.
func (db *DB) isStored(ctx context.Context, b *appending) (stored bool, err error) {
	err = db.update(ctx, "look for what was appended", func(tx *sql.Tx) error {
		for i, a := range b.batch {
			if b.done[i].Err != nil {
				continue
			}
			var known bool
			stored, known, err = db.trace(ctx, tx, b.sessions(), a, b.done[i])
			if known || err != nil {
				return err
			}
		}
		return nil // all that it was about has been deleted since
	})
	return stored, err
}

// trace looks for what is left of one message. It is not known when the timelines
// and the session that it was for are gone.
func (db *DB) trace(ctx context.Context, tx *sql.Tx, sessions map[fencing]*uint32, a Append, done Appended) (stored, known bool, err error) {
	for i, d := range a.Drafts {
		var head uint64
		err := tx.QueryRowContext(ctx, `SELECT head FROM heads WHERE owner = $1`+db.dialect.locks.change, d.Owner).Scan(&head)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil || head < done.Seqs[i] {
			return false, true, err
		}
		// Had somebody else taken the number, it would have another content or time.
		e, err := scanEntry(tx.QueryRowContext(ctx, `
			SELECT `+entryColumns+` FROM entries WHERE owner = $1 AND seq = $2`, d.Owner, done.Seqs[i]))
		same := e.Time.Equal(done.Time) && e.Peer == d.Peer && e.Sent == d.Sent && bytes.Equal(e.Stanza, d.Stanza)
		return err == nil && same, true, err
	}
	last := sessions[fencing{a.Session, a.Epoch}]
	if len(a.Drafts) > 0 || last == nil {
		return false, false, nil
	}
	var handled uint32
	err = tx.QueryRowContext(ctx, `SELECT handled FROM sessions WHERE id = $1`+db.dialect.locks.change, a.Session).Scan(&handled)
	if errors.Is(err, sql.ErrNoRows) {
		return false, false, nil
	}
	return handled == *last, true, err
}
