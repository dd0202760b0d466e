package store_test

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Open {
		t.Helper()
		path := filepath.Join(t.TempDir(), "imlb.db")
		return func(t *testing.T) store.Store {
			t.Helper()
			// Patient, because a busy machine is no failure.
			return open(t, path, store.Options{BusyTimeout: time.Minute})
		}
	})
}

func TestOpenURL(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, url := range []string{
		filepath.Join(dir, "plain.db"),
		"sqlite:" + filepath.Join(dir, "scheme.db"),
		"SQLite://" + filepath.Join(dir, "slashes.db"),
		filepath.Join(dir, "odd ?name#%41&_pragma=query_only(1).db"),
	} {
		db := open(t, url, store.Options{})
		if _, err := db.CreateAccount(t.Context(), "alice@example.com", nil); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 4 {
		t.Errorf("the files are %q, %v", names, err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"mysql://localhost/imlb": `database scheme "mysql:" is not supported: give sqlite:PATH, a path, or postgres://USER@HOST/DATABASE`,
		"":                       "give the path of a file",
		"sqlite::memory:":        "give the path of a file",
		filepath.Join(dir, "no", "such", "dir.db"): "no such file or directory",
		garbage: "file is not a database",
	} {
		db, err := store.Open(t.Context(), url, store.Options{})
		if err == nil {
			t.Errorf("%q was opened", url)
			db.Close()
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// A schema that is newer than the program is not to be written to.
// A file that has to be there is not made.
func TestOpenExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "imlb.db")
	if db, err := store.Open(t.Context(), path, store.Options{Existing: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened %v: %v", db, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file: %v", err)
	}
	for _, existing := range []bool{false, true} {
		if err := open(t, path, store.Options{Existing: existing}).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenNewerSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "imlb.db")
	if err := open(t, path, store.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`); err != nil {
		t.Fatal(err)
	}
	if db, err := store.Open(t.Context(), path, store.Options{}); err == nil {
		db.Close()
		t.Error("a newer schema was opened")
	} else if !strings.Contains(err.Error(), "999") {
		t.Error(err)
	}
}

func TestBusyIsUnavailable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "imlb.db")
	db := open(t, path, store.Options{BusyTimeout: 20 * time.Millisecond})
	defer db.Close()
	account, err := db.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	release := lockDatabase(t, path)
	batch := []store.Append{{Drafts: []store.Draft{{Owner: account.Owner}}}}
	if _, err := db.AppendBatch(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while it is locked: %v", err)
	}
	if _, err := db.Account(t.Context(), "alice@example.com"); err != nil {
		t.Errorf("a reader has to wait: %v", err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{})
	answer := make(chan store.Appended, 1)
	if err := writer.Submit(t.Context(), batch[0], func(a store.Appended) { answer <- a }); err != nil {
		t.Fatal(err)
	}
	release()
	if a := <-answer; a.Err != nil || a.Seqs[0] != 1 {
		t.Errorf("after it was unlocked: %+v", a)
	}
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
}

// While the disk is full nothing is stored, and messages wait; when there is room again they are
// stored by themselves.
func TestFullDiskIsUnavailable(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "imlb.db"), store.Options{})
	defer db.Close()
	account, err := db.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	release, err := db.BoundPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	large := store.Append{Drafts: []store.Draft{{Owner: account.Owner, Stanza: make([]byte, 100_000)}}}
	if _, err := db.AppendBatch(t.Context(), []store.Append{large}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while the disk is full: %v", err)
	}
	tried := make(chan error, 100)
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{Observe: func(_ int, _ time.Duration, err error) { tried <- err }})
	answer := make(chan store.Appended, 1)
	if err := writer.Submit(t.Context(), large, func(a store.Appended) { answer <- a }); err != nil {
		t.Fatal(err)
	}
	if err := <-tried; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while the disk is full: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if a := <-answer; a.Err != nil || a.Seqs[0] != 1 {
		t.Errorf("when there is room: %+v", a)
	}
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
}

// lockDatabase keeps all others from writing until release is called.
func lockDatabase(t *testing.T, path string) (release func()) {
	t.Helper()
	raw, err := sql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := raw.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(tx.Rollback(), raw.Close()); err != nil {
			t.Error(err)
		}
	}
}

// The write-ahead log must not grow for ever under load, and closing must not
// leave one behind.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "imlb.db")
	db := open(t, path, store.Options{})
	account, err := db.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]store.Append, 50)
	for i := range batch {
		batch[i].Drafts = []store.Draft{{Owner: account.Owner, Stanza: make([]byte, 4000)}}
	}
	var largest int64
	for range 200 { // 40 MB
		if _, err := db.AppendBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	if largest > 80<<20 {
		t.Errorf("the log grew to %d MB", largest>>20)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() < 10<<20 {
		t.Errorf("nothing was moved into the database: %v, %v", info, err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is still there: %v", err)
	}
}

// An interrupted deletion is finished when it is done again, by the next one of
// somebody else, and by whoever tidies.
func TestDeletionIsFinishedLater(t *testing.T) {
	t.Parallel()
	for name, finish := range map[string]func(*testing.T, *store.DB){
		"again": func(t *testing.T, db *store.DB) {
			erased, err := db.EraseAccount(t.Context(), "alice")
			if want := []store.Erased{{Table: "entries", Rows: 2}}; err != nil || !slices.Equal(erased, want) {
				t.Errorf("erased %v, %v", erased, err)
			}
			if _, err := db.EraseAccount(t.Context(), "alice"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("and again: %v", err)
			}
		},
		"of somebody else": func(t *testing.T, db *store.DB) {
			if err := db.DeleteAccount(t.Context(), "bob"); err != nil {
				t.Error(err)
			}
		},
		"by whoever tidies": func(t *testing.T, db *store.DB) {
			for more := true; more; {
				var err error
				if more, err = db.Tidy(t.Context(), time.Now()); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			deletionIsFinished(t, finish)
		})
	}
}

func deletionIsFinished(t *testing.T, finish func(*testing.T, *store.DB)) {
	path := filepath.Join(t.TempDir(), "imlb.db")
	db := open(t, path, store.Options{})
	defer db.Close()
	if _, err := db.CreateAccount(t.Context(), "bob", nil); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// As if the process had died after the first transaction.
	for _, statement := range []string{
		`INSERT INTO entries (owner, seq, time, peer, sent, resource, stanza) VALUES (77, 1, 0, '', 0, '', x''), (77, 2, 0, '', 0, '', x'')`,
		`INSERT INTO purges (owner, name) VALUES (77, 'alice')`,
	} {
		if _, err := raw.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, db)
	if left, err := db.Read(t.Context(), 77, 0, 10); err != nil || len(left) != 0 {
		t.Errorf("%d entries are left, %v", len(left), err)
	}
	var purges int
	if err := raw.QueryRowContext(t.Context(), `SELECT count(*) FROM purges`).Scan(&purges); err != nil || purges != 0 {
		t.Errorf("%d purges are left, %v", purges, err)
	}
}
