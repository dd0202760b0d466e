package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgresAppender stores batches in two round trips: one fences the sessions and
// claims the numbers, the other writes the entries and commits. Each is one
// statement for all rows, whatever the batch's size, and locks its rows in
// their order.
type postgresAppender struct{ pool *pgxpool.Pool }

// The statements of a batch. The rows to change are locked in a step of their own
// because UPDATE has no order.
const (
	pgFence = `
		WITH want AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS w (id, epoch, handled)),
		locked AS MATERIALIZED (
			SELECT s.id, s.epoch, w.handled FROM want w JOIN sessions s ON s.id = w.id AND s.epoch = w.epoch
			ORDER BY s.id FOR NO KEY UPDATE OF s)
		UPDATE sessions s SET handled = COALESCE(l.handled, s.handled)
		FROM locked l WHERE s.id = l.id AND s.epoch = l.epoch RETURNING s.id, s.epoch`
	pgClaim = `
		WITH want AS (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS w (owner, count)),
		locked AS MATERIALIZED (
			SELECT h.owner, w.count FROM want w JOIN heads h ON h.owner = w.owner
			ORDER BY h.owner FOR NO KEY UPDATE OF h)
		UPDATE heads h SET head = h.head + l.count, time = GREATEST(h.time, $3)
		FROM locked l WHERE h.owner = l.owner RETURNING h.owner, h.head, h.time`
	pgInsert = `
		INSERT INTO entries (owner, seq, time, peer, sent, resource, stanza)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::boolean[], $6::text[], $7::bytea[])`
	pgRaise = `
		UPDATE heads SET time = w.time FROM unnest($1::bigint[], $2::bigint[]) AS w (owner, time) WHERE heads.owner = w.owner`
)

// pgRaiseDelivered sets the delivered numbers of many timelines without holding
// up the appends to them any longer than one statement takes.
const pgRaiseDelivered = `
	WITH want AS (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS w (owner, seq)),
	locked AS MATERIALIZED (
		SELECT h.owner, LEAST(h.head, w.seq) AS seq FROM want w JOIN heads h ON h.owner = w.owner
		WHERE h.delivered < LEAST(h.head, w.seq) ORDER BY h.owner FOR NO KEY UPDATE OF h)
	UPDATE heads h SET delivered = l.seq FROM locked l WHERE h.owner = l.owner AND h.delivered < l.seq`

// commitTimeout is how long the second round trip may take before the
// connection is given up. It does not end with the caller's context, after which
// nobody would know what became of it.
const commitTimeout = 30 * time.Second

// run implements pools.append. Its error says whether the transaction may have
// been committed.
func (p *postgresAppender) run(ctx context.Context, b *appending) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return classified(postgresClass, "connect", err)
	}
	defer conn.Release() // which closes a connection whose transaction is open
	b.begin()
	claims, err := p.claim(ctx, conn.Conn(), b)
	if err != nil {
		return classified(postgresClass, "fence sessions and claim numbers", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	if err := p.commit(ctx, conn.Conn(), b, claims); err != nil {
		return classified(postgresCommitClass, "insert entries and commit", err)
	}
	return nil
}

// claim is the first round trip. When messages turn out to be refused, the
// transaction is undone, and the error is errRefused.
func (p *postgresAppender) claim(ctx context.Context, conn *pgx.Conn, b *appending) (map[OwnerID]*claim, error) {
	sessions, claims := b.sessions(), b.counts()
	refused := false
	var steps pgx.Batch
	steps.Queue(`BEGIN`)
	if len(sessions) > 0 {
		queueFence(&steps, sessions).Query(func(rows pgx.Rows) error {
			more, err := b.keepOwned(rows, sessions)
			refused = refused || more
			return err
		})
	}
	if len(claims) > 0 {
		queueClaim(&steps, claims, b.now).Query(func(rows pgx.Rows) error {
			more, err := b.keepClaimed(rows, claims)
			refused = refused || more
			return err
		})
	}
	if err := conn.SendBatch(ctx, &steps).Close(); err != nil {
		return nil, err
	}
	if !refused {
		return claims, nil
	}
	if _, err := conn.Exec(ctx, `ROLLBACK`); err != nil {
		return nil, fmt.Errorf("undo: %w", err)
	}
	return nil, errRefused
}

func queueFence(steps *pgx.Batch, sessions map[fencing]*uint32) *pgx.QueuedQuery {
	var ids []string
	var epochs []int64
	var handled []*uint32
	for _, s := range slices.SortedFunc(maps.Keys(sessions), compareFencings) {
		ids = append(ids, s.session)
		epochs = append(epochs, int64(storable(s.epoch))) //nolint:gosec // it fits
		handled = append(handled, sessions[s])
	}
	return steps.Queue(pgFence, ids, epochs, handled)
}

// keepOwned notes which sessions are owned elsewhere.
func (b *appending) keepOwned(rows pgx.Rows, sessions map[fencing]*uint32) (refused bool, err error) {
	owned := make(map[fencing]bool, len(sessions))
	var s fencing
	_, err = pgx.ForEachRow(rows, []any{&s.session, &s.epoch}, func() error {
		owned[s] = true
		return nil
	})
	if err != nil {
		return false, err
	}
	for s := range sessions {
		if !owned[s] {
			b.fenced[s] = true
			refused = true
		}
	}
	return refused, nil
}

func queueClaim(steps *pgx.Batch, claims map[OwnerID]*claim, now int64) *pgx.QueuedQuery {
	var owners []OwnerID
	var counts []int64
	for _, owner := range slices.Sorted(maps.Keys(claims)) {
		owners = append(owners, owner)
		counts = append(counts, int64(claims[owner].count)) //nolint:gosec // it fits
	}
	return steps.Queue(pgClaim, owners, counts, now)
}

// keepClaimed fills in the claims and notes which owners are missing.
func (b *appending) keepClaimed(rows pgx.Rows, claims map[OwnerID]*claim) (refused bool, err error) {
	var owner OwnerID
	var head uint64
	var at int64
	_, err = pgx.ForEachRow(rows, []any{&owner, &head, &at}, func() error {
		claims[owner].take(head, at)
		return nil
	})
	if err != nil {
		return false, err
	}
	for owner, c := range claims {
		if c.next == 0 {
			b.missing[owner] = true
			refused = true
		}
	}
	return refused, nil
}

// commit is the second round trip.
func (p *postgresAppender) commit(ctx context.Context, conn *pgx.Conn, b *appending, claims map[OwnerID]*claim) error {
	var steps pgx.Batch
	if len(claims) > 0 {
		queueInsert(&steps, b, claims)
		queueRaise(&steps, claims)
	} else {
		b.number(claims)
	}
	steps.Queue(`COMMIT`)
	return conn.SendBatch(ctx, &steps).Close()
}

func queueInsert(steps *pgx.Batch, b *appending, claims map[OwnerID]*claim) {
	b.number(claims)
	var owners []OwnerID
	var seqs, times []int64
	var peers, resources []string
	var sent []bool
	var stanzas [][]byte
	for i, a := range b.batch {
		for j, seq := range b.done[i].Seqs {
			d := a.Drafts[j]
			owners = append(owners, d.Owner)
			seqs = append(seqs, int64(seq)) //nolint:gosec // it came as one
			times = append(times, millis(b.done[i].Time))
			peers = append(peers, d.Peer)
			sent = append(sent, d.Sent)
			resources = append(resources, d.Resource)
			stanzas = append(stanzas, notNull(d.Stanza))
		}
	}
	steps.Queue(pgInsert, owners, seqs, times, peers, sent, resources, stanzas)
}

// queueRaise corrects the heads that got a time ahead of their own.
func queueRaise(steps *pgx.Batch, claims map[OwnerID]*claim) {
	var owners []OwnerID
	var times []int64
	for owner, c := range claims {
		if c.time > c.floor {
			owners = append(owners, owner)
			times = append(times, c.time)
		}
	}
	if len(owners) > 0 {
		steps.Queue(pgRaise, owners, times)
	}
}

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
			SELECT seq, time, peer, sent, resource, stanza FROM entries WHERE owner = $1 AND seq = $2`, d.Owner, done.Seqs[i]))
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
