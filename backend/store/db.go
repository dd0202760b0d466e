package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pressly/goose/v3"
)

// Options adjusts how a database is opened. The zero value is ready for use.
type Options struct {
	// Readers is how many queries may run at the same time; 0 means 4.
	Readers int
	// BusyTimeout is how long to wait for a lock that another process holds
	// before giving up with ErrUnavailable; 0 means 5 s.
	BusyTimeout time.Duration
	// Now is the clock that entries and records are stamped with; nil means
	// time.Now.
	Now func() time.Time
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

// Open opens a database and brings its schema up to date. The URL is
// "sqlite:PATH" or a path; the file is created, readable by its owner alone,
// when it does not exist. Several processes may open one file, on one
// machine. The context bounds the opening only.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	d, location, err := dialectOf(url)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	o = o.withDefaults()
	p, err := d.open(ctx, location, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", location, err)
	}
	db := &DB{pools: p, dialect: d, now: o.Now}
	if err := db.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", location, err), p.close())
	}
	return db, nil
}

// prepare brings the schema up to date and the hot statements into shape.
func (db *DB) prepare(ctx context.Context) error {
	if err := db.migrate(ctx); err != nil {
		return err
	}
	return db.appends.prepare(ctx, db.write)
}

// migrateAttempts bounds how often a start loses the race against other
// processes that bring the same schema up to date.
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
	for range migrateAttempts {
		if _, err = provider.Up(ctx); err == nil {
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

// update runs f in a transaction that may write. What f returns decides
// whether it is committed; the error says what was being done.
func (db *DB) update(ctx context.Context, what string, f func(*sql.Tx) error) error {
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
	if err := tx.Commit(); err != nil {
		// Not wrapped as ErrUnavailable: whether it took effect may be unknown.
		return fmt.Errorf("%s: commit: %w", what, err)
	}
	db.committed()
	return nil
}

// view runs f in a transaction that sees one state of the database.
func (db *DB) view(ctx context.Context, what string, f func(*sql.Tx) error) error {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return db.wrap(what, err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return db.wrap(what, f(tx))
}

// wrap says what was being done, and makes errors on which callers decide
// recognizable. A missing row is ErrNotFound.
func (db *DB) wrap(what string, err error) error {
	switch class := db.dialect.class(err); {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case class != nil:
		return fmt.Errorf("%s: %w: %w", what, class, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
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
