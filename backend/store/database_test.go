package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend/store"
)

// onEach runs a test on an empty database of each kind.
func onEach(t *testing.T, run func(t *testing.T, url string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		run(t, filepath.Join(t.TempDir(), "imlb.db"))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		run(t, postgres(t))
	})
}

// open opens a database. The test closes it.
func open(tb testing.TB, url string, o store.Options) *store.DB {
	tb.Helper()
	db, err := store.Open(tb.Context(), url, o)
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

// Entries' times must not go backwards on a timeline, even where the clock of
// one process is behind that of another.
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	onEach(t, clocksThatDiffer)
}

func clocksThatDiffer(t *testing.T, url string) {
	noon := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	ahead := open(t, url, store.Options{Now: func() time.Time { return noon.Add(time.Hour) }})
	defer ahead.Close()
	behind := open(t, url, store.Options{Now: func() time.Time { return noon }})
	defer behind.Close()
	owners := make(map[string]store.OwnerID)
	for _, user := range []string{"alice", "bob", "carol"} {
		a, err := ahead.CreateAccount(t.Context(), user, nil)
		if err != nil {
			t.Fatal(err)
		}
		owners[user] = a.Owner
	}
	for i, step := range []struct {
		db    *store.DB
		users []string
		want  time.Time
	}{
		{behind, []string{"alice"}, noon},
		{ahead, []string{"alice"}, noon.Add(time.Hour)},
		{behind, []string{"alice"}, noon.Add(time.Hour)},
		{behind, []string{"bob"}, noon},
		{behind, []string{"bob", "alice"}, noon.Add(time.Hour)}, // one message has one time
		{behind, []string{"bob"}, noon.Add(time.Hour)},
		{behind, []string{"carol"}, noon}, // nobody else is concerned
	} {
		var drafts []store.Draft
		for _, user := range step.users {
			drafts = append(drafts, store.Draft{Owner: owners[user]})
		}
		// Twice in a batch, to have the batch agree with itself.
		done, err := step.db.AppendBatch(t.Context(), []store.Append{{Drafts: drafts}, {Drafts: drafts}})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range done {
			if a.Err != nil || !a.Time.Equal(step.want) {
				t.Errorf("step %d: time %v, error %v", i, a.Time, a.Err)
			}
		}
	}
}

// Leases and waiting sessions are judged by the database's clock, whatever those of the
// processes say.
func TestLeasesAndClocks(t *testing.T) {
	t.Parallel()
	onEach(t, leasesAndClocks)
}

func leasesAndClocks(t *testing.T, url string) {
	type process struct {
		*store.DB

		name string
		now  func() time.Time
	}
	start := func(name string, off time.Duration) process {
		now := func() time.Time { return time.Now().Add(off) }
		return process{open(t, url, store.Options{Now: now}), name, now}
	}
	ahead, behind := start("ahead", time.Hour), start("behind", -time.Hour)
	defer ahead.Close()
	defer behind.Close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, err := ahead.CreateAccount(t.Context(), "alice", nil)
	check(err)
	processes := []process{ahead, behind}
	r := store.Resumable{Hold: 5 * time.Minute}
	for _, p := range processes {
		check(p.TakeLease(t.Context(), p.name, "run", time.Minute))
		_, err := p.CreateSession(t.Context(), store.Session{ID: p.name, Owner: a.Owner, Resource: p.name, Node: p.name})
		check(err)
		check(p.SaveResumable(t.Context(), p.name, 1, r))
	}
	for _, p := range processes {
		nodes, err := p.LiveNodes(t.Context())
		if err != nil || !slices.Equal(nodes, []string{"ahead", "behind"}) {
			t.Errorf("living nodes: %v, %v", nodes, err)
		}
		for _, owner := range processes {
			if h, err := p.Holding(t.Context(), owner.name, a.Owner); err != nil || h.Parked || h.Lapsed != "" {
				t.Errorf("the session of %s: %+v, %v", owner.name, h, err)
			}
		}
	}
	for _, p := range processes {
		r.Parked = p.now()
		check(p.SaveResumable(t.Context(), p.name, 1, r))
	}
	for _, p := range processes {
		if reaped, err := p.ReapSessions(t.Context(), p.name, 10); err != nil || len(reaped) > 0 {
			t.Errorf("reaped %v, %v", reaped, err)
		}
	}
	_, r, err = ahead.Resume(t.Context(), behind.name, a.Owner, ahead.name, 0)
	check(err)
	if waited := ahead.now().Sub(r.Parked); waited.Abs() > time.Minute {
		t.Errorf("it has waited for %v", waited)
	}
}

// Many sessions through one writer on a real database.
func TestWriterOnDatabase(t *testing.T) {
	t.Parallel()
	onEach(t, writerOnDatabase)
}

func writerOnDatabase(t *testing.T, url string) {
	const sessions, messages = 20, 50
	db := open(t, url, store.Options{})
	defer db.Close()
	account, err := db.CreateAccount(t.Context(), "alice@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var transactions atomic.Int64
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{
		Observe: func(int, time.Duration, error) { transactions.Add(1) },
	})
	var group sync.WaitGroup
	for i := range sessions {
		id := fmt.Sprint(i)
		if _, err := db.CreateSession(t.Context(), store.Session{ID: id, Owner: account.Owner, Resource: id, Node: "n"}); err != nil {
			t.Fatal(err)
		}
		group.Go(func() { sendAll(t.Context(), t, writer, account.Owner, id, messages) })
	}
	group.Wait()
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	head, _, err := db.Head(t.Context(), account.Owner)
	if err != nil || head != sessions*messages {
		t.Errorf("%d entries, %v", head, err)
	}
	if n := transactions.Load(); n > sessions*messages/2 {
		t.Errorf("%d messages took %d transactions", sessions*messages, n)
	}
}

// sendAll submits a session's messages and waits until the last is stored.
func sendAll(ctx context.Context, t *testing.T, w *store.Writer, owner store.OwnerID, session string, messages uint32) {
	t.Helper()
	last := uint64(0)
	stored := make(chan struct{})
	for n := uint32(1); n <= messages; n++ {
		a := store.Append{Session: session, Epoch: 1, Handled: n, Drafts: []store.Draft{{Owner: owner, Stanza: []byte("x")}}}
		err := w.Submit(ctx, a, func(done store.Appended) {
			switch {
			case done.Err != nil:
				t.Error(done.Err)
			case done.Seqs[0] <= last:
				t.Errorf("number %d follows %d", done.Seqs[0], last)
			default:
				last = done.Seqs[0]
			}
			if n == messages {
				close(stored)
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
	}
	<-stored
}

// What was noted with a point counts for the next that resumes the session, and not any more when an earlier version of
// the program has had it meanwhile, which has no points: it counts other stanzas by then.
func TestResumedByAnEarlierVersion(t *testing.T) {
	t.Parallel()
	onEach(t, resumedByAnEarlierVersion)
}

func resumedByAnEarlierVersion(t *testing.T, url string) {
	db := open(t, url, store.Options{})
	defer db.Close()
	owner := account(t, db, 1)
	if err := db.SaveResumable(t.Context(), "0", 1, store.Resumable{Hold: time.Minute, Number: 1, Early: []byte("early")}); err != nil {
		t.Fatal(err)
	}
	resumes := func(want string) {
		t.Helper()
		if _, r, err := db.Resume(t.Context(), "0", owner, "n", 0); err != nil || string(r.Early) != want {
			t.Errorf("%q, %v, want %q", r.Early, err, want)
		}
	}
	resumes("early")
	resumes("early") // before it was stored anew
	execute(t, look(t, url), `UPDATE sessions SET epoch = epoch + 1`)
	resumes("")
	resumes("")
}
