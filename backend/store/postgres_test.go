package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Open {
		t.Helper()
		url := postgres(t)
		return func(t *testing.T) store.Store {
			t.Helper()
			// Patient, because a busy machine is no failure.
			return open(t, url, store.Options{BusyTimeout: time.Minute})
		}
	})
}

// What a user gets wrong is said in words, and without the password.
func TestOpenPostgresRefuses(t *testing.T) {
	t.Parallel()
	url := postgres(t)
	host := strings.TrimPrefix(url[:strings.LastIndex(url, "/")], "postgres://imlb@")
	for url, want := range map[string]string{
		"postgres://imlb:secret@" + host + "/nothing":                            `database "nothing" does not exist`,
		"postgresql://nobody:secret@" + host + "/nothing":                        `role "nobody" does not exist`,
		"postgres://imlb:secret@127.0.0.1:1/imlb":                                "connection refused",
		"postgres://imlb:secret@127.0.0.1:x/imlb":                                "invalid port",
		strings.Replace(url, "imlb@", "imlb:secret@", 1) + "?lock_timeout=never": "lock_timeout",
	} {
		db, err := store.Open(t.Context(), url, store.Options{})
		if err == nil {
			t.Errorf("%q was opened", url)
			db.Close()
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// Nobody else gets the port of a server, neither while it is made nor while it is down.
func TestPostgresKeepsItsPort(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	const lowest = 32768 // of those that Linux gives to who asks for any; others begin higher
	if port, err := strconv.Atoi(u.Port()); err != nil || port >= lowest {
		t.Errorf("its port is %s (%v), which the system gives to others, too", u.Port(), err)
	}
}

// raw opens a database past the store.
func raw(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// A schema that is newer than the program is not to be written to.
func TestOpenNewerPostgresSchema(t *testing.T) {
	t.Parallel()
	url := postgres(t)
	if err := open(t, url, store.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, raw(t, url), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`)
	if db, err := store.Open(t.Context(), url, store.Options{}); err == nil {
		db.Close()
		t.Error("a newer schema was opened")
	} else if !strings.Contains(err.Error(), "999") {
		t.Error(err)
	}
}

// account creates one with sessions 0 to n-1.
func account(t *testing.T, db *store.DB, n int) store.OwnerID {
	t.Helper()
	a, err := db.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		id := fmt.Sprint(i)
		if _, err := db.CreateSession(t.Context(), store.Session{ID: id, Owner: a.Owner, Resource: id, Node: "n"}); err != nil {
			t.Fatal(err)
		}
	}
	return a.Owner
}

func TestLockedPostgresIsUnavailable(t *testing.T) {
	t.Parallel()
	url := postgres(t)
	db := open(t, url, store.Options{BusyTimeout: 20 * time.Millisecond})
	defer db.Close()
	owner := account(t, db, 0)
	tx, err := raw(t, url).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `UPDATE heads SET head = head`); err != nil {
		t.Fatal(err)
	}
	batch := []store.Append{{Drafts: []store.Draft{{Owner: owner}}}}
	if _, err := db.AppendBatch(t.Context(), batch); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("while it is locked: %v", err)
	}
	if head, _, err := db.Head(t.Context(), owner); err != nil || head != 0 {
		t.Errorf("a reader has to wait: %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if done, err := db.AppendBatch(t.Context(), batch); err != nil || done[0].Seqs[0] != 1 {
		t.Errorf("after it was unlocked: %v, %v", done, err)
	}
}

// A transaction that the server undoes to end a deadlock is run again.
func TestDeadlockIsRepeated(t *testing.T) {
	t.Parallel()
	url := postgres(t)
	db := open(t, url, store.Options{BusyTimeout: time.Minute})
	defer db.Close()
	owner := account(t, db, 1)
	other, err := raw(t, url).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	// The other way round than a batch, and too important to be the one that is undone.
	for _, statement := range []string{`SET LOCAL deadlock_timeout = '1h'`, `UPDATE heads SET head = head`} {
		if _, err := other.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	answer := make(chan error, 1)
	go func() {
		_, err := db.AppendBatch(t.Context(), []store.Append{{Session: "0", Epoch: 1, Handled: 1, Drafts: []store.Draft{{Owner: owner}}}})
		answer <- err
	}()
	// Blocks until the batch has its session's row, and is undone for it.
	awaitRow(t, raw(t, url), `SELECT count(*) > 0 FROM pg_locks WHERE NOT granted`)
	if _, err := other.ExecContext(t.Context(), `UPDATE sessions SET handled = 7`); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if s, err := db.Session(t.Context(), "0"); err != nil || s.Handled != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// awaitRow waits until a query says true.
func awaitRow(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	for done := false; !done; {
		if err := db.QueryRowContext(t.Context(), query).Scan(&done); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	outages        = 3
	outageSessions = 8
	outageAcks     = 300 // after which the server is killed
)

// TestKilledDatabase kills the server under load, again and again. The writer goes
// on by itself when it is back: every message is stored once, nobody is told
// otherwise, and what a session has handled is what it was told.
func TestKilledDatabase(t *testing.T) {
	t.Parallel()
	server, url := ownPostgres(t)
	db := open(t, url, store.Options{})
	defer db.Close()
	owner := account(t, db, outageSessions)
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{MaxBatch: 20, Patience: 2 * time.Minute})
	load := &load{acknowledged: make(map[string]uint64), acks: make(chan struct{}, 1<<20)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	for i := range outageSessions {
		group.Go(func() { load.session(ctx, t, writer, owner, fmt.Sprint(i)) })
	}
	for range outages {
		load.await(t, outageAcks)
		server.Kill()
		if err := db.Ping(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("without a server: %v", err)
		}
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	load.await(t, outageAcks)
	stop()
	group.Wait()
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
	checkCrash(t, url, outageSessions, load.acknowledged)
	if recovered, err := server.Log("was not properly shut down"); err != nil || len(recovered) < outages {
		t.Errorf("the server recovered %d times, %v", len(recovered), err)
	}
}

// load is what sessions have been told.
type load struct {
	acks chan struct{} // one for each acknowledgement, with room for all

	mu           sync.Mutex
	acknowledged map[string]uint64 // numbers by body
}

// await waits for n more acknowledgements.
func (l *load) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-l.acks:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// session sends a message after the other, some at a time, until ctx ends.
func (l *load) session(ctx context.Context, t *testing.T, w *store.Writer, owner store.OwnerID, id string) {
	t.Helper()
	window := make(chan struct{}, 5)
	for n := uint32(1); ctx.Err() == nil; n++ {
		window <- struct{}{}
		body := fmt.Sprintf("%s/%d", id, n)
		err := w.Submit(t.Context(), store.Append{
			Session: id, Epoch: 1, Handled: n,
			Drafts: []store.Draft{{Owner: owner, Stanza: []byte(body)}},
		}, func(a store.Appended) {
			l.note(t, body, a)
			<-window
		})
		if err != nil {
			t.Error(err)
			return
		}
	}
	for range cap(window) {
		window <- struct{}{} // everything is answered
	}
}

func (l *load) note(t *testing.T, body string, a store.Appended) {
	t.Helper()
	if a.Err != nil {
		t.Errorf("message %s: %v", body, a.Err)
		return
	}
	l.mu.Lock()
	l.acknowledged[body] = a.Seqs[0]
	l.mu.Unlock()
	l.acks <- struct{}{}
}

// Where a session stood for one owner does not take the place of where it stands for the next, however long the
// transaction has waited.
func TestLatePointOfAnotherOwner(t *testing.T) {
	t.Parallel()
	url := postgres(t)
	db := open(t, url, store.Options{BusyTimeout: time.Minute})
	defer db.Close()
	owner := account(t, db, 2)
	var points []store.ResumePoint
	for _, id := range []string{"0", "1"} {
		if err := db.SaveResumable(t.Context(), id, 1, store.Resumable{Hold: time.Minute}); err != nil {
			t.Fatal(err)
		}
		points = append(points, store.ResumePoint{ID: id, Epoch: 1, Count: 3, Pos: 30, Number: 1})
	}
	other, err := raw(t, url).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	if _, err := other.ExecContext(t.Context(), `SELECT FROM resumables WHERE session = '0' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- db.SetResumePoints(t.Context(), points) }()
	// Waits for the first of the two.
	awaitRow(t, raw(t, url), `SELECT count(*) > 0 FROM pg_locks WHERE NOT granted`)
	if _, _, err := db.Resume(t.Context(), "1", owner, "m", 0); err != nil {
		t.Fatal(err)
	}
	if err := db.SaveResumable(t.Context(), "1", 2, store.Resumable{Hold: time.Minute, Count: 2, Pos: 20, Number: 1}); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if _, r, err := db.Resume(t.Context(), "1", owner, "m", 0); err != nil || r.Count != 2 || r.Pos != 20 {
		t.Errorf("it stands at %+v, %v", r, err)
	}
	if _, r, err := db.Resume(t.Context(), "0", owner, "m", 0); err != nil || r.Count != 3 || r.Pos != 30 {
		t.Errorf("the other stands at %+v, %v", r, err)
	}
}
