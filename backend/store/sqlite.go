package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

func sqliteDialect() dialect {
	return dialect{
		name:        goose.DialectSQLite3,
		open:        openSQLite,
		migrations:  func() (fs.FS, error) { return fs.Sub(sqliteMigrations, "migrations/sqlite") },
		class:       sqliteClass,
		clock:       `CAST(round(unixepoch('subsec') * 1000) AS INTEGER)`,
		byPeer:      peerEntries,
		commitClass: sqliteClass, // nothing stays of a commit that failed
	}
}

// sqliteClass implements dialect.class. A disk that is full, fails or can only be read is there
// again when somebody has seen to it, like a server that says so (see pgUnavailable).
func sqliteClass(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return nil
	}
	switch e.Code() {
	case sqlitelib.SQLITE_CONSTRAINT_UNIQUE, sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return ErrExists
	}
	switch primaryCode(e) {
	case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED, sqlitelib.SQLITE_FULL, sqlitelib.SQLITE_IOERR, sqlitelib.SQLITE_READONLY:
		return ErrUnavailable
	}
	return nil
}

// primaryCode is the result code of which an extended one is a case.
func primaryCode(e *sqlite.Error) int { return e.Code() & 0xff }

// isBusy tells whether somebody else has the lock that is needed.
func isBusy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (primaryCode(e) == sqlitelib.SQLITE_BUSY || primaryCode(e) == sqlitelib.SQLITE_LOCKED)
}

// openSQLite opens a file with one connection that writes, several that read,
// and one that moves what was written from the log into the database.
func openSQLite(ctx context.Context, path string, o Options) (*pools, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("a database in memory is not supported: give the path of a file")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if o.Existing {
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
	}
	if err := createPrivate(path); err != nil {
		return nil, fmt.Errorf("create file: %w", err)
	}
	write, err := openSQLiteWriter(ctx, path, o)
	if err != nil {
		return nil, err
	}
	read, err := openSQLitePool(path, o, o.Readers, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	checkpoints, err := newCheckpointer(ctx, path, write, o)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	changes := newGroup(func(ctx context.Context) (*sql.Tx, error) { return write.BeginTx(ctx, nil) })
	return &pools{
		write:     write,
		read:      read,
		group:     changes,
		writers:   1,
		committed: checkpoints.kick,
		forget:    checkpoints.forget,
		close: func() error {
			changes.close()
			return errors.Join(checkpoints.close(), read.Close(), write.Close())
		},
	}, nil
}

// createPrivate makes an empty file that only its owner may read, unless there
// is one: the database holds keys and messages, and its log files take over
// its mode. It is made under another name and linked, because closing a file
// that SQLite has open elsewhere in the process would drop SQLite's locks on it.
func createPrivate(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // an empty file is left at worst
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writerCache is how much of the database the connection that writes keeps in memory, at most. With
// SQLite's 2 MB a hundred users who write all the time have pages read again for each message.
const writerCache = "cache_size(-8000)" // KiB

// openSQLiteWriter opens the connection that writes. More than one would only
// wait for each other inside SQLite, and less fairly than in database/sql.
func openSQLiteWriter(ctx context.Context, path string, o Options) (*sql.DB, error) {
	db, err := openSQLitePool(path, o, 1, url.Values{
		"_txlock": {"immediate"}, // a transaction that starts can commit
		// What is deleted is overwritten, so that it cannot be found in the file.
		"_pragma": {"synchronous(FULL)", "wal_autocheckpoint(0)", "secure_delete(ON)", writerCache},
	})
	if err != nil {
		return nil, err
	}
	if err := writeAheadLog(ctx, db, o.BusyTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("switch to a write-ahead log: %w", err), db.Close())
	}
	return db, nil
}

// writeAheadLog puts a new file into WAL mode, which stays with the file.
// SQLite does not wait for locks when it does this, so that processes which
// start together have to try again.
func writeAheadLog(ctx context.Context, db *sql.DB, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var mode string
		err := db.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode)
		switch {
		case err == nil && mode == "wal":
			return nil
		case err == nil:
			return fmt.Errorf("the journal mode stays %q", mode)
		case !isBusy(err):
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// openSQLitePool opens a pool of up to size connections, which stay open.
func openSQLitePool(path string, o Options, size int, params url.Values) (*sql.DB, error) {
	params.Set("_busy_timeout", strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10))
	params.Set("_dqs", "0")
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: params.Encode()}
	db, err := openPrepared("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}

// When checkpoints happen; lengths are in pages of 4 KiB.
const (
	// checkpointAt is how much of the log is worth moving into the database.
	checkpointAt = 1000
	// restartAt is how long the log may become before writers have to wait for
	// it to be started anew: under load that never pauses, a checkpoint
	// that nobody waits for never catches up.
	restartAt = 16000
	// restartPatience is how long the writers may be held up while readers are
	// waited for; then it is tried again after a commit.
	restartPatience = time.Second
	// checkpointPause is how long the log is not looked at again.
	checkpointPause = 10 * time.Millisecond
)

// checkpointer moves what was committed from the write-ahead log into the
// database, on a connection of its own, so that no commit has to wait for it. Only
// for the log to be started anew it takes the one that writes: so both take turns, where
// SQLite would have the one sleep that finds the other at work.
type checkpointer struct {
	db     *sql.DB
	write  *sql.DB
	logger *slog.Logger
	erased atomic.Bool // the log may have what was erased since
	kicked chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

func newCheckpointer(ctx context.Context, path string, write *sql.DB, o Options) (*checkpointer, error) {
	db, err := openSQLitePool(path, o, 1, url.Values{"_pragma": {"synchronous(FULL)"}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &checkpointer{
		db:     db,
		write:  write,
		logger: o.Logger,
		kicked: make(chan struct{}, 1),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go c.run(ctx)
	return c, nil
}

// kick says that something was committed. It does not block.
func (c *checkpointer) kick() {
	select {
	case c.kicked <- struct{}{}:
	default:
	}
}

// forget empties the log, which has pages as they were before something was erased. If
// readers are in the way it is tried again after the next commit, and the last process to leave
// the file removes the log.
func (c *checkpointer) forget(ctx context.Context) {
	c.erased.Store(true)
	if err := c.truncate(context.WithoutCancel(ctx)); err != nil {
		c.logger.WarnContext(ctx, "what was erased is still in the database's log", "error", err)
	}
}

func (c *checkpointer) truncate(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	length, _, err := c.pragma(patience, c.write, "TRUNCATE")
	switch {
	case patience.Err() != nil:
		return nil // readers are in the way
	case err == nil && length == 0:
		c.erased.Store(false)
	}
	return err
}

// close ends the goroutine and the connection. The last process to leave the
// file finishes the log.
func (c *checkpointer) close() error {
	c.cancel()
	<-c.done
	return c.db.Close()
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kicked:
		}
		if err := c.checkpoint(ctx); err != nil && ctx.Err() == nil {
			c.logger.WarnContext(ctx, "database checkpoint failed", "error", err)
		}
		if wait(ctx, checkpointPause) != nil {
			return
		}
	}
}

// checkpoint looks at the log's length and does what it asks for.
func (c *checkpointer) checkpoint(ctx context.Context) error {
	if c.erased.Load() {
		return c.truncate(ctx)
	}
	length, moved, err := c.pragma(ctx, c.db, "NOOP")
	if err == nil && (length-moved >= checkpointAt || length >= restartAt && length > moved) {
		length, _, err = c.pragma(ctx, c.db, "PASSIVE")
	}
	if err != nil || length < restartAt {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	if _, _, err = c.pragma(patience, c.write, "RESTART"); patience.Err() != nil {
		return nil // readers are in the way
	}
	return err
}

// pragma runs a checkpoint. It returns the log's length and how much of it has
// been moved, in pages.
func (c *checkpointer) pragma(ctx context.Context, db *sql.DB, mode string) (length, moved int, err error) {
	var busy int
	err = db.QueryRowContext(long(ctx), `PRAGMA wal_checkpoint(`+mode+`)`).Scan(&busy, &length, &moved)
	if err != nil {
		return 0, 0, fmt.Errorf("%s checkpoint: %w", mode, err)
	}
	return length, moved, nil
}
