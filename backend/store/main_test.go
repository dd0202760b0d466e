package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"imlb/backend/store/storetest"
	"imlb/test/need"
)

// Whoever closes what it opened leaves no goroutine behind.
func TestMain(m *testing.M) {
	// Each step of the model waits for the disk. The command line has the last word.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(tests{m})
}

// tests stops the shared database server after the last test.
type tests struct{ *testing.M }

// Run implements goleak.TestingM.
func (t tests) Run() int {
	status := t.M.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return status
}

// shared is a server for all tests that do not harm theirs.
var shared struct { //nolint:gochecknoglobals // Starting one for each test would take minutes.
	sync.Mutex

	server *storetest.Postgres
	err    error
}

// postgres returns the URL of an empty database. The disk is not waited for: no
// test here cuts the power.
func postgres(tb testing.TB) string {
	tb.Helper()
	shared.Lock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = storetest.StartPostgres(context.Background(), "fsync=off")
	}
	server, err := shared.server, shared.err
	shared.Unlock()
	present(tb, err)
	url, err := server.NewDatabase(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return url
}

// ownPostgres starts a server that a test may do with what it likes.
func ownPostgres(tb testing.TB, settings ...string) (server *storetest.Postgres, url string) {
	tb.Helper()
	server, err := storetest.StartPostgres(tb.Context(), settings...)
	present(tb, err)
	tb.Cleanup(func() {
		if err := server.Stop(); err != nil {
			tb.Error(err)
		}
	})
	if url, err = server.NewDatabase(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return server, url
}

// present skips or fails a test that needs a server.
func present(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, storetest.ErrNoPostgres) {
		need.Missing(tb, "postgresql")
	}
	if err != nil {
		tb.Fatal(err)
	}
}
