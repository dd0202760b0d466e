package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend/store"
)

// Bodies of messages at which a wire breaks.
const (
	cutBefore = "cut before the server hears of it"
	cutAfter  = "cut before the server's answer is heard"
)

// openOverWire opens a database behind a wire, with an account that has so many sessions.
func openOverWire(t *testing.T, sessions int) (*store.DB, *wire, store.OwnerID) {
	t.Helper()
	url := postgres(t)
	wire := newWire(t, hostOf(url))
	db := open(t, strings.Replace(url, hostOf(url), wire.addr(), 1)+"?sslmode=disable", store.Options{})
	t.Cleanup(func() { db.Close() }) // before the wire is waited for
	return db, wire, account(t, db, sessions)
}

// TestLostCommit loses the connection where nobody on this side can know whether the
// transaction was committed. Whatever it was, the message is stored once, and
// the answer is right.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	db, wire, owner := openOverWire(t, 1)
	writer := store.NewWriter(t.Context(), db, store.WriterOptions{Patience: time.Minute})
	for i, body := range []string{"first", cutAfter, "between", cutBefore, cutAfter, "last"} {
		answer := make(chan store.Appended, 1)
		wire.armed.Store(true)
		err := writer.Submit(t.Context(), store.Append{
			Session: "0", Epoch: 1, Handled: uint32(i) + 1,
			Drafts: []store.Draft{{Owner: owner, Stanza: []byte(body)}},
		}, func(a store.Appended) { answer <- a })
		if err != nil {
			t.Fatal(err)
		}
		if a := <-answer; a.Err != nil || a.Seqs[0] != uint64(i)+1 {
			t.Errorf("message %q: %+v", body, a)
		}
	}
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
	if n := wire.cuts.Load(); n != 3 {
		t.Errorf("the wire broke %d times", n)
	}
	entries, err := db.Read(t.Context(), owner, 0, 100)
	if err != nil || len(entries) != 6 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

// A batch without entries is looked for by its handled count.
func TestLostCommitOfCounts(t *testing.T) {
	t.Parallel()
	db, wire, owner := openOverWire(t, 1)
	for n := uint32(1); n <= 3; n++ {
		batch := []store.Append{{Session: "0", Epoch: 1, Handled: n}}
		if n == 2 {
			wire.atCommit.Store(true)
		}
		if _, err := db.AppendBatch(t.Context(), batch); err != nil {
			t.Error(err)
		}
		s, err := db.SessionsOf(t.Context(), owner)
		if err != nil || s[0].Handled != n {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if n := wire.cuts.Load(); n != 1 {
		t.Errorf("the wire broke %d times", n)
	}
}

// Where the commit of a change about sessions breaks: before the server hears of it, or before its answer is heard.
func commits(t *testing.T, run func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool)) {
	t.Helper()
	for name, where := range map[string]func(*wire) *atomic.Bool{
		"before": func(w *wire) *atomic.Bool { return &w.beforeCommit },
		"after":  func(w *wire) *atomic.Bool { return &w.atCommit },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, wire, owner := openOverWire(t, 1)
			run(t, db, owner, where(wire))
			if n := wire.cuts.Load(); n != 1 {
				t.Errorf("the wire broke %d times", n)
			}
		})
	}
}

// A session is created once, and whoever creates it learns which one it has replaced.
func TestLostCommitOfCreation(t *testing.T) {
	t.Parallel()
	commits(t, func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool) {
		before, err := db.Session(t.Context(), "0")
		if err != nil {
			t.Fatal(err)
		}
		cut.Store(true)
		replaced, err := db.CreateSession(t.Context(), store.Session{ID: "new", Owner: owner, Resource: before.Resource, Node: "node"})
		if err != nil || replaced == nil || replaced.ID != before.ID {
			t.Errorf("replaced %+v, %v", replaced, err)
		}
		all, err := db.SessionsOf(t.Context(), owner)
		if err != nil || len(all) != 1 || all[0].ID != "new" || all[0].Epoch != 1 {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// A session becomes resumable, and is saved, although the answer is lost.
func TestLostCommitOfSession(t *testing.T) {
	t.Parallel()
	commits(t, func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool) {
		cut.Store(true)
		if err := db.SaveResumable(t.Context(), "0", 1, store.Resumable{Hold: time.Minute, Handled: 7, State: []byte("x")}); err != nil {
			t.Error(err)
		}
		s, r, err := db.Resume(t.Context(), "0", owner, "node", 0)
		if err != nil || s.Handled != 7 || string(r.State) != "x" {
			t.Errorf("%+v, %+v, %v", s, r, err)
		}
	})
}

// A change of a roster is made once, and whoever makes it learns what it was: of an item that is made, one that is
// changed, also if it stays what it was, and one that is removed.
func TestLostCommitOfRoster(t *testing.T) {
	t.Parallel()
	request := func(it *store.RosterItem) bool { it.PendingIn = []byte("<presence/>"); return true }
	accept := func(it *store.RosterItem) bool {
		was := len(it.PendingIn) > 0
		*it = store.RosterItem{InRoster: true, Subscription: store.SubscriptionFrom, Groups: []string{"b", "a"}}
		return was
	}
	same := func(*store.RosterItem) bool { return true }
	remove := func(it *store.RosterItem) bool { *it = store.RosterItem{}; return true }
	for name, changes := range map[string][]func(*store.RosterItem) bool{
		"made":    {request},
		"changed": {request, accept},
		"same":    {request, accept, same},
		"refused": {request, remove},
		"removed": {request, accept, remove},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			commits(t, func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool) {
				for i, change := range changes {
					cut.Store(i == len(changes)-1)
					var changed bool
					item, version, err := db.UpdateRoster(t.Context(), owner, "bob@example.com", func(it *store.RosterItem) bool {
						changed = change(it)
						return changed
					})
					if want := uint64(i) + 1; err != nil || !changed || version != want || item.Version != want {
						t.Errorf("changed %t to %+v at version %d, %v", changed, item, version, err)
					}
				}
				_, version, err := db.Roster(t.Context(), owner)
				if want := uint64(len(changes)); err != nil || version != want {
					t.Errorf("version %d, want %d, %v", version, want, err)
				}
			})
		})
	}
}

// A blocklist is changed once, and whoever changes it learns what has become of it.
func TestLostCommitOfBlocklist(t *testing.T) {
	t.Parallel()
	block := func(address string) func([]string) []string {
		return func(list []string) []string { return append(list, address) }
	}
	all := func([]string) []string { return nil }
	for name, changes := range map[string][]func([]string) []string{
		"made": {block("b@example.com")}, "changed": {block("b@example.com"), block("a@example.com")}, "emptied": {block("b@example.com"), all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			commits(t, func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool) {
				for i, change := range changes {
					cut.Store(i == len(changes)-1)
					var before []string
					list, err := db.UpdateBlocklist(t.Context(), owner, func(list []string) []string {
						before = list
						return change(list)
					})
					if err != nil || list.Version != uint64(i)+1 || len(before) != i {
						t.Errorf("changed from %q to %+v, %v", before, list, err)
					}
				}
			})
		})
	}
}

// Whoever removes sessions of dead nodes learns of it.
func TestLostCommitOfReaping(t *testing.T) {
	t.Parallel()
	commits(t, func(t *testing.T, db *store.DB, owner store.OwnerID, cut *atomic.Bool) {
		before, err := db.SessionsOf(t.Context(), owner)
		if err != nil || len(before) != 1 {
			t.Fatalf("%+v, %v", before, err)
		}
		cut.Store(true)
		reaped, err := db.ReapSessions(t.Context(), "node", 10) // it has no lease
		if err != nil || len(reaped) != 1 || reaped[0].ID != before[0].ID {
			t.Errorf("%+v, %v", reaped, err)
		}
		if left, err := db.SessionsOf(t.Context(), owner); err != nil || len(left) != 0 {
			t.Errorf("%+v, %v", left, err)
		}
	})
}

// When it cannot be learnt whether they were removed, they are named the next time.
func TestReapingOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	db, wire, _ := openOverWire(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wire.cut = cancel
	wire.atCommit.Store(true)
	reaped, err := db.ReapSessions(ctx, "node", 10)
	if !errors.Is(err, store.ErrOutcomeUnknown) || len(reaped) > 0 {
		t.Errorf("%+v, %v", reaped, err)
	}
	reaped, err = db.ReapSessions(t.Context(), "node", 10)
	if err != nil || len(reaped) != 1 {
		t.Errorf("%+v, %v", reaped, err)
	}
}

// When nothing can be learnt, that is what is said, and nothing is tried again.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	db, wire, owner := openOverWire(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wire.cut = cancel
	wire.armed.Store(true)
	_, err := db.AppendBatch(ctx, []store.Append{{Drafts: []store.Draft{{Owner: owner, Stanza: []byte(cutAfter)}}}})
	if !errors.Is(err, store.ErrOutcomeUnknown) || errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "@")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// wire is a way to a server that breaks when told.
type wire struct {
	*testing.T

	server       string
	listener     net.Listener
	armed        atomic.Bool  // cut at the next message that says so
	atCommit     atomic.Bool  // cut before the next commit is confirmed
	beforeCommit atomic.Bool  // cut before the server hears of the next commit
	cuts         atomic.Int64 // how often it broke
	cut          func()       // called when it breaks
}

func newWire(t *testing.T, server string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{T: t, server: server, listener: listener, cut: func() {}}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { w.carry(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		group.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

// carry joins a client with the server until one of them, or the wire, ends it.
func (w *wire) carry(client net.Conn) {
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		w.Error(err)
		return
	}
	var silent atomic.Bool // the server's answers are lost
	var group sync.WaitGroup
	group.Go(func() {
		defer client.Close()
		defer server.Close()
		w.answers(client, server, &silent)
	})
	defer group.Wait()
	defer client.Close()
	defer server.Close()
	w.requests(server, client, &silent)
}

func (w *wire) requests(server io.Writer, client io.Reader, silent *atomic.Bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		switch {
		case bytes.Contains(buffer[:n], []byte(cutBefore)) && w.armed.CompareAndSwap(true, false),
			bytes.Contains(buffer[:n], []byte("commit\x00")) && w.beforeCommit.CompareAndSwap(true, false):
			w.breaks()
			return
		case bytes.Contains(buffer[:n], []byte(cutAfter)) && w.armed.CompareAndSwap(true, false):
			silent.Store(true)
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *wire) answers(client io.Writer, server io.Reader, silent *atomic.Bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		committed := bytes.Contains(buffer[:n], []byte("COMMIT\x00"))
		if committed && (silent.Load() || w.atCommit.CompareAndSwap(true, false)) {
			w.breaks()
			return
		}
		if silent.Load() {
			continue
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *wire) breaks() {
	w.cuts.Add(1)
	w.cut()
}
