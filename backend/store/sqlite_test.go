package store_test

import (
	"path/filepath"
	"testing"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Open {
		path := filepath.Join(t.TempDir(), "imlb.db")
		return func(t *testing.T) store.Store { return open(t, path, store.Options{}) }
	})
}

// open opens a database that the test closes.
func open(t testing.TB, url string, o store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}
