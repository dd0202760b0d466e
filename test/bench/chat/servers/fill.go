//go:build linux

package servers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver

	"imlb/backend/xmpp"
)

// A large archive is written into a server's database while the server is stopped: a
// client would take hours. The server has stored some messages by itself before. Each row
// is a copy of one of those, with other users, ids, numbers and times, and goes in one
// after the other, past the server's own indexes, in the order in which it would have
// come: so rows and indexes lie as they would have come to lie.

// Fill is how much there is to be in the archives.
type Fill struct {
	User  int // entries of the first user
	Total int // of all users together; each message is in the archives of two
}

// NewestLength is how many messages a filler returns at most.
const NewestLength = 50

// fillSpan is the time over which the messages are spread at most. Prosody removes by
// default what is older than a week.
const fillSpan = 5 * 24 * time.Hour

// Check tells what cannot be.
func (f Fill) Check(users int) error {
	switch {
	case f.User < 1 || f.Total < 2*f.User || f.Total%2 != 0:
		return fmt.Errorf("%d entries of one user and %d in all: each message is in the archives of two, so in all there have to be twice as many or more, and no odd number", f.User, f.Total)
	case users < 3:
		return errors.New("it takes three users to fill archives")
	}
	return nil
}

// message is one that the archives get.
type message struct {
	number   int // from 1 on
	from, to int // users, by their numbers
	at       time.Time
}

func (f Fill) messages() int { return f.Total / 2 }

// message returns one of the messages, counted from 0. Those to the first user come from
// all others in turns, and are spread evenly among what the others write to each other.
func (f Fill) message(i, users int, end time.Time) message {
	others := users - 1
	before, after := i*f.User/f.messages(), (i+1)*f.User/f.messages()
	m := message{number: i + 1, from: 2 + before%others, to: 1, at: end.Add(-f.every() * time.Duration(f.messages()-i))}
	if before == after {
		j := i - before
		m.from, m.to = 2+j%others, 2+(j+1)%others
	}
	return m
}

// every is the time from one message to the next.
func (f Fill) every() time.Duration { return min(time.Second, fillSpan/time.Duration(f.messages())) }

// newest returns the ids of the last messages to the first user, in order.
func (f Fill) newest(users int, entry *mould) (ids []string) {
	for i := f.messages() - 1; i >= 0 && len(ids) < min(f.User, NewestLength); i-- {
		if m := f.message(i, users, time.Time{}); m.to == 1 {
			ids = append(ids, entry.id(m))
		}
	}
	slices.Reverse(ids)
	return ids
}

// layout is how a server keeps archives in SQLite.
type layout struct {
	file, table string
	owner       string   // the column that says whose an entry is
	stanza      string   // the column that has the message
	automatic   string   // the column that SQLite numbers
	stamped     []string // the columns that the ledger gives
	openLedger  func(ctx context.Context, tx *sql.Tx, users int) (ledger, error)

	recipientFirst bool // its entry is written before the sender's
}

// ledger gives entries what differs from one to the other, and is no text of a message.
type ledger interface {
	user(number int) any                   // as it is in the owner's column
	stamp(m *message, received bool) []any // of the sender's entry or the recipient's
	close(ctx context.Context, tx *sql.Tx) error
}

// fill replaces what a server has stored. After an error the database is of no use any
// more, since there is no journal.
func (l layout) fill(ctx context.Context, task Task, f Fill) (newest []string, err error) {
	if err := f.Check(task.Users); err != nil {
		return nil, err
	}
	file := filepath.Join(task.Dir, l.file)
	err = writeQuickly(ctx, file, func(tx *sql.Tx) error {
		newest, err = l.replace(ctx, tx, f, task.Users)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fill %s: %w", file, err)
	}
	return newest, syncFile(file)
}

// writeQuickly opens a database so that much is written quickly, and leaves it as it was.
func writeQuickly(ctx context.Context, file string, do func(tx *sql.Tx) error) (err error) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // pragmas are a connection's
	var mode string
	if err := db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	const quick = `PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000`
	if _, err := db.ExecContext(ctx, quick); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `PRAGMA journal_mode = `+mode)
	return err
}

// syncFile waits until a file is on the disk, so that nothing that is measured does.
func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // G304: a database that was made here
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// filling is what it takes to make entries.
type filling struct {
	layout
	Fill
	users          int
	book           ledger
	sent, received *mould
}

// replace puts the entries where those are that the server has written.
func (l layout) replace(ctx context.Context, tx *sql.Tx, f Fill, users int) (newest []string, err error) {
	w := filling{layout: l, Fill: f, users: users}
	if w.book, err = l.openLedger(ctx, tx, users); err != nil {
		return nil, err
	}
	if w.received, err = l.sample(ctx, tx, "=", w.book.user(1)); err != nil {
		return nil, err
	}
	if w.sent, err = l.sample(ctx, tx, "<>", w.book.user(1)); err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM `+l.table); err != nil { //nolint:gosec // a constant
		return nil, err
	}
	if err := w.insert(ctx, tx); err != nil {
		return nil, err
	}
	return f.newest(users, w.received), w.book.close(ctx, tx)
}

// insert writes both entries of each message.
func (w *filling) insert(ctx context.Context, tx *sql.Tx) error {
	insert, err := tx.PrepareContext(ctx, w.received.insert(w.table))
	if err != nil {
		return err
	}
	defer insert.Close()
	unwatched := context.WithoutCancel(ctx) // each statement would start a goroutine to watch it
	end := time.Now()
	for i := range w.messages() {
		m := w.message(i, w.users, end)
		for _, received := range []bool{w.recipientFirst, !w.recipientFirst} {
			if _, err := insert.ExecContext(unwatched, w.row(&m, received)...); err != nil {
				return fmt.Errorf("message %d: %w", m.number, err)
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (w *filling) row(m *message, received bool) []any {
	entry := w.sent
	if received {
		entry = w.received
	}
	return entry.row(m, w.book.stamp(m, received))
}

// sample returns an entry of the first user, or of somebody else. The first user has
// received all, the others have sent all.
func (l layout) sample(ctx context.Context, tx *sql.Tx, comparison string, user any) (*mould, error) {
	rows, err := tx.QueryContext(ctx, `SELECT * FROM `+l.table+` WHERE `+l.owner+comparison+`$1 LIMIT 1`, user) //nolint:gosec // constants
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, errors.Join(errors.New("there is no entry to copy"), rows.Err())
	}
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values := make([]any, len(columns))
	places := make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	if err := rows.Scan(places...); err != nil {
		return nil, err
	}
	return newMould(l, columns, values)
}

// mould is an entry with marks where the message's own things go. Columns that the ledger
// gives come first.
type mould struct {
	run     string // with the flow, as in the ids that the load client makes: RUN-FLOW-N
	columns []string
	values  []any
}

// What stands for what in a mould's texts.
const (
	idMark    = "\x01"
	wordsMark = "\x02" // the id, as the body says it: RUN FLOW N
	fromMark  = "\x03"
	toMark    = "\x04"
)

func newMould(l layout, columns []string, values []any) (*mould, error) {
	header, err := xmpp.ParseHeader([]byte(text(values[slices.Index(columns, l.stanza)])))
	if err != nil {
		return nil, err
	}
	last := strings.LastIndex(header.ID, "-")
	if last < 0 {
		return nil, fmt.Errorf("message %q is not the load client's", header.ID)
	}
	marks := strings.NewReplacer(header.ID, idMark, strings.ReplaceAll(header.ID, "-", " ")+" ", wordsMark+" ", bare(header.From), fromMark, bare(header.To), toMark)
	m := &mould{run: header.ID[:last], columns: slices.Clone(l.stamped)}
	for i, name := range columns {
		if name == l.automatic || slices.Contains(l.stamped, name) {
			continue
		}
		m.columns = append(m.columns, name)
		m.values = append(m.values, marked(values[i], marks.Replace))
	}
	return m, nil
}

// text is a value that is a text, as a server keeps it.
func text(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	s, _ := v.(string)
	return s
}

// marked changes the texts among the values, and leaves each of the kind that it is.
func marked(v any, change func(string) string) any {
	switch v := v.(type) {
	case []byte:
		return []byte(change(string(v)))
	case string:
		return change(v)
	default:
		return v
	}
}

func bare(address string) string {
	address, _, _ = strings.Cut(address, "/")
	return address
}

// insert is the statement for a row of the mould.
func (e *mould) insert(table string) string {
	places := strings.Repeat(", ?", len(e.columns))[2:]
	return `INSERT INTO ` + table + ` ("` + strings.Join(e.columns, `", "`) + `") VALUES (` + places + `)`
}

func (e *mould) id(m message) string { return e.run + "-" + strconv.Itoa(m.number) }

// row returns the values of an entry.
func (e *mould) row(m *message, stamps []any) []any {
	id := e.id(*m)
	fill := func(s string) string {
		s = strings.ReplaceAll(s, idMark, id)
		s = strings.ReplaceAll(s, wordsMark, strings.ReplaceAll(id, "-", " "))
		s = strings.ReplaceAll(s, fromMark, userName(m.from)+"@"+Domain)
		return strings.ReplaceAll(s, toMark, userName(m.to)+"@"+Domain)
	}
	for _, v := range e.values {
		stamps = append(stamps, marked(v, fill))
	}
	return stamps
}

// owner returns whose entry it is.
func (m *message) owner(received bool) int {
	if received {
		return m.to
	}
	return m.from
}
