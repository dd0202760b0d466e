package storetest

import (
	"fmt"

	"imlb/backend/store"
)

func room(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner
	t.newSession(s, b, "s1", "phone", "node-1")
	to := func(limit uint32) error {
		t.Helper()
		done, err := s.AppendBatch(t.Context(), []store.Append{{Session: "s1", Epoch: 1, Handled: limit, Drafts: []store.Draft{
			{Owner: a, Stanza: []byte("x"), Room: uint64(limit)}, {Owner: b, Stanza: []byte("x"), Sent: true},
		}}})
		t.check(err)
		if done[0].Err != nil {
			t.equal("numbers", len(done[0].Seqs), 0)
		}
		return done[0].Err
	}
	t.check(to(2))
	t.check(to(2))
	t.wantErr(to(1), store.ErrFull)
	t.wantErr(to(2), store.ErrFull)
	t.handled(s, "s1", 2)
	t.span(s, b, 1, 2, 0)
	t.check(to(3))
	t.wantErr(to(3), store.ErrFull)
	t.check(s.SetDelivered(t.Context(), map[store.OwnerID]uint64{a: 1}))
	t.check(to(3))
	t.wantErr(to(3), store.ErrFull)
	t.check(to(0)) // any number
	t.span(s, a, 1, 5, 1)
	t.span(s, b, 1, 5, 0)
}

// roomInABatch sends more than there is room for at once, and others along with it.
func roomInABatch(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner
	t.newSession(s, b, "s1", "phone", "node-1")
	var batch []store.Append
	for i := range uint32(10) {
		drafts := []store.Draft{{Owner: b, Stanza: []byte("x"), Sent: true}}
		if i%2 == 0 {
			drafts = append(drafts, store.Draft{Owner: a, Stanza: fmt.Append(nil, i), Room: 3})
		}
		batch = append(batch, store.Append{Session: "s1", Epoch: 1, Handled: i + 1, Drafts: drafts})
	}
	done, err := s.AppendBatch(t.Context(), batch)
	t.check(err)
	for i, d := range done {
		if i == 6 || i == 8 {
			t.wantErr(d.Err, store.ErrFull)
		} else {
			t.check(d.Err)
		}
	}
	t.equal("bodies", bodies(t.readAll(s, a)), []string{"0", "2", "4"})
	t.span(s, b, 1, 8, 0)
	t.handled(s, "s1", 10)
}
