// Package storetest helps to test stores and what is built on them: Run is the
// conformance suite that every store.Store must pass, and Memory is a store for
// unit tests.
package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"imlb/backend/store"
)

// Open opens a store on a database. Each call opens the same database once
// more, as another process would; the test closes what it opens.
type Open func(t *testing.T) store.Store

// Run checks that a store keeps every promise of package store. The function
// create makes an empty database and says how to open it; each test gets its
// own.
func Run(t *testing.T, create func(t *testing.T) Open) {
	t.Helper()
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"Accounts", accountTests()},
		{"Administration", administrationTests()},
		{"Belonging", belongingTests()},
		{"Rosters", rosterTests()},
		{"Blocklists", blocklistTests()},
		{"Personal", personalTests()},
		{"Timelines", timelineTests()},
		{"Archives", archiveTests()},
		{"Transfers", transferTests()},
		{"Sessions", sessionTests()},
		{"Leases", leaseTests()},
		{"Resumption", resumptionTests()},
		{"Tokens", tokenTests()},
		{"Shared", sharedTests()},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, one := range group.tests {
				t.Run(one.name, func(t *testing.T) { one.run(suite{T: t, open: create(t)}) })
			}
		})
	}
}

type test struct {
	name string
	run  func(suite)
}

// suite is what a test has at hand.
type suite struct {
	*testing.T

	open Open
}

// on makes a test of one that needs a single open store.
func on(run func(suite, store.Store)) func(suite) {
	return func(t suite) {
		s := t.open(t.T)
		t.Cleanup(func() { t.check(s.Close()) })
		run(t, s)
	}
}

func (t suite) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t suite) wantErr(err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
}

func (t suite) equal(what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// recent checks a time that the store has given.
func (t suite) recent(at time.Time) {
	t.Helper()
	if d := time.Since(at); d < -time.Second || d > time.Minute {
		t.Errorf("the time is %v, %v ago", at, d)
	}
	if at.Location() != time.UTC || !at.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("the time %v is not in UTC with a resolution of a millisecond", at)
	}
}

// newAccount creates a user without keys.
func (t suite) newAccount(s store.Store, user string) store.Account {
	t.Helper()
	a, err := s.CreateAccount(t.Context(), user, nil)
	t.check(err)
	return a
}

// newSession creates a session of a user on a node that may hold no lease.
func (t suite) newSession(s store.Store, owner store.OwnerID, id, resource, node string) store.Session {
	t.Helper()
	_, err := s.CreateSession(t.Context(), store.Session{ID: id, Owner: owner, Resource: resource, Node: node})
	t.check(err)
	made, err := s.Session(t.Context(), id)
	t.check(err)
	return made
}

// appendOne appends one message that must be stored.
func (t suite) appendOne(s store.Store, a store.Append) store.Appended {
	t.Helper()
	done, err := s.AppendBatch(t.Context(), []store.Append{a})
	t.check(err)
	t.check(done[0].Err)
	return done[0]
}

// text is a draft with a body.
func text(owner store.OwnerID, format string, args ...any) store.Draft {
	return store.Draft{Owner: owner, Peer: "peer@example.com", Stanza: fmt.Appendf(nil, format, args...)}
}

// readAll reads a whole timeline in pages, checking that the numbers have no gap
// and that time does not go backwards.
func (t suite) readAll(s store.Store, owner store.OwnerID) []store.Entry {
	t.Helper()
	var all []store.Entry
	for {
		page, err := s.Read(t.Context(), owner, uint64(len(all)), 100)
		t.check(err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		t.inOrder(all)
	}
}

func (t suite) inOrder(entries []store.Entry) {
	t.Helper()
	for i, e := range entries {
		if e.Seq != uint64(i)+1 {
			t.Fatalf("entry %d has number %d", i+1, e.Seq)
		}
		if i > 0 && e.Time.Before(entries[i-1].Time) {
			t.Fatalf("entry %d is of %v, the one before of %v", e.Seq, e.Time, entries[i-1].Time)
		}
	}
}
