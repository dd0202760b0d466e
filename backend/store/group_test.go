package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// grouped returns a group over a table of the numbers 1 to 3, and how often it has begun a
// transaction.
func grouped(t *testing.T) (g *group, db *sql.DB, begun *int) {
	t.Helper()
	db = numbers(t)
	begun = new(int)
	g = newGroup(func(ctx context.Context) (*sql.Tx, error) {
		*begun++
		return db.BeginTx(ctx, nil)
	})
	t.Cleanup(g.close)
	return g, db, begun
}

// insert returns a change that inserts numbers, and then ends with err.
func insert(ctx context.Context, err error, all ...int) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		for _, n := range all {
			if _, err := tx.ExecContext(ctx, `INSERT INTO numbers (n) VALUES ($1)`, n); err != nil {
				return err
			}
		}
		return err
	}
}

// inOne has a group make changes in one transaction: the first is held up until all others
// wait. It returns what came of each.
func inOne(t *testing.T, g *group, changes ...func(*sql.Tx) error) []error {
	t.Helper()
	held, free := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		_, _ = g.do(t.Context(), func(*sql.Tx) error {
			close(held)
			<-free
			return nil
		})
	})
	<-held
	results := make([]error, len(changes))
	for i, f := range changes {
		running.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					results[i] = fmt.Errorf("panic: %v", p)
				}
			}()
			err, commitErr := g.do(t.Context(), f)
			results[i] = errors.Join(err, commitErr)
		})
		for waiting := 0; waiting <= i; { // in this order
			g.mu.Lock()
			waiting = len(g.queue)
			g.mu.Unlock()
		}
	}
	close(free)
	running.Wait()
	return results
}

func all(t *testing.T, db *sql.DB) []int {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT n FROM numbers ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, rows)
}

// TestGroup: changes that wait share a transaction, and one that fails or panics leaves
// no trace and does not keep the others from being committed.
func TestGroup(t *testing.T) {
	t.Parallel()
	g, db, begun := grouped(t)
	failed := errors.New("no")
	results := inOne(t, g,
		insert(t.Context(), nil, 10),
		insert(t.Context(), failed, 11),
		insert(t.Context(), nil, 12, 1), // which is there
		func(tx *sql.Tx) error {
			_ = insert(t.Context(), nil, 13)(tx)
			panic("oops")
		},
		insert(t.Context(), nil, 14),
	)
	if results[0] != nil || !errors.Is(results[1], failed) || results[2] == nil || results[3] == nil || results[4] != nil {
		t.Errorf("%v", results)
	}
	if results[3] != nil && results[3].Error() != "panic: oops" {
		t.Errorf("the panic came as %v", results[3])
	}
	if got, want := all(t, db), []int{1, 2, 3, 10, 14}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if *begun != 2 {
		t.Errorf("%d transactions, want 2", *begun)
	}
}

// TestGroupTorn: when a change takes the whole transaction with it, the others are made all
// the same.
func TestGroupTorn(t *testing.T) {
	t.Parallel()
	g, db, _ := grouped(t)
	torn := func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `ROLLBACK`); err != nil {
			return err
		}
		return errors.New("the disk is full")
	}
	results := inOne(t, g, insert(t.Context(), nil, 10), torn, insert(t.Context(), nil, 11))
	if results[0] != nil || results[1] == nil || results[2] != nil {
		t.Errorf("%v", results)
	}
	if got, want := all(t, db), []int{1, 2, 3, 10, 11}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

// TestGroupGivenUp: who does not want to wait any more has changed nothing, unless it had
// begun; then its end is waited for.
func TestGroupGivenUp(t *testing.T) {
	t.Parallel()
	g, db, _ := grouped(t)
	begun, cancelled := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		err, commitErr := g.do(ctx, func(tx *sql.Tx) error {
			close(begun)
			<-cancelled
			return insert(t.Context(), nil, 10)(tx)
		})
		if err != nil || commitErr != nil {
			t.Errorf("the one that had begun: %v, %v", err, commitErr)
		}
	})
	<-begun
	running.Go(func() {
		if err, _ := g.do(ctx, insert(t.Context(), nil, 11)); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that waited: %v", err)
		}
	})
	for waiting := 0; waiting == 0; {
		g.mu.Lock()
		waiting = len(g.queue)
		g.mu.Unlock()
	}
	cancel()
	for waiting := 1; waiting > 0; {
		g.mu.Lock()
		waiting = len(g.queue)
		g.mu.Unlock()
	}
	close(cancelled)
	running.Wait()
	if got, want := all(t, db), []int{1, 2, 3, 10}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

// TestGroupMany: whatever comes at once is made, each once.
func TestGroupMany(t *testing.T) {
	t.Parallel()
	g, db, begun := grouped(t)
	const writers, each = 40, 20
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := range each {
				n := 100 + w*each + i
				failed := error(nil)
				if n%7 == 0 {
					failed = errors.New("no")
				}
				if err, _ := g.do(t.Context(), insert(t.Context(), failed, n)); !errors.Is(err, failed) {
					t.Errorf("%d: %v", n, err)
				}
			}
		})
	}
	running.Wait()
	want := []int{1, 2, 3}
	for n := 100; n < 100+writers*each; n++ {
		if n%7 != 0 {
			want = append(want, n)
		}
	}
	if got := all(t, db); !slices.Equal(got, want) {
		t.Errorf("there are %d, want %d", len(got), len(want))
	}
	if *begun > writers*each/2 {
		t.Errorf("%d transactions for %d changes", *begun, writers*each)
	}
}

// TestGroupUncommitted: when a transaction cannot be committed, nobody is answered by what a
// change before it had made there; who was first, and failed for a reason of its own, is.
func TestGroupUncommitted(t *testing.T) {
	t.Parallel()
	g, db, _ := grouped(t)
	failed := errors.New("no")
	spoil := func(tx *sql.Tx) error { // its commit will fail
		if err := insert(t.Context(), nil, 10)(tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `PRAGMA defer_foreign_keys = ON; CREATE TABLE refers (n INTEGER REFERENCES numbers (n));
			INSERT INTO refers VALUES (99)`)
		return err
	}
	if _, err := db.ExecContext(t.Context(), `PRAGMA foreign_keys = ON`); err != nil {
		t.Fatal(err)
	}
	results := inOne(t, g, insert(t.Context(), failed), spoil, insert(t.Context(), nil, 10))
	if !errors.Is(results[0], failed) {
		t.Errorf("the first: %v", results[0])
	}
	for i, err := range results[1:] {
		if err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
			t.Errorf("change %d: %v, want what kept the commit", i+1, err)
		}
	}
	if got := all(t, db); len(got) != 3 {
		t.Errorf("there are %v", got)
	}
}
