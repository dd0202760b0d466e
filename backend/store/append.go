package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// AppendBatch implements Timelines. The steps, and why in this order: fence the
// sessions first, so that a message of a session that is owned elsewhere takes
// no number; then hand out each timeline's numbers with one update; then
// write the entries. Sessions and timelines are each touched once, in sorted
// order, so that batches of several processes cannot lock each other out.
func (db *DB) AppendBatch(ctx context.Context, batch []Append) ([]Appended, error) {
	what := fmt.Sprintf("append %d messages", len(batch))
	b := appending{batch: batch, clock: db.now, fenced: make(map[fencing]bool), missing: make(map[OwnerID]bool)}
	for {
		err := db.appendOnce(ctx, what, &b)
		switch {
		case errors.Is(err, errRefused):
			continue // without them: there are fewer each time
		case errors.Is(err, ErrOutcomeUnknown):
			return db.settled(ctx, &b, err)
		case err != nil:
			return nil, err
		}
		return b.done, nil
	}
}

// appendOnce runs the transaction in the database's own way.
func (db *DB) appendOnce(ctx context.Context, what string, b *appending) error {
	if db.append != nil {
		return repeat(ctx, func() error {
			if err := db.append(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	known := b.refused()
	return db.update(ctx, what, func(tx *sql.Tx) error {
		b.fenced, b.missing, b.full = known() // not what a transaction has shown that was undone
		// A transaction that has begun waits for nothing, and ends with ctx; to
		// have each statement watch ctx as well costs a quarter of the time.
		return b.run(context.WithoutCancel(ctx), tx, &db.appends)
	})
}

// settled answers for a batch of which the database has not said whether it
// was committed.
func (db *DB) settled(ctx context.Context, b *appending, unknown error) ([]Appended, error) {
	stored, err := db.settle(ctx, b)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", unknown, err)
	case !stored:
		return nil, fmt.Errorf("append %d messages: the connection was lost: %w", len(b.batch), ErrUnavailable)
	}
	return b.done, nil
}

// errRefused undoes a transaction in which messages turned out to be refused
// after numbers had been handed out, to them or to others.
var errRefused = errors.New("messages are refused")

// claimedAtOnce is how many timelines one statement moves the heads of; what is over
// is NULL.
const claimedAtOnce = 16

func claimStatement() string {
	return `UPDATE OR FAIL heads SET head = head + w.column2, time = MAX(time, $1)
		FROM (VALUES (?, ?)` + strings.Repeat(`, (?, ?)`, claimedAtOnce-1) + `) AS w
		WHERE owner = w.column1 RETURNING owner, head, time, delivered, choosy, indexed`
}

// appendStatements are prepared once: they make up nearly all of the work where
// a batch takes a statement for each row.
type appendStatements struct {
	fence, claim, insert, insertMany, raise, index, indexed, deliver *sql.Stmt
}

func (s *appendStatements) prepare(ctx context.Context, db *sql.DB) error {
	for _, p := range []struct {
		statement **sql.Stmt
		text      string
	}{
		// NULL leaves the count as it is.
		{&s.fence, `UPDATE sessions SET handled = COALESCE($1, handled) WHERE id = $2 AND epoch = $3`},
		{&s.claim, claimStatement()},
		{&s.insert, insertEntry},
		{&s.insertMany, insertStatement(insertedAtOnce)},
		{&s.index, indexEntries},
		{&s.indexed, raiseIndexed},
		{&s.deliver, `UPDATE heads SET delivered = CASE WHEN head < $1 THEN head ELSE $2 END WHERE owner = $3 AND delivered < $4`},
		{&s.raise, `UPDATE heads SET time = $1 WHERE owner = $2`},
	} {
		var err error
		if *p.statement, err = db.PrepareContext(ctx, p.text); err != nil {
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
	}
	return nil
}

// appending is one batch on its way into the database.
type appending struct {
	batch   []Append
	clock   func() time.Time
	now     int64 // of this attempt
	done    []Appended
	fenced  map[fencing]bool // sessions that are known to be owned elsewhere
	missing map[OwnerID]bool // owners that are known not to exist
	full    map[int]bool     // messages, by their place, for which there is known to be no room
	hidden  map[place]bool   // entries that their owners do not want archived
}

// refused returns what gives what is known now of messages that are refused.
func (b *appending) refused() func() (map[fencing]bool, map[OwnerID]bool, map[int]bool) {
	fenced, missing, full := b.fenced, b.missing, b.full
	return func() (map[fencing]bool, map[OwnerID]bool, map[int]bool) {
		return maps.Clone(fenced), maps.Clone(missing), maps.Clone(full)
	}
}

// fencing is what the messages of one session come to.
type fencing struct {
	session string
	epoch   uint64
}

// begin starts an attempt's answers: it marks the messages that are known to be
// refused.
func (b *appending) begin() {
	b.now = millis(b.clock())
	b.done = make([]Appended, len(b.batch))
	for i, a := range b.batch {
		switch {
		case a.Session != "" && b.fenced[fencing{a.Session, a.Epoch}]:
			b.done[i].Err = fmt.Errorf("session %s at epoch %d: %w", a.Session, a.Epoch, ErrFenced)
		case b.homeless(a):
			b.done[i].Err = fmt.Errorf("timeline: %w", ErrNotFound)
		case b.full[i]:
			b.done[i].Err = fmt.Errorf("timeline: %w", ErrFull)
		}
	}
}

// run takes the steps within a transaction.
func (b *appending) run(ctx context.Context, tx *sql.Tx, statements *appendStatements) error {
	if err := b.fence(ctx, tx.StmtContext(ctx, statements.fence)); err != nil {
		return fmt.Errorf("fence sessions: %w", err)
	}
	b.begin()
	claims, err := b.claim(ctx, tx.StmtContext(ctx, statements.claim))
	if err != nil {
		return fmt.Errorf("claim numbers: %w", err)
	}
	if err := b.judge(ctx, claims, txReader{tx}); err != nil {
		return fmt.Errorf("archive preferences: %w", err)
	}
	b.number(claims)
	if err := b.insert(ctx, tx.StmtContext(ctx, statements.insert), tx.StmtContext(ctx, statements.insertMany)); err != nil {
		return fmt.Errorf("insert entries: %w", err)
	}
	if err := b.raise(ctx, tx.StmtContext(ctx, statements.raise), claims); err != nil {
		return fmt.Errorf("raise times: %w", err)
	}
	if err := b.indexPeers(ctx, tx, statements, claims); err != nil {
		return fmt.Errorf("index contacts: %w", err)
	}
	return nil
}

// fence stores the sessions' handled counts, and notes which sessions are owned
// elsewhere.
func (b *appending) fence(ctx context.Context, update *sql.Stmt) error {
	sessions := b.sessions()
	for _, s := range slices.SortedFunc(maps.Keys(sessions), compareFencings) {
		r, err := update.ExecContext(ctx, sessions[s], s.session, storable(s.epoch))
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			b.fenced[s] = true
		}
	}
	return nil
}

// sessions returns the sessions of the batch that are not known to be owned
// elsewhere, with their last handled counts: nil for one that has only
// messages which cannot be stored.
func (b *appending) sessions() map[fencing]*uint32 {
	sessions := make(map[fencing]*uint32)
	for i := range b.batch {
		a := &b.batch[i]
		s := fencing{a.Session, a.Epoch}
		switch {
		case a.Session == "" || b.fenced[s]:
		case !b.full[i] && !b.homeless(*a):
			sessions[s] = &a.Handled
		case sessions[s] == nil:
			sessions[s] = nil
		}
	}
	return sessions
}

func compareFencings(a, b fencing) int {
	return cmp.Or(cmp.Compare(a.session, b.session), cmp.Compare(a.epoch, b.epoch))
}

// homeless reports whether a message names an owner that does not exist.
func (b *appending) homeless(a Append) bool {
	return len(b.missing) > 0 &&
		slices.ContainsFunc(a.Drafts, func(d Draft) bool { return b.missing[d.Owner] })
}

// claim moves the heads of all timelines that get entries.
func (b *appending) claim(ctx context.Context, update *sql.Stmt) (map[OwnerID]*claim, error) {
	claims := b.counts()
	owners := slices.Sorted(maps.Keys(claims))
	args := make([]any, 1+2*claimedAtOnce)
	args[0] = b.now
	for some := range slices.Chunk(owners, claimedAtOnce) {
		clear(args[1:])
		for i, owner := range some {
			args[1+2*i], args[2+2*i] = owner, claims[owner].count
		}
		rows, err := update.QueryContext(ctx, args...)
		if err := takeClaims(rows, err, claims); err != nil {
			return nil, err
		}
	}
	missing := false
	for _, owner := range owners {
		if claims[owner].was.head == 0 {
			b.missing[owner], missing = true, true
		}
	}
	if missing || b.crowd(claims) {
		return nil, errRefused
	}
	return claims, nil
}

func takeClaims(rows *sql.Rows, err error, claims map[OwnerID]*claim) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var owner OwnerID
		var h timelineHead
		if err := rows.Scan(&owner, &h.head, &h.time, &h.delivered, &h.choosy, &h.indexed); err != nil {
			return err
		}
		claims[owner].take(h)
	}
	return rows.Err()
}

// counts returns how many entries each timeline gets.
func (b *appending) counts() map[OwnerID]*claim {
	claims := make(map[OwnerID]*claim)
	for i, a := range b.batch {
		if b.done[i].Err != nil {
			continue
		}
		for _, d := range a.Drafts {
			if claims[d.Owner] == nil {
				claims[d.Owner] = new(claim)
			}
			claims[d.Owner].count++
		}
	}
	return claims
}

// insert writes the entries.
func (b *appending) insert(ctx context.Context, one, many *sql.Stmt) error {
	const columns = 8
	args := make([]any, 0, insertedAtOnce*columns)
	for i, a := range b.batch {
		done := b.done[i]
		for j, seq := range done.Seqs {
			d := &a.Drafts[j]
			args = append(args, d.Owner, seq, millis(done.Time), d.Peer, d.Sent, d.Resource, notNull(d.Stanza), b.hides(i, j))
			if len(args) < cap(args) {
				continue
			}
			if _, err := many.ExecContext(ctx, args...); err != nil {
				return err
			}
			args = args[:0]
		}
	}
	for ; len(args) > 0; args = args[columns:] {
		if _, err := one.ExecContext(ctx, args[:columns]...); err != nil {
			return fmt.Errorf("owner %v, number %v: %w", args[0], args[1], err)
		}
	}
	return nil
}

// raise corrects the heads that got a time ahead of their own, which happens
// only where clocks differ.
func (b *appending) raise(ctx context.Context, update *sql.Stmt, claims map[OwnerID]*claim) error {
	for _, owner := range slices.Sorted(maps.Keys(claims)) {
		if c := claims[owner]; c.time > c.was.time {
			if _, err := update.ExecContext(ctx, c.time, owner); err != nil {
				return err
			}
		}
	}
	return nil
}
