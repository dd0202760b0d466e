package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// numbers returns a pool of one connection with a table of the numbers 1 to 3.
func numbers(t *testing.T) *sql.DB {
	t.Helper()
	db, err := openPrepared("sqlite", "file:"+filepath.Join(t.TempDir(), "kept.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), `CREATE TABLE numbers (n INTEGER PRIMARY KEY); INSERT INTO numbers VALUES (1), (2), (3)`)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// kept returns how many statements the pool's connection keeps.
func kept(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		k, ok := c.(*keepingConn)
		if !ok {
			return fmt.Errorf("%T", c)
		}
		n = len(k.kept)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const above = `SELECT n FROM numbers WHERE n > $1 ORDER BY n`

func read(t *testing.T, rows *sql.Rows) (all []int) {
	t.Helper()
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestKeptStatements: a statement is kept, answers anew each time, also inside its own rows,
// and goes on after the schema has changed.
func TestKeptStatements(t *testing.T) {
	t.Parallel()
	db := numbers(t)
	before := kept(t, db)
	for least := range 4 {
		rows, err := db.QueryContext(t.Context(), above, least)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, rows); len(got) != 3-least {
			t.Errorf("above %d: %v", least, got)
		}
	}
	if n := kept(t, db); n != before+1 {
		t.Errorf("%d statements are kept, want %d", n, before+1)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := tx.QueryContext(t.Context(), above, 0)
	if err != nil {
		t.Fatal(err)
	}
	outer.Next()
	inner, err := tx.QueryContext(t.Context(), above, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, inner); len(got) != 2 {
		t.Errorf("inside: %v", got)
	}
	if got := read(t, outer); len(got) != 2 {
		t.Errorf("after it: %v", got)
	}
	if _, err := tx.ExecContext(t.Context(), `ALTER TABLE numbers ADD COLUMN name TEXT`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	rows, err := db.QueryContext(t.Context(), above, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, rows); len(got) != 1 {
		t.Errorf("after the schema has changed: %v", got)
	}
}

// TestKeptStatementsAfterErrors: one that failed, or was given up, can be run again.
func TestKeptStatementsAfterErrors(t *testing.T) {
	t.Parallel()
	db := numbers(t)
	const insert = `INSERT INTO numbers (n) VALUES ($1)`
	for range 2 {
		if _, err := db.ExecContext(t.Context(), insert, 3); err == nil {
			t.Error("the same number was taken twice")
		}
	}
	if _, err := db.ExecContext(t.Context(), insert, 4); err != nil {
		t.Error(err)
	}
	if _, err := db.ExecContext(t.Context(), `SELECT no sense`); err == nil {
		t.Error("a statement that is none was run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.QueryContext(ctx, above, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	rows, err := db.QueryContext(t.Context(), above, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, rows); len(got) != 4 {
		t.Errorf("then: %v", got)
	}
}

// TestKeptStatementsBound: whatever is asked, a connection keeps no more than so many.
func TestKeptStatementsBound(t *testing.T) {
	t.Parallel()
	db := numbers(t)
	for i := range keptStatements + 50 {
		var n int
		if err := db.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT %d`, i)).Scan(&n); err != nil || n != i {
			t.Fatalf("%d: %d, %v", i, n, err)
		}
	}
	if n := kept(t, db); n != keptStatements {
		t.Errorf("%d statements are kept, want %d", n, keptStatements)
	}
}

// TestRestartIsGivenUp: to start the log anew is given up when readers are in the way for too
// long, whatever else waits for locks: the connection that writes is held up meanwhile.
func TestRestartIsGivenUp(t *testing.T) {
	t.Parallel()
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "restart.db"), Options{BusyTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.read.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	var n int
	if err := tx.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM accounts`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.CreateAccount(t.Context(), "alice@example.com", nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, _, err := new(checkpointer).pragma(ctx, db.write, "RESTART"); err == nil {
		t.Error("the log was started anew under a reader")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
	if _, err := db.CreateAccount(t.Context(), "bob@example.com", nil); err != nil {
		t.Errorf("then: %v", err)
	}
}
