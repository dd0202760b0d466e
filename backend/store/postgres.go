package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/postgres/*.sql
var postgresMigrations embed.FS

func postgresDialect() dialect {
	return dialect{
		name:        goose.DialectPostgres,
		open:        openPostgres,
		migrations:  func() (fs.FS, error) { return fs.Sub(postgresMigrations, "migrations/postgres") },
		class:       postgresClass,
		commitClass: postgresCommitClass,
		byPeer:      ` FROM entries WHERE owner = $1 AND seq > $2 AND seq < $3 AND peer = $4 AND NOT hidden`,
		clock:       `(extract(epoch FROM statement_timestamp()) * 1000)::bigint`,
		locks:       locks{change: ` FOR UPDATE`, take: ` FOR UPDATE SKIP LOCKED`, refer: ` FOR KEY SHARE`},
		snapshot:    sql.LevelRepeatableRead,
	}
}

// postgresName says where a database is, without a password.
func postgresName(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return "of PostgreSQL"
	}
	return u.Host + u.Path
}

// SQLSTATEs (PostgreSQL's manual, appendix A) on which something depends.
const (
	pgUniqueViolation   = "23505"
	pgSerialization     = "40001"
	pgDeadlock          = "40P01"
	pgCompletionUnknown = "40003"
)

// pgUnavailable are the beginnings of the SQLSTATEs that say that the server, or
// a lock, cannot be had now: connections, resources, a standby, a lock's
// timeout, a canceled or idle transaction, a shutdown, and errors of the disk.
var pgUnavailable = []string{"08", "53", "25006", "25P03", "55P03", "57014", "57P", "58030"} //nolint:gochecknoglobals // A constant list.

// postgresClass implements dialect.class. An error that is not of the server is
// one of the connection, unless it is that of the caller's context.
func postgresClass(err error) error {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return ErrUnavailable
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return sqlStateClass(e.Code)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if disconnected(err) {
		return ErrUnavailable
	}
	return nil
}

func sqlStateClass(code string) error {
	switch code {
	case pgUniqueViolation:
		return ErrExists
	case pgSerialization, pgDeadlock:
		return errConflict
	}
	for _, prefix := range pgUnavailable {
		if strings.HasPrefix(code, prefix) {
			return ErrUnavailable
		}
	}
	return nil
}

// disconnected reports whether an error is that of a connection that has ended.
func disconnected(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn, pgconn.ErrConnClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return pgconn.SafeToRetry(err)
}

// postgresCommitClass implements dialect.commitClass. Only a server that goes on
// after its error has said that nothing was committed.
func postgresCommitClass(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if ok && e.Severity == "ERROR" && e.Code != pgCompletionUnknown {
		return postgresClass(err)
	}
	return ErrOutcomeUnknown
}

const (
	// postgresWriters is how many transactions write at the same time: a
	// Writer's, and beside them those of logins, rosters and the like.
	postgresWriters = postgresAppends + 3
	// postgresAppends is how many batches are stored at the same time. While
	// one waits for the disk, the next can be on its way.
	postgresAppends = 2
	// connectTimeout bounds how long one server may take to let somebody in, or
	// to answer whether it is still there.
	connectTimeout = 5 * time.Second
	// idleTransaction is after how long the server ends a transaction whose
	// client has vanished, so that its locks are let go. It is less than
	// Options.BusyTimeout is by default, so that who waits for them gets them.
	idleTransaction = 3 * time.Second
)

// openPostgres opens two pools of connections, so that those who write never
// have to wait for those who read.
func openPostgres(ctx context.Context, location string, o Options) (*pools, error) {
	write, err := newPostgresPool(ctx, location, postgresWriters, o)
	if err != nil {
		return nil, err
	}
	read, err := newPostgresPool(ctx, location, o.Readers, o)
	if err != nil {
		write.Close()
		return nil, err
	}
	p := &pools{
		write:   stdlib.OpenDBFromPool(write),
		read:    stdlib.OpenDBFromPool(read),
		writers: postgresAppends,

		raiseDelivered: pgRaiseDelivered,
		setPoints:      pgSetPoints,
		committed:      func() {},
		forget:         func(context.Context) {},
	}
	p.append = (&postgresAppender{pool: write}).run
	p.close = func() error {
		err := errors.Join(p.read.Close(), p.write.Close())
		read.Close()
		write.Close()
		return err
	}
	return p, warnOfLoss(ctx, p, o)
}

// newPostgresPool makes a pool that connects when it is first used. What the
// URL says has the last word.
func newPostgresPool(ctx context.Context, location string, size int, o Options) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(location)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(location); err != nil || !u.Query().Has("pool_max_conns") {
		config.MaxConns = int32(min(size, 1<<15)) //nolint:gosec // it fits
	}
	config.PingTimeout = connectTimeout
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	for name, value := range map[string]string{
		"application_name":                    "imlb",
		"lock_timeout":                        strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10),
		"idle_in_transaction_session_timeout": strconv.FormatInt(idleTransaction.Milliseconds(), 10),
	} {
		if _, set := config.ConnConfig.RuntimeParams[name]; !set {
			config.ConnConfig.RuntimeParams[name] = value
		}
	}
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
}

// warnOfLoss says when the server's settings let go of what it has committed.
func warnOfLoss(ctx context.Context, p *pools, o Options) error {
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var value string
		err := p.read.QueryRowContext(ctx, `SELECT current_setting($1)`, setting).Scan(&value)
		if err != nil {
			return errors.Join(err, p.close())
		}
		if value == "off" {
			o.Logger.WarnContext(ctx, "the database server may lose what it has confirmed", "setting", setting, "value", value)
		}
	}
	return nil
}
