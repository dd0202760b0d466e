package storetest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"imlb/backend/store"
)

func sessionTests() []test {
	return []test{
		{"Create", on(createSession)},
		{"ConnectedContacts", on(connectedContacts)},
		{"RecentContacts", on(recentContacts)},
		{"StatesOf", on(statesOf)},
		{"SameResource", on(sameResource)},
		{"SameID", on(sameID)},
		{"MissingOwner", on(sessionOfMissingOwner)},
		{"SetHandled", on(setHandled)},
		{"End", on(endSession)},
		{"LastEnd", on(lastEnd)},
	}
}

func leaseTests() []test {
	return []test{
		{"Valid", on(leaseValid)},
		{"NoneAtAll", on(leaseNone)},
		{"Ended", on(leaseEnded)},
		{"EndedByAnother", on(leaseEndedByAnother)},
		{"TakenOver", on(leaseTakenOver)},
		{"Lost", on(leaseLost)},
		{"RenewedLate", on(leaseRenewedLate)},
		{"Limit", on(reapLimit)},
		{"ReapedUntilForgotten", on(reapedUntilForgotten)},
		{"NoteShown", on(noteShown)},
		{"LiveNodes", on(liveNodes)},
		{"NodeOf", on(nodeOf)},
	}
}

func createSession(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	replaced, err := s.CreateSession(t.Context(), store.Session{
		ID: "s1", Owner: a.Owner, User: "someone@else", Resource: "phone", Node: "node-1",
		Epoch: 7, Handled: 3, Created: time.Unix(1, 0),
	})
	t.check(err)
	if replaced != nil {
		t.Errorf("replaced %+v", replaced)
	}
	got, err := s.Session(t.Context(), "s1")
	t.check(err)
	t.recent(got.Created)
	want := store.Session{
		ID: "s1", Owner: a.Owner, User: a.User, Resource: "phone", Node: "node-1",
		Epoch: 1, Handled: 3, Created: got.Created,
	}
	t.equal("session", got, want)
	second := t.newSession(s, a.Owner, "s2", "desktop", "node-2")
	list, err := s.SessionsOf(t.Context(), a.Owner)
	t.check(err)
	t.equal("sessions", list, []store.Session{second, want})
	_, err = s.Session(t.Context(), "s3")
	t.wantErr(err, store.ErrNotFound)
}

func statesOf(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, t.newAccount(s, bobJID).Owner, "s3", "desk", "node-1")
	states := func(want ...store.Session) {
		t.Helper()
		got, err := s.StatesOf(t.Context(), a.Owner)
		t.check(err)
		t.equal("sessions with their states", got, want)
	}
	states()
	t.take(s, "node-1", "run-1")
	phone := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, store.Resumable{State: []byte("state")}))
	phone.State = "state"
	pad := t.newSession(s, a.Owner, "s2", "pad", "node-1")
	states(pad, phone)
	t.take(s, "node-1", "run-2")
	phone.Node, pad.Node = "", ""
	states(pad, phone)
	t.check(s.DeleteAccount(t.Context(), a.User))
	states()
}

func connectedContacts(t suite, s store.Store) {
	a, b, c := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID), t.newAccount(s, carolJID)
	for _, contact := range []string{carolJID, bobJID, "nobody@example.com"} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, contact, func(it *store.RosterItem) bool {
			it.InRoster = true
			return true
		})
		t.check(err)
	}
	connected := func(owner store.OwnerID, want ...string) {
		t.Helper()
		got, err := s.ConnectedContacts(t.Context(), owner)
		t.check(err)
		t.equal("connected contacts", got, want)
	}
	connected(a.Owner)
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.newSession(s, b.Owner, "s2", "phone", "node-1")
	connected(a.Owner, bobJID)
	t.newSession(s, c.Owner, "s3", "phone", "node-1")
	t.newSession(s, c.Owner, "s4", "desk", "node-2")
	connected(a.Owner, bobJID, carolJID)
	connected(b.Owner)
	connected(12345)
}

func recentContacts(t suite, s store.Store) {
	a, b, c := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID), t.newAccount(s, carolJID)
	for _, contact := range []string{carolJID, bobJID, "nobody@example.com"} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, contact, add)
		t.check(err)
	}
	long, never := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	recent := func(owner store.OwnerID, since time.Time, want ...store.RecentContact) {
		t.Helper()
		got, err := s.RecentContacts(t.Context(), owner, since)
		t.check(err)
		t.equal("recent contacts", got, want)
	}
	recent(a.Owner, long)
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.newSession(s, b.Owner, "s2", "phone", "node-1")
	t.newSession(s, c.Owner, "s3", "phone", "node-1")
	t.newSession(s, c.Owner, "s4", "desk", "node-2")
	t.newSession(s, c.Owner, "s5", "pad", "node-2")
	recent(a.Owner, never, store.RecentContact{User: bobJID, Nodes: 1}, store.RecentContact{User: carolJID, Nodes: 2})
	t.check(s.EndSession(t.Context(), "s2", 1))
	recent(a.Owner, never, store.RecentContact{User: carolJID, Nodes: 2})
	recent(a.Owner, long, store.RecentContact{User: bobJID}, store.RecentContact{User: carolJID, Nodes: 2})
	recent(b.Owner, long)
	recent(12345, long)
}

func sameResource(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	other := t.newSession(s, b.Owner, "b1", "phone", "node-1")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SetHandled(t.Context(), "s1", 1, 42))
	before, err := s.Session(t.Context(), "s1")
	t.check(err)
	replaced, err := s.CreateSession(t.Context(), store.Session{ID: "s2", Owner: a.Owner, Resource: "phone", Node: "node-2"})
	t.check(err)
	if replaced == nil {
		t.Fatal("nothing was replaced")
	}
	t.equal("replaced", *replaced, before)
	_, err = s.Session(t.Context(), "s1")
	t.wantErr(err, store.ErrNotFound)
	list, err := s.SessionsOf(t.Context(), a.Owner)
	t.check(err)
	if len(list) != 1 || list[0].ID != "s2" || list[0].Node != "node-2" || list[0].Handled != 0 {
		t.Errorf("sessions: %+v", list)
	}
	list, err = s.SessionsOf(t.Context(), b.Owner)
	t.check(err)
	t.equal("bob's sessions", list, []store.Session{other})
}

func sameID(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	second := t.newSession(s, b.Owner, "s2", "phone", "node-1")
	_, err := s.CreateSession(t.Context(), store.Session{ID: "s1", Owner: b.Owner, Resource: "phone", Node: "node-1"})
	t.wantErr(err, store.ErrExists)
	// What would have been replaced is still there.
	for _, want := range []store.Session{first, second} {
		got, err := s.Session(t.Context(), want.ID)
		t.check(err)
		t.equal("session", got, want)
	}
}

func sessionOfMissingOwner(t suite, s store.Store) {
	_, err := s.CreateSession(t.Context(), store.Session{ID: "s1", Owner: 12345, Resource: "phone", Node: "node-1"})
	t.wantErr(err, store.ErrNotFound)
	list, err := s.SessionsOf(t.Context(), 12345)
	t.check(err)
	t.equal("sessions", len(list), 0)
}

func setHandled(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SetHandled(t.Context(), "s1", 1, math.MaxUint32))
	t.handled(s, "s1", math.MaxUint32)
	for _, epoch := range []uint64{0, 2, math.MaxUint64} {
		t.wantErr(s.SetHandled(t.Context(), "s1", epoch, 5), store.ErrFenced)
	}
	t.wantErr(s.SetHandled(t.Context(), "s2", 1, 5), store.ErrFenced)
	t.handled(s, "s1", math.MaxUint32)
}

func endSession(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	for _, epoch := range []uint64{0, 2, math.MaxUint64} {
		t.wantErr(s.EndSession(t.Context(), "s1", epoch), store.ErrFenced)
	}
	t.check(s.EndSession(t.Context(), "s1", 1))
	_, err := s.Session(t.Context(), "s1")
	t.wantErr(err, store.ErrNotFound)
	t.wantErr(s.EndSession(t.Context(), "s1", 1), store.ErrFenced)
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
}

// lastEnd checks that each way in which a session ends is noted, for its owner only.
func lastEnd(t suite, s store.Store) {
	for name, end := range map[string]func(){
		"ended@example.com":    func() { t.check(s.EndSession(t.Context(), "s", 1)) },
		"replaced@example.com": func() { t.newSession(s, t.account(s, "replaced@example.com").Owner, "t", "phone", "node-1") },
		"reaped@example.com": func() {
			_, err := s.ReapSessions(t.Context(), "node-1", 10) // which has no lease
			t.check(err)
		},
	} {
		a, b := t.newAccount(s, name), t.newAccount(s, "other-"+name)
		t.newSession(s, a.Owner, "s", "phone", "node-1")
		at, err := s.LastEnd(t.Context(), a.Owner)
		t.check(err)
		t.equal("last end before "+name, at, time.Time{})
		end()
		at, err = s.LastEnd(t.Context(), a.Owner)
		t.check(err)
		t.recent(at)
		at, err = s.LastEnd(t.Context(), b.Owner)
		t.check(err)
		t.equal("last end of another", at, time.Time{})
	}
	_, err := s.LastEnd(t.Context(), 12345)
	t.wantErr(err, store.ErrNotFound)
}

// noon is a time of day.
func noon() time.Time { return time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC) }

// take gives a process a node's lease, for longer than a test takes.
func (t suite) take(s store.Store, node, incarnation string) {
	t.Helper()
	t.check(s.TakeLease(t.Context(), node, incarnation, time.Hour))
}

// lasts changes how long a process has its lease from now on; less than nothing: it is over
// since then.
func (t suite) lasts(s store.Store, node, incarnation string, d time.Duration) {
	t.Helper()
	t.check(s.RenewLease(t.Context(), node, incarnation, d))
}

// reap reaps all that can be, checks what it was, by ID, and forgets it.
func (t suite) reap(s store.Store, want ...store.Session) {
	t.Helper()
	t.owes(s, "reaper", want...)
	for _, session := range want {
		_, err := s.Session(t.Context(), session.ID)
		t.wantErr(err, store.ErrNotFound)
		t.check(s.ForgetReaped(t.Context(), []string{session.ID}))
	}
}

// owes reaps all that a node can, and checks whose ends it is to announce, by ID.
func (t suite) owes(s store.Store, node string, want ...store.Session) {
	t.Helper()
	got, err := s.ReapSessions(t.Context(), node, 100)
	t.check(err)
	slices.SortFunc(got, func(a, b store.Session) int { return cmp.Compare(a.ID, b.ID) })
	var known []store.Session
	for _, w := range want {
		known = append(known, store.Session{ID: w.ID, Owner: w.Owner, User: w.User, Resource: w.Resource, State: w.State, Shown: w.Shown})
	}
	t.equal("reaped sessions", got, known)
}

func leaseValid(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run-1")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.reap(s)
	t.lasts(s, "node-1", "run-1", time.Minute)
	t.reap(s)
	t.lasts(s, "node-1", "run-1", 0)
	t.reap(s, first)
	t.reap(s)
}

// Who has a session now is the node whose lease holds, unless it waits to be resumed.
func nodeOf(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID)
	want := func(owner store.OwnerID, resource, node string) {
		t.Helper()
		got, err := s.NodeOf(t.Context(), owner, resource)
		t.check(err)
		if got != node {
			t.Errorf("%s is on %q, want %q", resource, got, node)
		}
	}
	t.take(s, "node-1", "run")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.newSession(s, a.Owner, "s2", "pad", "node-1")
	t.newSession(s, a.Owner, "s3", "desk", "node-2")
	t.take(s, "node-0", "run")
	t.newSession(s, a.Owner, "s4", "watch", "node-0")
	all := func(owner store.OwnerID, nodes ...string) {
		t.Helper()
		got, err := s.NodesOf(t.Context(), owner)
		t.check(err)
		t.equal("nodes", got, nodes)
	}
	all(a.Owner, "node-0", "node-1")
	all(b.Owner)
	want(a.Owner, "phone", "node-1")
	want(a.Owner, "desk", "") // its node has no lease
	want(a.Owner, "tab", "")
	want(b.Owner, "phone", "")
	r := resumable()
	r.Parked = time.Time{}
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	want(a.Owner, "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	want(a.Owner, "phone", "")
	all(a.Owner, "node-0", "node-1")
	t.check(s.EndSession(t.Context(), "s2", 1))
	all(a.Owner, "node-0")
	t.newSession(s, a.Owner, "s5", "pad", "node-1")
	_, _, err := s.Resume(t.Context(), "s1", a.Owner, "node-1", 0)
	t.check(err)
	want(a.Owner, "phone", "node-1")
	want(a.Owner, "pad", "node-1")
	t.lasts(s, "node-1", "run", -time.Second)
	want(a.Owner, "pad", "")
	all(a.Owner, "node-0")
}

func leaseNone(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-2", "run-1")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.newSession(s, a.Owner, "s2", "desktop", "node-2")
	t.reap(s, first)
	t.reap(s)
}

func leaseEnded(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run-1")
	t.take(s, "node-2", "run-1")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.newSession(s, a.Owner, "s2", "desktop", "node-2")
	t.check(s.EndLease(t.Context(), "node-1", "run-1"))
	t.check(s.EndLease(t.Context(), "node-1", "run-1"))
	t.check(s.EndLease(t.Context(), "node-3", "run-1"))
	t.reap(s, first)
}

func leaseEndedByAnother(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run-1")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.EndLease(t.Context(), "node-1", "run-2"))
	t.reap(s)
}

func leaseTakenOver(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run-1")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.take(s, "node-1", "run-2") // the process has crashed and is back
	second := t.newSession(s, a.Owner, "s2", "desktop", "node-1")
	t.check(s.EndLease(t.Context(), "node-1", "run-1")) // too late to mean anything
	t.reap(s, first)
	t.lasts(s, "node-1", "run-2", 0)
	t.reap(s, second)
}

// leaseLost checks that a process which has lost its lease learns of it, and does no harm.
func leaseLost(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	lost := func(incarnation string) {
		t.Helper()
		t.wantErr(s.RenewLease(t.Context(), "node-1", incarnation, time.Hour), store.ErrLeaseLost)
	}
	lost("run-1") // was never taken
	t.take(s, "node-1", "run-1")
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.take(s, "node-1", "run-2")
	t.newSession(s, a.Owner, "s2", "desktop", "node-1")
	lost("run-1")
	t.reap(s, first)
	lost("run-1") // also when nothing is left of it
	t.lasts(s, "node-1", "run-2", time.Hour)
	t.reap(s)
	t.check(s.EndLease(t.Context(), "node-1", "run-2"))
	lost("run-1")
	lost("run-2")
}

func leaseRenewedLate(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run-1")
	t.lasts(s, "node-1", "run-1", -time.Minute)
	first := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.reap(s, first)
	// The node was only cut off. What it creates belongs to its run, whether it
	// creates it just before it renews its lease or just after.
	t.newSession(s, a.Owner, "s2", "phone", "node-1")
	t.lasts(s, "node-1", "run-1", time.Hour)
	t.newSession(s, a.Owner, "s3", "desktop", "node-1")
	t.reap(s)
}

func reapLimit(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for _, name := range []string{"1", "2", "3", "4", "5"} {
		t.newSession(s, a.Owner, "s"+name, "r"+name, "node-"+name[:1])
	}
	seen := make(map[string]bool)
	for _, want := range []int{2, 2, 1, 0} {
		got, err := s.ReapSessions(t.Context(), "reaper", 2)
		t.check(err)
		t.equal("reaped sessions", len(got), want)
		for _, session := range got {
			if seen[session.ID] {
				t.Errorf("session %s was reaped twice", session.ID)
			}
			seen[session.ID] = true
			t.check(s.ForgetReaped(t.Context(), []string{session.ID}))
		}
	}
	t.newSession(s, a.Owner, "s6", "r6", "node-1")
	for _, limit := range []int{0, -1} {
		got, err := s.ReapSessions(t.Context(), "reaper", limit)
		t.check(err)
		t.equal("reaped sessions", len(got), 0)
	}
}

// reapedUntilForgotten checks that what a node has ended is left to it until it forgets it, and to the next
// one when its lease is over.
func reapedUntilForgotten(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	first, second := t.newSession(s, a.Owner, "s1", "phone", "node-1"), t.newSession(s, a.Owner, "s2", "pad", "node-1")
	t.check(s.SaveResumable(t.Context(), "s2", 1, store.Resumable{State: []byte("state")}))
	second.State = "state"
	for _, node := range []string{"node-2", "node-3", "node-4"} {
		t.take(s, node, "run")
	}
	t.owes(s, "node-2", first, second)
	t.newSession(s, a.Owner, "s3", "phone", "node-4") // what was reaped is not in its way
	t.owes(s, "node-2", first, second)
	t.owes(s, "node-3")
	t.take(s, "node-2", "later") // it goes on with what it has left
	t.owes(s, "node-2", first, second)
	t.owes(s, "node-3")
	t.check(s.ForgetReaped(t.Context(), []string{"s1", "s4"}))
	t.owes(s, "node-2", second)
	t.check(s.EndLease(t.Context(), "node-2", "later"))
	t.owes(s, "node-3", second)
	t.owes(s, "node-4")
	t.lasts(s, "node-3", "run", 0)
	t.owes(s, "node-4", second)
	t.owes(s, "node-3")
	t.check(s.DeleteAccount(t.Context(), a.User))
	t.owes(s, "node-4")
}

// noteShown checks that what is noted of a session is known to whoever announces its end, which is left to
// whoever replaces it until it forgets that.
func noteShown(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		t.take(s, node, "run")
	}
	phone, pad := t.newSession(s, a.Owner, "s1", "phone", "node-1"), t.newSession(s, a.Owner, "s2", "pad", "node-1")
	t.check(s.NoteShown(t.Context(), "s1", 1, "first"))
	t.check(s.NoteShown(t.Context(), "s1", 1, "é"))
	t.wantErr(s.NoteShown(t.Context(), "s1", 2, "later"), store.ErrFenced)
	t.wantErr(s.NoteShown(t.Context(), "s3", 1, "nobody"), store.ErrFenced)
	t.check(s.SaveResumable(t.Context(), "s2", 1, store.Resumable{State: []byte("state")}))
	t.check(s.NoteShown(t.Context(), "s2", 1, "pad"))
	got, err := s.SessionsOf(t.Context(), a.Owner)
	t.check(err)
	t.equal("sessions", got, []store.Session{pad, phone})
	phone.Shown, pad.Shown, pad.State = "é", "pad", "state"
	got, err = s.StatesOf(t.Context(), a.Owner)
	t.check(err)
	t.equal("sessions with what they have shown", got, []store.Session{pad, phone})

	replaced, err := s.CreateSession(t.Context(), store.Session{ID: "s4", Owner: a.Owner, Resource: "phone", Node: "node-2"})
	t.check(err)
	t.equal("replaced", replaced, &phone)
	t.owes(s, "node-1")
	t.owes(s, "node-2", phone)
	t.check(s.ForgetReaped(t.Context(), []string{"s1"}))
	t.owes(s, "node-2")
	replaced, err = s.CreateSession(t.Context(), store.Session{ID: "s5", Owner: a.Owner, Resource: "pad", Node: "node-2"})
	t.check(err)
	t.equal("replaced", replaced, &pad)
	t.lasts(s, "node-2", "run", time.Minute)
	t.owes(s, "node-3")
	t.check(s.SaveResumable(t.Context(), "s4", 1, store.Resumable{Hold: time.Hour}))
	t.check(s.SaveResumable(t.Context(), "s5", 1, store.Resumable{Hold: time.Hour}))
	t.lasts(s, "node-2", "run", 0) // it dies before it has told anybody
	t.owes(s, "node-3", pad)
	t.check(s.ForgetReaped(t.Context(), []string{"s2"}))
	t.check(s.NoteShown(t.Context(), "s4", 1, "again"))
	t.check(s.EndSession(t.Context(), "s4", 1)) // by itself
	t.owes(s, "node-3")
	_, err = s.CreateSession(t.Context(), store.Session{ID: "s6", Owner: a.Owner, Resource: "pad", Node: "node-3"})
	t.check(err)
	t.owes(s, "node-3") // what was replaced had shown itself to nobody
}

func liveNodes(t suite, s store.Store) {
	want := func(names ...string) {
		t.Helper()
		got, err := s.LiveNodes(t.Context())
		t.check(err)
		t.equal("live nodes", got, names)
	}
	want()
	t.take(s, "node-2", "a")
	t.take(s, "node-1", "b")
	t.take(s, "node-3", "c")
	t.take(s, "node-4", "d")
	want("node-1", "node-2", "node-3", "node-4")
	t.check(s.EndLease(t.Context(), "node-3", "c"))
	t.lasts(s, "node-4", "d", 0)
	want("node-1", "node-2")
	t.check(s.TakeLease(t.Context(), "node-1", "e", 0))
	want("node-2")
}
