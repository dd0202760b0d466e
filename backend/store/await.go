package store

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// IsAway tells whether an error says that the database's server is not there, or not ready: the same may succeed later
// without anybody's doing anything about it. A wrong password, a name of which there is nothing, and what is wrong with a file
// are none of that.
func IsAway(err error) bool {
	if !errors.Is(err, ErrUnavailable) {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return errors.Is(sqlStateClass(e.Code), ErrUnavailable)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return !e.IsNotFound
	}
	_, ofFile := errors.AsType[*sqlite.Error](err)
	return !ofFile
}

// awaitLogEvery is how often Await says that it waits.
const awaitLogEvery = time.Minute

// Await calls f until its error is not that the database is away (see IsAway), with pauses in between, and returns that error, or
// the one of ctx when this ends. It logs what it waits for.
func Await(ctx context.Context, log *slog.Logger, pause time.Duration, f func() error) error {
	var said time.Time
	for {
		err := f()
		if !IsAway(err) {
			return err
		}
		if now := time.Now(); said.IsZero() || now.Sub(said) >= awaitLogEvery {
			log.WarnContext(ctx, "the database is away, and waited for", slog.Any("error", err))
			said = now
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
