package storetest

import (
	"fmt"
	"math"
	"time"

	"imlb/backend/store"
)

func resumptionTests() []test {
	return []test{
		{"Resume", on(resume)},
		{"Fenced", on(resumeFences)},
		{"NotResumable", on(notResumable)},
		{"Points", on(resumePoints)},
		{"LatestPoint", on(latestPoint)},
		{"Note", on(resumeNote)},
		{"Unsure", on(unsureResumable)},
		{"Parked", on(parked)},
		{"ParkedLater", on(parkedLater)},
		{"Ended", on(endedSessions)},
		{"Replaced", on(replacedResumable)},
		{"AccountDeleted", on(deletedResumable)},
		{"ReapedLater", on(reapedLater)},
		{"LeaseOver", on(leaseOver)},
	}
}

// resumable is what the tests save. It has waited for a minute.
func resumable() store.Resumable {
	return store.Resumable{
		Hold: 5 * time.Minute, Parked: waiting(time.Minute), Handled: math.MaxUint32, Count: math.MaxUint32 - 1, Pos: 7, Claimed: math.MaxInt64, Voided: math.MaxUint32,
		Told: store.Versions{Roster: 5, Blocklist: 6}, Early: []byte("early"), State: []byte("state"),
	}
}

// waiting is since when a session waits that has done so for a while.
func waiting(d time.Duration) time.Time { return time.Now().UTC().Add(-d).Truncate(time.Millisecond) }

// sameResumable allows for the time that a test takes.
func (t suite) sameResumable(what string, got, want store.Resumable) {
	t.Helper()
	if d := got.Parked.Sub(want.Parked); d.Abs() > 20*time.Second {
		t.Errorf("%s: waits since %v, want %v", what, got.Parked, want.Parked)
	}
	got.Parked, got.Lease = want.Parked, want.Lease
	t.equal(what, got, want)
}

func resume(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-2", "run")
	before := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	got, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	want := before
	want.Node, want.Epoch, want.Handled = "node-2", 2, math.MaxUint32
	t.equal("session", got, want)
	t.sameResumable("resumable", r, resumable())
	t.reap(s)                                                     // it belongs to the new node's lease
	_, _, err = s.Resume(t.Context(), "s1", a.Owner, "node-1", 1) // it was resumed since
	t.wantErr(err, store.ErrFenced)
	got, r, err = s.Resume(t.Context(), "s1", a.Owner, "node-1", 2)
	t.check(err)
	if !r.Parked.IsZero() || got.Epoch != 3 {
		t.Errorf("it still waits, or somebody had it: %v, epoch %d", r.Parked, got.Epoch)
	}
}

func resumeFences(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	_, _, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	t.wantErr(s.SaveResumable(t.Context(), "s1", 1, resumable()), store.ErrFenced)
	t.wantErr(s.SetHandled(t.Context(), "s1", 1, 3), store.ErrFenced)
	t.wantErr(s.EndSession(t.Context(), "s1", 1), store.ErrFenced)
	done, err := s.AppendBatch(t.Context(), []store.Append{{Session: "s1", Epoch: 1, Drafts: []store.Draft{{Owner: a.Owner}}}})
	t.check(err)
	t.wantErr(done[0].Err, store.ErrFenced)
	t.check(s.SaveResumable(t.Context(), "s1", 2, resumable()))
	t.wantErr(s.SaveResumable(t.Context(), "s2", 1, resumable()), store.ErrFenced)
}

func notResumable(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	_, _, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.wantErr(err, store.ErrNotFound)
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	_, _, err = s.Resume(t.Context(), "s1", b.Owner, "node-2", 0) // somebody else's
	t.wantErr(err, store.ErrNotFound)
	_, err = s.Holding(t.Context(), "s1", b.Owner)
	t.wantErr(err, store.ErrNotFound)
	got, err := s.Session(t.Context(), "s1")
	t.check(err)
	if got.Epoch != 1 {
		t.Errorf("epoch %d", got.Epoch)
	}
}

func resumePoints(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for _, id := range []string{"s1", "s2", "s3"} {
		t.newSession(s, a.Owner, id, id, "node-1")
	}
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	t.check(s.SaveResumable(t.Context(), "s2", 1, resumable()))
	t.check(s.SetResumePoints(t.Context(), nil))
	t.check(s.SetResumePoints(t.Context(), []store.ResumePoint{
		{ID: "s2", Epoch: 2, Count: 5, Pos: 50, Voided: 5}, {ID: "s3", Epoch: 1}, {ID: "none", Epoch: 1},
		{ID: "s1", Epoch: 1, Count: 3, Pos: 30, Claimed: 29, Voided: 4, Told: store.Versions{Roster: 8, Blocklist: 9}, Early: []byte("later"), Number: 1},
	}))
	_, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	want := resumable()
	want.Count, want.Pos, want.Claimed, want.Voided, want.Told, want.Early = 3, 30, 29, 4, store.Versions{Roster: 8, Blocklist: 9}, []byte("later")
	t.sameResumable("resumable", r, want)
	_, r, err = s.Resume(t.Context(), "s2", a.Owner, "node-2", 0)
	t.check(err)
	t.sameResumable("resumable of another epoch", r, resumable())
}

// An earlier point that is stored late changes nothing, but what is saved with it.
func latestPoint(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	at := func(number uint32) store.Resumable {
		r := resumable()
		r.Number, r.Pos, r.Claimed, r.Count, r.Voided, r.State = number, 10+uint64(number), 40+uint64(number), 20+number, 30+number, fmt.Append(nil, number)
		r.Told = store.Versions{Roster: 40 - uint64(number), Blocklist: 50 + uint64(number)}
		if r.Early = nil; number%2 == 0 {
			r.Early = fmt.Append(nil, number)
		}
		return r
	}
	save := func(epoch uint64, number uint32) {
		t.Helper()
		t.check(s.SaveResumable(t.Context(), "s1", epoch, at(number)))
	}
	set := func(epoch uint64, number uint32) {
		t.Helper()
		r := at(number)
		t.check(s.SetResumePoints(t.Context(), []store.ResumePoint{
			{ID: "s1", Epoch: epoch, Number: number, Count: r.Count, Pos: r.Pos, Claimed: r.Claimed, Voided: r.Voided, Told: r.Told, Early: r.Early},
		}))
	}
	want := func(point, state uint32) {
		t.Helper()
		want := at(point)
		want.Number, want.State, want.Parked = 0, fmt.Append(nil, state), time.Time{}
		_, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-1", 0)
		t.check(err)
		r.Parked, r.Lease = time.Time{}, time.Time{}
		t.equal("resumable", r, want)
	}
	save(1, 1)
	set(1, 3)
	set(1, 2)
	want(3, 1)
	save(2, 2) // of another owner, who counts anew
	set(1, 4)
	want(2, 2)
	save(3, 5)
	save(3, 4)
	want(5, 4)
	set(4, 1)
	want(1, 4)
}

func resumeNote(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.NoteResumable(t.Context(), "s1", a.Owner, []byte("too early")))
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	t.check(s.NoteResumable(t.Context(), "s1", a.Owner, []byte("word")))
	t.check(s.NoteResumable(t.Context(), "s1", b.Owner, []byte("lie")))
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable())) // leaves it as it is
	want := resumable()
	want.Note = []byte("word")
	_, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	t.sameResumable("resumable", r, want)
	_, r, err = s.Resume(t.Context(), "s1", a.Owner, "node-3", 0) // before node-2 has saved anything
	t.check(err)
	t.equal("note", r.Note, want.Note)
	for i, save := range []struct{ note, want []byte }{
		{nil, want.Note}, {[]byte("other"), []byte("other")}, {[]byte{}, nil}, {nil, nil},
	} {
		r.Note = save.note
		t.check(s.SaveResumable(t.Context(), "s1", uint64(3+i), r))
		_, got, err := s.Resume(t.Context(), "s1", a.Owner, "node-3", 0)
		t.check(err)
		t.equal("note", got.Note, save.want)
	}
}

// What is stored with a message stays when whoever has the session does not know of it.
func unsureResumable(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	_, err := s.AppendBatch(t.Context(), []store.Append{{Session: "s1", Epoch: 1, Handled: 0, Drafts: []store.Draft{{Owner: a.Owner}}}})
	t.check(err)
	r := resumable()
	r.Unsure, r.Pos = true, 8
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	got, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	if got.Handled != 0 || r.Handled != 0 || r.Pos != 8 {
		t.Errorf("handled %d and %d, at %d", got.Handled, r.Handled, r.Pos)
	}
}

func parked(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	r := resumable()
	r.Parked = time.Time{}
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	want := func(want store.Holding) {
		t.Helper()
		got, err := s.Holding(t.Context(), "s1", a.Owner)
		t.check(err)
		t.equal("holding", got, want)
	}
	want(store.Holding{Epoch: 1})
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	want(store.Holding{Epoch: 1, Parked: true})
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	t.check(s.TakeLease(t.Context(), "node-1", "run", -time.Second))
	want(store.Holding{Epoch: 1, Lapsed: "node-1"})
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	want(store.Holding{Epoch: 1, Parked: true, Lapsed: "node-1"})
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	t.check(s.EndLease(t.Context(), "node-1", "run"))
	want(store.Holding{Epoch: 1, Parked: true})
	t.take(s, "node-2", "run")
	_, _, err := s.Resume(t.Context(), "s1", a.Owner, "node-2", 0)
	t.check(err)
	got, err := s.Holding(t.Context(), "s1", a.Owner)
	t.check(err)
	if got.Parked || got.Lapsed != "" || got.Epoch != 2 || time.Since(got.Taken).Abs() > 20*time.Second {
		t.Errorf("%+v", got)
	}
}

// Who resumes a session is told how long its node can have had it.
func leaseOver(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for i, after := range []time.Duration{time.Hour, -time.Minute} {
		id, node := fmt.Sprint("s", i), fmt.Sprint("node-", i)
		t.take(s, node, "run")
		t.newSession(s, a.Owner, id, id, node)
		t.check(s.SaveResumable(t.Context(), id, 1, resumable()))
		t.lasts(s, node, "run", after)
		if after < 0 {
			t.take(s, node, "next run")
		}
		_, r, err := s.Resume(t.Context(), id, a.Owner, "node-0", 0)
		t.check(err)
		if d := time.Until(r.Lease) - after; d.Abs() > 20*time.Second {
			t.Errorf("a lease that is over in %v is said to be over in %v", after, time.Until(r.Lease))
		}
	}
}

// A session that nobody has waits from when that is known, and no longer than one that was left in order.
func parkedLater(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run")
	made := t.newSession(s, a.Owner, "s1", "phone", "node-1")
	r := resumable()
	r.Parked, r.Hold = time.Time{}, 0
	t.check(s.SaveResumable(t.Context(), "s1", 1, r))
	t.reap(s)
	t.wantErr(s.Park(t.Context(), "s1", 2), store.ErrFenced)
	t.wantErr(s.Park(t.Context(), "s2", 1), store.ErrFenced)
	t.reap(s)
	t.check(s.Park(t.Context(), "s1", 1))
	h, err := s.Holding(t.Context(), "s1", a.Owner)
	t.check(err)
	if !h.Parked {
		t.Error("it does not wait")
	}
	made.Handled, made.State = r.Handled, string(r.State)
	t.reap(s, made)
	t.newSession(s, a.Owner, "s3", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s3", 1, resumable()))
	t.check(s.Park(t.Context(), "s3", 1)) // it has waited for a while
	_, got, err := s.Resume(t.Context(), "s3", a.Owner, "node-1", 0)
	t.check(err)
	t.sameResumable("resumable", got, resumable())
}

func endedSessions(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	for _, id := range []string{"s1", "s2"} {
		t.newSession(s, a.Owner, id, id, "node-1")
	}
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	t.check(s.EndSession(t.Context(), "s1", 1))
	t.check(s.EndSession(t.Context(), "s2", 1))
	handled, err := s.EndedSession(t.Context(), "s1", a.Owner)
	t.check(err)
	if handled != math.MaxUint32 {
		t.Errorf("handled %d", handled)
	}
	_, err = s.EndedSession(t.Context(), "s1", b.Owner)
	t.wantErr(err, store.ErrNotFound)
	_, err = s.EndedSession(t.Context(), "s2", a.Owner) // was never resumable
	t.wantErr(err, store.ErrNotFound)
	t.check(s.ForgetEnded(t.Context(), time.Now().Add(-time.Hour), 10))
	_, err = s.EndedSession(t.Context(), "s1", a.Owner)
	t.check(err)
	t.check(s.ForgetEnded(t.Context(), time.Now().Add(time.Hour), 10))
	_, err = s.EndedSession(t.Context(), "s1", a.Owner)
	t.wantErr(err, store.ErrNotFound)
}

func replacedResumable(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	_, err := s.CreateSession(t.Context(), store.Session{ID: "s2", Owner: a.Owner, Resource: "phone", Node: "node-1"})
	t.check(err)
	_, _, err = s.Resume(t.Context(), "s1", a.Owner, "node-1", 0)
	t.wantErr(err, store.ErrNotFound)
	handled, err := s.EndedSession(t.Context(), "s1", a.Owner)
	t.check(err)
	if handled != math.MaxUint32 {
		t.Errorf("handled %d", handled)
	}
}

func deletedResumable(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SaveResumable(t.Context(), "s1", 1, resumable()))
	t.check(s.DeleteAccount(t.Context(), a.User))
	_, _, err := s.Resume(t.Context(), "s1", a.Owner, "node-1", 0)
	t.wantErr(err, store.ErrNotFound)
}

// reapedLater keeps a resumable session as long as its client may come back.
func reapedLater(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.take(s, "node-1", "run")
	save := func(id string, r store.Resumable) {
		t.Helper()
		t.check(s.SaveResumable(t.Context(), id, 1, r))
	}
	r := resumable()
	saved := func(id, resource string) store.Session {
		t.Helper()
		made := t.newSession(s, a.Owner, id, resource, "node-1")
		save(id, r)
		made.Handled, made.State = r.Handled, string(r.State)
		return made
	}
	r.Parked = waiting(r.Hold - time.Minute)
	zero := saved("s0", "watch")
	t.reap(s)
	r.Parked = waiting(r.Hold)
	save("s0", r)
	t.reap(s, zero)
	r.Parked = time.Time{}

	one := saved("s1", "phone")
	two := t.newSession(s, a.Owner, "s2", "desktop", "node-1")
	t.reap(s)
	t.lasts(s, "node-1", "run", 0)
	t.reap(s, two)
	t.lasts(s, "node-1", "run", time.Minute-r.Hold)
	t.reap(s)
	t.lasts(s, "node-1", "run", -r.Hold)
	t.reap(s, one)
	_, err := s.EndedSession(t.Context(), "s1", a.Owner)
	t.check(err)

	t.lasts(s, "node-1", "run", time.Hour)
	three := saved("s3", "tablet")
	t.check(s.EndLease(t.Context(), "node-1", "run"))
	t.reap(s)
	r.Hold = 0 // counted from when the lease was given back, not from when it would have ended
	save("s3", r)
	t.reap(s, three)
	r.Hold = resumable().Hold

	for _, run := range []string{"run-2", "run-3"} {
		t.take(s, "node-1", run)
	}
	four := saved("s4", "car")
	t.lasts(s, "node-1", "run-3", -r.Hold)
	t.take(s, "node-1", "run-4") // the last one was over for longer
	t.reap(s, four)
}
