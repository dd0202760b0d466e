package store

import (
	"context"
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
		FROM locked l WHERE h.owner = l.owner RETURNING h.owner, h.head, h.time, h.delivered, h.choosy`
	pgInsert = `
		INSERT INTO entries (owner, ` + entryColumns + `)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::boolean[], $6::text[], $7::bytea[], $8::boolean[])`
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

// pgSetPoints sets where many sessions stand. A row that it had to wait for is looked at once
// more, but not the session's, which may have another owner by then: the point says so.
const pgSetPoints = `
	UPDATE resumables r SET point = w.point, count = w.count, pos = w.pos, claimed = w.claimed, voided = w.voided, early = w.early,
		roster = w.roster, blocklist = w.blocklist
	FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bigint[],
		$10::bigint[]) AS w (id, epoch, point, count, pos, claimed, voided, early, roster, blocklist)
	JOIN sessions s ON s.id = w.id AND s.epoch = w.epoch WHERE r.session = w.id AND r.point <= w.point`

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
	if !refused && !b.crowd(claims) {
		return claims, b.judge(ctx, claims, pgReader{conn})
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
	var h timelineHead
	_, err = pgx.ForEachRow(rows, []any{&owner, &h.head, &h.time, &h.delivered, &h.choosy}, func() error {
		claims[owner].take(h)
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
	var rows entryRows
	for i, a := range b.batch {
		for j, seq := range b.done[i].Seqs {
			d := a.Drafts[j]
			rows.add(d.Owner, Entry{
				Seq: seq, Time: b.done[i].Time, Peer: d.Peer, Sent: d.Sent, Resource: d.Resource,
				Stanza: d.Stanza, Hidden: b.hides(i, j),
			})
		}
	}
	steps.Queue(pgInsert, rows.columns()...)
}

// entryRows are entries by columns.
type entryRows struct {
	owners           []OwnerID
	seqs, times      []int64
	peers, resources []string
	sent, hidden     []bool
	stanzas          [][]byte
}

func (r *entryRows) add(owner OwnerID, e Entry) {
	r.owners = append(r.owners, owner)
	r.seqs = append(r.seqs, int64(storable(e.Seq))) //nolint:gosec // it fits
	r.times = append(r.times, millis(e.Time))
	r.peers = append(r.peers, e.Peer)
	r.sent = append(r.sent, e.Sent)
	r.resources = append(r.resources, e.Resource)
	r.stanzas = append(r.stanzas, notNull(e.Stanza))
	r.hidden = append(r.hidden, e.Hidden)
}

// columns are the arguments of pgInsert.
func (r *entryRows) columns() []any {
	return []any{r.owners, r.seqs, r.times, r.peers, r.sent, r.resources, r.stanzas, r.hidden}
}

// queueRaise corrects the heads that got a time ahead of their own.
func queueRaise(steps *pgx.Batch, claims map[OwnerID]*claim) {
	var owners []OwnerID
	var times []int64
	for owner, c := range claims {
		if c.time > c.was.time {
			owners = append(owners, owner)
			times = append(times, c.time)
		}
	}
	if len(owners) > 0 {
		steps.Queue(pgRaise, owners, times)
	}
}
