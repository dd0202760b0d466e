package storetest

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	"imlb/backend/store"
)

func sessionTests() []test {
	return []test{
		{"Create", on(createSession)},
		{"SameResource", on(sameResource)},
		{"SameID", on(sameID)},
		{"MissingOwner", on(sessionOfMissingOwner)},
		{"SetHandled", on(setHandled)},
		{"End", on(endSession)},
	}
}

func leaseTests() []test {
	return []test{
		{"Valid", on(leaseValid)},
		{"NoneAtAll", on(leaseNone)},
		{"Ended", on(leaseEnded)},
		{"EndedByAnother", on(leaseEndedByAnother)},
		{"TakenOver", on(leaseTakenOver)},
		{"RenewedLate", on(leaseRenewedLate)},
		{"Limit", on(reapLimit)},
	}
}

func createSession(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	replaced, err := s.CreateSession(t.Context(), store.Session{
		ID: "s1", Owner: a.Owner, User: "someone@else", Resource: "phone", Node: "node-1",
		Epoch: 7, Handled: 3, Created: time.Unix(1, 0),
	})
	check(t, err)
	if replaced != nil {
		t.Errorf("replaced %+v", replaced)
	}
	got, err := s.Session(t.Context(), "s1")
	check(t, err)
	recent(t, got.Created)
	want := store.Session{
		ID: "s1", Owner: a.Owner, User: a.User, Resource: "phone", Node: "node-1",
		Epoch: 1, Handled: 3, Created: got.Created,
	}
	equal(t, "session", got, want)
	second := newSession(t, s, a.Owner, "s2", "desktop", "node-2")
	list, err := s.SessionsOf(t.Context(), a.Owner)
	check(t, err)
	equal(t, "sessions", list, []store.Session{second, want})
	_, err = s.Session(t.Context(), "s3")
	wantErr(t, err, store.ErrNotFound)
}

func sameResource(t *testing.T, s store.Store) {
	a, b := newAccount(t, s, "alice@example.com"), newAccount(t, s, "bob@example.com")
	other := newSession(t, s, b.Owner, "b1", "phone", "node-1")
	newSession(t, s, a.Owner, "s1", "phone", "node-1")
	check(t, s.SetHandled(t.Context(), "s1", 1, 42))
	before, err := s.Session(t.Context(), "s1")
	check(t, err)
	replaced, err := s.CreateSession(t.Context(), store.Session{ID: "s2", Owner: a.Owner, Resource: "phone", Node: "node-2"})
	check(t, err)
	if replaced == nil {
		t.Fatal("nothing was replaced")
	}
	equal(t, "replaced", *replaced, before)
	_, err = s.Session(t.Context(), "s1")
	wantErr(t, err, store.ErrNotFound)
	list, err := s.SessionsOf(t.Context(), a.Owner)
	check(t, err)
	if len(list) != 1 || list[0].ID != "s2" || list[0].Node != "node-2" || list[0].Handled != 0 {
		t.Errorf("sessions: %+v", list)
	}
	list, err = s.SessionsOf(t.Context(), b.Owner)
	check(t, err)
	equal(t, "bob's sessions", list, []store.Session{other})
}

func sameID(t *testing.T, s store.Store) {
	a, b := newAccount(t, s, "alice@example.com"), newAccount(t, s, "bob@example.com")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	second := newSession(t, s, b.Owner, "s2", "phone", "node-1")
	_, err := s.CreateSession(t.Context(), store.Session{ID: "s1", Owner: b.Owner, Resource: "phone", Node: "node-1"})
	wantErr(t, err, store.ErrExists)
	// What would have been replaced is still there.
	for _, want := range []store.Session{first, second} {
		got, err := s.Session(t.Context(), want.ID)
		check(t, err)
		equal(t, "session", got, want)
	}
}

func sessionOfMissingOwner(t *testing.T, s store.Store) {
	_, err := s.CreateSession(t.Context(), store.Session{ID: "s1", Owner: 12345, Resource: "phone", Node: "node-1"})
	wantErr(t, err, store.ErrNotFound)
	list, err := s.SessionsOf(t.Context(), 12345)
	check(t, err)
	equal(t, "sessions", len(list), 0)
}

func setHandled(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	newSession(t, s, a.Owner, "s1", "phone", "node-1")
	check(t, s.SetHandled(t.Context(), "s1", 1, math.MaxUint32))
	handled(t, s, "s1", math.MaxUint32)
	for _, epoch := range []uint64{0, 2, math.MaxUint64} {
		wantErr(t, s.SetHandled(t.Context(), "s1", epoch, 5), store.ErrFenced)
	}
	wantErr(t, s.SetHandled(t.Context(), "s2", 1, 5), store.ErrFenced)
	handled(t, s, "s1", math.MaxUint32)
}

func endSession(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	newSession(t, s, a.Owner, "s1", "phone", "node-1")
	for _, epoch := range []uint64{0, 2, math.MaxUint64} {
		wantErr(t, s.EndSession(t.Context(), "s1", epoch), store.ErrFenced)
	}
	check(t, s.EndSession(t.Context(), "s1", 1))
	_, err := s.Session(t.Context(), "s1")
	wantErr(t, err, store.ErrNotFound)
	wantErr(t, s.EndSession(t.Context(), "s1", 1), store.ErrFenced)
	newSession(t, s, a.Owner, "s1", "phone", "node-1")
}

// noon is when these tests take place: leases have the callers' time.
func noon() time.Time { return time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC) }

// renew gives a node a lease of a minute from noon.
func renew(t *testing.T, s store.Store, node, incarnation string) {
	t.Helper()
	check(t, s.RenewLease(t.Context(), node, incarnation, noon().Add(time.Minute)))
}

// reap reaps all that can be, and checks what it was, by ID.
func reap(t *testing.T, s store.Store, at time.Time, want ...store.Session) {
	t.Helper()
	got, err := s.ReapSessions(t.Context(), at, 100)
	check(t, err)
	slices.SortFunc(got, func(a, b store.Session) int { return cmp.Compare(a.ID, b.ID) })
	equal(t, "reaped sessions", got, want)
	for _, session := range got {
		_, err := s.Session(t.Context(), session.ID)
		wantErr(t, err, store.ErrNotFound)
	}
}

func leaseValid(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-1", "run-1")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	reap(t, s, noon())
	reap(t, s, noon().Add(time.Minute-time.Millisecond))
	check(t, s.RenewLease(t.Context(), "node-1", "run-1", noon().Add(time.Hour)))
	reap(t, s, noon().Add(time.Hour-time.Millisecond))
	reap(t, s, noon().Add(time.Hour), first)
	reap(t, s, noon().Add(time.Hour))
}

func leaseNone(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-2", "run-1")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	newSession(t, s, a.Owner, "s2", "desktop", "node-2")
	reap(t, s, noon(), first)
	reap(t, s, noon())
}

func leaseEnded(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-1", "run-1")
	renew(t, s, "node-2", "run-1")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	newSession(t, s, a.Owner, "s2", "desktop", "node-2")
	check(t, s.EndLease(t.Context(), "node-1", "run-1"))
	check(t, s.EndLease(t.Context(), "node-1", "run-1"))
	check(t, s.EndLease(t.Context(), "node-3", "run-1"))
	reap(t, s, noon(), first)
}

func leaseEndedByAnother(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-1", "run-1")
	newSession(t, s, a.Owner, "s1", "phone", "node-1")
	check(t, s.EndLease(t.Context(), "node-1", "run-2"))
	reap(t, s, noon())
}

func leaseTakenOver(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-1", "run-1")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	renew(t, s, "node-1", "run-2") // the process has crashed and is back
	second := newSession(t, s, a.Owner, "s2", "desktop", "node-1")
	check(t, s.EndLease(t.Context(), "node-1", "run-1")) // too late to mean anything
	reap(t, s, noon(), first)
	reap(t, s, noon().Add(time.Minute), second)
}

func leaseRenewedLate(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	renew(t, s, "node-1", "run-1")
	first := newSession(t, s, a.Owner, "s1", "phone", "node-1")
	reap(t, s, noon().Add(time.Minute), first)
	// The node was only cut off. What it creates belongs to its run, whether it
	// creates it just before it renews its lease or just after.
	newSession(t, s, a.Owner, "s2", "phone", "node-1")
	check(t, s.RenewLease(t.Context(), "node-1", "run-1", noon().Add(time.Hour)))
	newSession(t, s, a.Owner, "s3", "desktop", "node-1")
	reap(t, s, noon().Add(2*time.Minute))
}

func reapLimit(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	for _, name := range []string{"1", "2", "3", "4", "5"} {
		newSession(t, s, a.Owner, "s"+name, "r"+name, "node-"+name[:1])
	}
	seen := make(map[string]bool)
	for _, want := range []int{2, 2, 1, 0} {
		got, err := s.ReapSessions(t.Context(), noon(), 2)
		check(t, err)
		equal(t, "reaped sessions", len(got), want)
		for _, session := range got {
			if seen[session.ID] {
				t.Errorf("session %s was reaped twice", session.ID)
			}
			seen[session.ID] = true
		}
	}
	newSession(t, s, a.Owner, "s6", "r6", "node-1")
	for _, limit := range []int{0, -1} {
		got, err := s.ReapSessions(t.Context(), noon(), limit)
		check(t, err)
		equal(t, "reaped sessions", len(got), 0)
	}
}
