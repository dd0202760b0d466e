package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pressly/goose/v3"
)

// Options adjusts how a database is opened. The zero value is ready for use.
type Options struct {
	// Readers is how many queries may run at the same time; 0 means 4. With
	// PostgreSQL, pool_max_conns in the URL goes before it.
	Readers int
	// BusyTimeout is how long to wait for a lock that another process holds
	// before giving up with ErrUnavailable; 0 means 5 s. With PostgreSQL,
	// lock_timeout in the URL goes before it.
	BusyTimeout time.Duration
	// Now is the clock that entries and records are stamped with; nil means
	// time.Now.
	Now func() time.Time
	// Existing makes a file of SQLite that is not there an error, fs.ErrNotExist, instead
	// of a new database.
	Existing bool
	// Logger hears of what goes wrong behind the callers' backs; nil means
	// nobody does.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// DB is a Store in an SQL database.
type DB struct {
	*pools
	dialect dialect
	now     func() time.Time
	appends appendStatements
}

var _ Store = (*DB)(nil)

// Open opens a database and brings its schema up to date. The URL is one of
//
//	sqlite:PATH or a path
//	postgres://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE&…
//
// An SQLite file is created, readable by its owner alone, when it does not
// exist; several processes may open one, on one machine. A PostgreSQL URL is
// one of libpq (PostgreSQL's manual, §34.1.1.2), the environment included;
// options that are not libpq's are settings of the server's session. The
// context bounds the opening only.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	d, location, shown, err := dialectOf(url)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	o = o.withDefaults()
	p, err := d.open(ctx, location, o)
	if err != nil {
		return nil, classified(d.class, "open database "+shown, err)
	}
	db := &DB{pools: p, dialect: d, now: o.Now}
	if err := db.prepare(ctx); err != nil {
		return nil, errors.Join(classified(d.class, "open database "+shown, err), p.close())
	}
	return db, nil
}

// prepare brings the schema up to date and the hot statements into shape.
func (db *DB) prepare(ctx context.Context) error {
	if err := db.migrate(ctx); err != nil || db.append != nil {
		return err
	}
	return db.appends.prepare(ctx, db.write)
}

// Writers returns how many batches are best appended at the same time.
func (db *DB) Writers() int { return db.writers }

// migrateAttempts bounds how often a start may fail to bring the schema up to date, not
// counting the races that it loses against other processes which do the same: each step once.
const migrateAttempts = 10

// migrate brings the schema up to date. Each step is one transaction together
// with its line in the table of versions. So when several processes start on
// one database, one of them takes a step and the others fail at it without
// a trace; they look again, and find it done.
func (db *DB) migrate(ctx context.Context) error {
	steps, err := db.dialect.migrations()
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	provider, err := goose.NewProvider(db.dialect.name, db.write, steps, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	for range len(provider.ListSources()) + migrateAttempts {
		if _, err = provider.Up(long(ctx)); err == nil {
			return checkVersion(ctx, provider)
		}
	}
	return fmt.Errorf("migrate: %w", err)
}

// checkVersion refuses a schema that a later version of the program has made.
func checkVersion(ctx context.Context, provider *goose.Provider) error {
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if current > known {
		return fmt.Errorf("the schema has version %d, and this program knows those up to %d", current, known)
	}
	return nil
}

// Ping implements Store.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	return db.wrap("ping", db.read.QueryRowContext(ctx, `SELECT 1 FROM leases UNION ALL SELECT 1 LIMIT 1`).Scan(&one))
}

// Close ends the connections and waits for what runs on them.
func (db *DB) Close() error { return db.close() }

// errConflict is ErrUnavailable for the reason that two transactions were in each
// other's way, and this one was chosen to be undone.
var errConflict = fmt.Errorf("in the way of another transaction: %w", ErrUnavailable)

// conflictAttempts bounds how often a transaction is run that is in the way of
// others.
const conflictAttempts = 10

// repeat runs a transaction until it is not in the way of another.
func repeat(ctx context.Context, transaction func() error) error {
	for attempt := 1; ; attempt++ {
		err := transaction()
		if attempt == conflictAttempts || !errors.Is(err, errConflict) {
			return err
		}
		pause := rand.N(time.Duration(attempt) * 5 * time.Millisecond) //nolint:gosec // it spreads attempts and guards nothing
		if wait(ctx, pause) != nil {
			return err
		}
	}
}

// update runs f in a transaction that may write, again if it was in the way of
// another. What f returns decides whether it is committed; the error says
// what was being done.
func (db *DB) update(ctx context.Context, what string, f func(*sql.Tx) error) error {
	return repeat(ctx, func() error { return db.transact(ctx, what, f) })
}

func (db *DB) transact(ctx context.Context, what string, f func(*sql.Tx) error) error {
	if db.group != nil {
		err, commitErr := db.group.do(ctx, f)
		return db.committing(what, err, commitErr)
	}
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return db.wrap(what, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	if err := f(tx); err != nil {
		if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
			err = ctx.Err() // which has ended the transaction
		}
		return db.wrap(what, err)
	}
	return db.committing(what, nil, tx.Commit())
}

// updateSurely is update for what may run again when nobody knows whether it was committed, which f is told: the
// database is waited for, until ctx ends.
func (db *DB) updateSurely(ctx context.Context, what string, f func(tx *sql.Tx, doubtful bool) error) error {
	err := db.update(ctx, what, func(tx *sql.Tx) error { return f(tx, false) })
	if !errors.Is(err, ErrOutcomeUnknown) {
		return err
	}
	for wait(ctx, outcomePause) == nil {
		again := db.update(ctx, what, func(tx *sql.Tx) error { return f(tx, true) })
		away := ctx.Err() != nil || errors.Is(again, ErrOutcomeUnknown) || errors.Is(again, ErrUnavailable)
		if again == nil || !away {
			return again
		}
	}
	return err
}

// committing makes one error of what came of a transaction and of its commit.
func (db *DB) committing(what string, err, commitErr error) error {
	switch {
	case err != nil:
		return db.wrap(what, err)
	case commitErr != nil:
		return classified(db.dialect.commitClass, what+": commit", commitErr)
	}
	db.committed()
	return nil
}

// view runs f in a transaction that sees one state of the database.
func (db *DB) view(ctx context.Context, what string, f func(*sql.Tx) error) error {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: db.dialect.snapshot})
	if err != nil {
		return db.wrap(what, err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return db.wrap(what, f(tx))
}

// wrap says what was being done, and makes errors on which callers decide
// recognizable. A missing row is ErrNotFound.
func (db *DB) wrap(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return classified(db.dialect.class, what, err)
}

// classified says what was being done, and which of this package's errors
// class finds in an error.
func classified(class func(error) error, what string, err error) error {
	if c := class(err); c != nil {
		return fmt.Errorf("%s: %w: %w", what, c, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// found turns "no row was changed" into an error.
func found(r sql.Result, err, otherwise error) error {
	if err != nil {
		return err
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		return otherwise
	}
	return err
}

// millis and fromMillis convert to and from the resolution that is stored.
func millis(t time.Time) int64 { return t.UnixMilli() }

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// collect reads all rows of a query.
func collect[T any](rows *sql.Rows, err error, scan func(row) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// row is what *sql.Row and *sql.Rows have in common.
type row interface{ Scan(dest ...any) error }
