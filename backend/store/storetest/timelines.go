package storetest

import (
	"math"

	"imlb/backend/store"
)

func timelineTests() []test {
	return []test{
		{"NumbersAndFields", on(numbersAndFields)},
		{"OneBatchManyOwners", on(oneBatchManyOwners)},
		{"TwiceOnOneTimeline", on(twiceOnOneTimeline)},
		{"EmptyBatch", on(emptyBatch)},
		{"Fence", on(fenceAppends)},
		{"FencedTakesNoNumber", on(fencedTakesNoNumber)},
		{"HandledIsTheLast", on(handledIsTheLast)},
		{"MissingOwner", on(appendToMissingOwner)},
		{"MissingOwnerLeavesHandled", on(missingOwnerLeavesHandled)},
		{"Pages", on(pages)},
		{"SlicesAreCopied", on(entrySlices)},
		{"Delivered", on(delivered)},
		{"HeadOfMissingOwner", on(headOfMissingOwner)},
	}
}

func numbersAndFields(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	drafts := []store.Draft{
		{Owner: a.Owner, Peer: "bob@example.com", Sent: true, Resource: "phone", Stanza: []byte("<message>1</message>")},
		{Owner: a.Owner, Peer: "", Resource: "", Stanza: []byte{0, 0xff, '\''}},
		{Owner: a.Owner, Peer: "🙂@example.com", Stanza: nil},
	}
	var want []store.Entry
	for i, d := range drafts {
		done := t.appendOne(s, store.Append{Drafts: []store.Draft{d}})
		t.equal("numbers", done.Seqs, []uint64{uint64(i) + 1})
		t.recent(done.Time)
		want = append(want, store.Entry{
			Seq: uint64(i) + 1, Time: done.Time, Peer: d.Peer, Sent: d.Sent, Resource: d.Resource, Stanza: d.Stanza,
		})
	}
	got := t.readAll(s, a.Owner)
	for i := range got {
		if len(got[i].Stanza) == 0 {
			got[i].Stanza = nil
		}
	}
	t.equal("entries", got, want)
	head, _, err := s.Head(t.Context(), a.Owner)
	t.check(err)
	t.equal("head", head, uint64(3))
}

func oneBatchManyOwners(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, "bob@example.com").Owner
	batch := []store.Append{
		{Drafts: []store.Draft{text(b, "1"), text(a, "1")}},
		{Drafts: []store.Draft{text(a, "2")}},
		{Drafts: []store.Draft{text(a, "3"), text(b, "2")}},
	}
	done, err := s.AppendBatch(t.Context(), batch)
	t.check(err)
	for i, want := range [][]uint64{{1, 1}, {2}, {3, 2}} {
		t.check(done[i].Err)
		t.equal("numbers", done[i].Seqs, want)
	}
	for owner, want := range map[store.OwnerID][]string{a: {"1", "2", "3"}, b: {"1", "2"}} {
		t.equal("bodies", bodies(t.readAll(s, owner)), want)
	}
}

func bodies(entries []store.Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, string(e.Stanza))
	}
	return all
}

func twiceOnOneTimeline(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	// A message to oneself is two entries on one timeline.
	done := t.appendOne(s, store.Append{Drafts: []store.Draft{text(a, "sent"), text(a, "received")}})
	t.equal("numbers", done.Seqs, []uint64{1, 2})
	t.equal("bodies", bodies(t.readAll(s, a)), []string{"sent", "received"})
}

func emptyBatch(t suite, s store.Store) {
	done, err := s.AppendBatch(t.Context(), nil)
	t.check(err)
	t.equal("answers", len(done), 0)
	a := t.newAccount(s, "alice@example.com").Owner
	t.newSession(s, a, "s1", "phone", "node-1")
	answer := t.appendOne(s, store.Append{Session: "s1", Epoch: 1, Handled: 7})
	t.recent(answer.Time)
	t.handled(s, "s1", 7)
}

func (t suite) handled(s store.Store, id string, want uint32) {
	t.Helper()
	session, err := s.Session(t.Context(), id)
	t.check(err)
	t.equal("handled", session.Handled, want)
}

func fenceAppends(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.newSession(s, a, "s1", "phone", "node-1")
	t.newSession(s, a, "s2", "desktop", "node-1")
	t.check(s.EndSession(t.Context(), "s2", 1))
	drafts := []store.Draft{text(a, "x")}
	done, err := s.AppendBatch(t.Context(), []store.Append{
		{Session: "s1", Epoch: 2, Handled: 9, Drafts: drafts},
		{Session: "s1", Epoch: 0, Handled: 9, Drafts: drafts},
		{Session: "s1", Epoch: math.MaxUint64, Handled: 9, Drafts: drafts},
		{Session: "s2", Epoch: 1, Handled: 9, Drafts: drafts},
		{Session: "never", Epoch: 1, Handled: 9, Drafts: drafts},
	})
	t.check(err)
	for _, d := range done {
		t.wantErr(d.Err, store.ErrFenced)
		t.equal("numbers", len(d.Seqs), 0)
	}
	t.equal("entries", len(t.readAll(s, a)), 0)
	t.handled(s, "s1", 0)
}

func fencedTakesNoNumber(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, "bob@example.com").Owner
	t.newSession(s, a, "s1", "phone", "node-1")
	batch := []store.Append{
		{Session: "s1", Epoch: 1, Handled: 1, Drafts: []store.Draft{text(a, "1"), text(b, "1")}},
		{Session: "gone", Epoch: 1, Handled: 1, Drafts: []store.Draft{text(b, "lost"), text(a, "lost")}},
		{Drafts: []store.Draft{text(b, "2")}},
		{Session: "s1", Epoch: 2, Handled: 9, Drafts: []store.Draft{text(b, "lost")}},
		{Session: "s1", Epoch: 1, Handled: 2, Drafts: []store.Draft{text(a, "2"), text(b, "3")}},
	}
	done, err := s.AppendBatch(t.Context(), batch)
	t.check(err)
	for i, want := range [][]uint64{{1, 1}, nil, {2}, nil, {2, 3}} {
		if want == nil {
			t.wantErr(done[i].Err, store.ErrFenced)
			continue
		}
		t.check(done[i].Err)
		t.equal("numbers", done[i].Seqs, want)
	}
	t.equal("alice's", bodies(t.readAll(s, a)), []string{"1", "2"})
	t.equal("bob's", bodies(t.readAll(s, b)), []string{"1", "2", "3"})
	t.handled(s, "s1", 2)
}

func handledIsTheLast(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.newSession(s, a, "s1", "phone", "node-1")
	t.newSession(s, a, "s2", "desktop", "node-1")
	_, err := s.AppendBatch(t.Context(), []store.Append{
		{Session: "s1", Epoch: 1, Handled: math.MaxUint32 - 1, Drafts: []store.Draft{text(a, "1")}},
		{Session: "s2", Epoch: 1, Handled: 5, Drafts: []store.Draft{text(a, "2")}},
		{Session: "s1", Epoch: 1, Handled: math.MaxUint32, Drafts: []store.Draft{text(a, "3")}},
		{Session: "s1", Epoch: 1, Handled: 0, Drafts: []store.Draft{text(a, "4")}}, // modulo 2^32
	})
	t.check(err)
	t.handled(s, "s1", 0)
	t.handled(s, "s2", 5)
	t.appendOne(s, store.Append{Session: "s1", Epoch: 1, Handled: math.MaxUint32})
	t.handled(s, "s1", math.MaxUint32)
}

func appendToMissingOwner(t suite, s store.Store) {
	a, gone := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.check(s.DeleteAccount(t.Context(), gone.User))
	done, err := s.AppendBatch(t.Context(), []store.Append{
		{Drafts: []store.Draft{text(a.Owner, "1")}},
		{Drafts: []store.Draft{text(a.Owner, "lost"), text(gone.Owner, "lost")}},
		{Drafts: []store.Draft{text(gone.Owner, "lost")}},
		{Drafts: []store.Draft{text(a.Owner, "2")}},
		{Drafts: []store.Draft{text(gone.Owner+1000, "lost"), text(a.Owner, "lost")}},
	})
	t.check(err)
	for i, want := range [][]uint64{{1}, nil, nil, {2}, nil} {
		if want == nil {
			t.wantErr(done[i].Err, store.ErrNotFound)
			continue
		}
		t.check(done[i].Err)
		t.equal("numbers", done[i].Seqs, want)
	}
	t.equal("bodies", bodies(t.readAll(s, a.Owner)), []string{"1", "2"})
	t.equal("entries of nobody", len(t.readAll(s, gone.Owner)), 0)
}

func missingOwnerLeavesHandled(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.newSession(s, a, "s1", "phone", "node-1")
	t.newSession(s, a, "s2", "desktop", "node-1")
	t.check(s.SetHandled(t.Context(), "s2", 1, 3))
	const nobody = 12345
	done, err := s.AppendBatch(t.Context(), []store.Append{
		{Session: "s1", Epoch: 1, Handled: 1, Drafts: []store.Draft{text(a, "1")}},
		{Session: "s1", Epoch: 1, Handled: 2, Drafts: []store.Draft{text(nobody, "lost")}},
		{Session: "s2", Epoch: 1, Handled: 4, Drafts: []store.Draft{text(nobody, "lost")}},
		{Session: "gone", Epoch: 1, Handled: 4, Drafts: []store.Draft{text(nobody, "lost")}},
	})
	t.check(err)
	t.check(done[0].Err)
	t.wantErr(done[1].Err, store.ErrNotFound)
	t.wantErr(done[2].Err, store.ErrNotFound)
	t.wantErr(done[3].Err, store.ErrFenced) // which is looked at first
	t.handled(s, "s1", 1)
	t.handled(s, "s2", 3)
}

func pages(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, "bob@example.com").Owner
	for i := range 10 {
		t.appendOne(s, store.Append{Drafts: []store.Draft{text(a, "%d", i+1), text(b, "other")}})
	}
	for _, one := range []struct {
		after uint64
		limit int
		first uint64
		count int
	}{
		{0, 100, 1, 10},
		{0, 3, 1, 3},
		{3, 3, 4, 3},
		{8, 3, 9, 2},
		{10, 3, 0, 0},
		{11, 3, 0, 0},
		{math.MaxInt64, 3, 0, 0},
		{math.MaxUint64, 3, 0, 0},
		{0, 0, 0, 0},
		{0, -1, 0, 0},
	} {
		page, err := s.Read(t.Context(), a, one.after, one.limit)
		t.check(err)
		if len(page) != one.count || (one.count > 0 && page[0].Seq != one.first) {
			t.Errorf("after %d, limit %d: %d entries: %v", one.after, one.limit, len(page), bodies(page))
		}
	}
	page, err := s.Read(t.Context(), 12345, 0, 10)
	t.check(err)
	t.equal("entries of nobody", len(page), 0)
}

func entrySlices(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	stanza := []byte("abc")
	t.appendOne(s, store.Append{Drafts: []store.Draft{{Owner: a, Stanza: stanza}}})
	stanza[0] = 'x'
	first := t.readAll(s, a)
	t.equal("bodies", bodies(first), []string{"abc"})
	first[0].Stanza[1] = 'x'
	t.equal("bodies", bodies(t.readAll(s, a)), []string{"abc"})
}

func delivered(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, "bob@example.com").Owner
	for range 5 {
		t.appendOne(s, store.Append{Drafts: []store.Draft{text(a, "x"), text(b, "x")}})
	}
	for _, step := range []struct {
		set  map[store.OwnerID]uint64
		a, b uint64
	}{
		{nil, 0, 0},
		{map[store.OwnerID]uint64{a: 2}, 2, 0},
		{map[store.OwnerID]uint64{a: 1, b: 4, 12345: 3}, 2, 4},
		{map[store.OwnerID]uint64{a: 3, b: 0}, 3, 4},
		{map[store.OwnerID]uint64{a: 6, b: math.MaxUint64}, 5, 5},
	} {
		t.check(s.SetDelivered(t.Context(), step.set))
		for owner, want := range map[store.OwnerID]uint64{a: step.a, b: step.b} {
			head, delivered, err := s.Head(t.Context(), owner)
			t.check(err)
			t.equal("head and delivered", [2]uint64{head, delivered}, [2]uint64{5, want})
		}
	}
	t.appendOne(s, store.Append{Drafts: []store.Draft{text(a, "x")}})
	head, seen, err := s.Head(t.Context(), a)
	t.check(err)
	t.equal("head and delivered", [2]uint64{head, seen}, [2]uint64{6, 5})
}

func headOfMissingOwner(t suite, s store.Store) {
	_, _, err := s.Head(t.Context(), 12345)
	t.wantErr(err, store.ErrNotFound)
}
