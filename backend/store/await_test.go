package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"imlb/backend/store"
)

func TestIsAway(t *testing.T) {
	t.Parallel()
	away := func(cause error) error { return fmt.Errorf("open: %w: %w", store.ErrUnavailable, cause) }
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"nothing":         {nil, false},
		"something else":  {store.ErrFenced, false},
		"no connection":   {away(errors.New("connection refused")), true},
		"starting":        {away(&pgconn.PgError{Code: "57P03"}), true},
		"full":            {away(&pgconn.PgError{Code: "53300"}), true},
		"wrong password":  {away(&pgconn.PgError{Code: "28P01"}), false},
		"no database":     {away(&pgconn.PgError{Code: "3D000"}), false},
		"no such host":    {away(&net.DNSError{IsNotFound: true}), false},
		"no name service": {away(&net.DNSError{IsTimeout: true}), true},
	} {
		if got := store.IsAway(tt.err); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Await tries again until it is another error, or none, and says once a minute that it waits.
func TestAwait(t *testing.T) {
	t.Parallel()
	away := fmt.Errorf("open: %w", store.ErrUnavailable)
	for name, tt := range map[string]struct {
		in   error
		ends time.Duration // of the context; 0: it does not
		want error
		took time.Duration
		said int
	}{
		"there":          {nil, 0, nil, 0, 0},
		"another error":  {store.ErrFenced, 0, store.ErrFenced, 0, 0},
		"away":           {away, 0, nil, 90 * time.Second, 2},
		"away for ever":  {away, 5 * time.Second, context.DeadlineExceeded, 5 * time.Second, 1},
		"ended long ago": {away, -time.Second, context.DeadlineExceeded, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, began, said := t.Context(), time.Now(), &strings.Builder{}
				if tt.ends != 0 {
					limited, cancel := context.WithTimeout(ctx, tt.ends)
					defer cancel()
					ctx = limited
				}
				err := store.Await(ctx, slog.New(slog.NewTextHandler(said, nil)), time.Second, func() error {
					if time.Since(began) >= 90*time.Second {
						return nil
					}
					return tt.in
				})
				if took := time.Since(began); !errors.Is(err, tt.want) || took != tt.took {
					t.Errorf("%v after %v, want %v after %v", err, took, tt.want, tt.took)
				}
				if n := strings.Count(said.String(), "waited for"); n != tt.said {
					t.Errorf("logged %d times:\n%s", n, said)
				}
			})
		})
	}
}
