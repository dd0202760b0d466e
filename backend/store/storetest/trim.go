package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"imlb/backend/store"
)

// past and future are ages that nothing, and everything, has reached.
func past() time.Time   { return time.Now().Add(-time.Hour) }
func future() time.Time { return time.Now().Add(time.Hour) }

// trim removes all that goes, in steps.
func (t suite) trim(s store.Store, r store.Retention, step int) (removed, steps int) {
	t.Helper()
	for from := store.OwnerID(0); ; {
		next, n, err := s.Trim(t.Context(), r, from, step)
		t.check(err)
		removed += n
		if n > 0 {
			steps++
		}
		if next == 0 {
			return removed, steps
		}
		from = next
	}
}

func trimByCount(t suite, s store.Store) {
	a, b, c := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner, t.newAccount(s, carolJID).Owner
	for _, owner := range []store.OwnerID{a, b, c} {
		t.conversation(s, owner, carolJID, carolJID, carolJID, carolJID, carolJID, carolJID)
	}
	t.check(s.SetDelivered(t.Context(), map[store.OwnerID]uint64{a: 6, b: 1}))
	removed, _ := t.trim(s, store.Retention{Keep: 6, Before: past(), Lost: past()}, 100)
	t.equal("removed", removed, 0)
	removed, _ = t.trim(s, store.Retention{Keep: 2}, 100)
	t.equal("removed", removed, 5)
	t.left(s, a, 5, 6)
	t.span(s, a, 5, 6, 6)
	t.left(s, b, 2, 3, 4, 5, 6) // the rest is not delivered
	t.span(s, b, 2, 6, 1)
	t.left(s, c, 1, 2, 3, 4, 5, 6)
	removed, _ = t.trim(s, store.Retention{Keep: 2}, 100)
	t.equal("removed again", removed, 0)
	t.found(s, a, store.Range{After: 1, Limit: 9}, 5, 6)
}

func trimByAge(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner
	for _, owner := range []store.OwnerID{a, b} {
		t.conversation(s, owner, carolJID, carolJID, carolJID)
	}
	t.check(s.SetDelivered(t.Context(), map[store.OwnerID]uint64{a: 2}))
	t.trim(s, store.Retention{}, 100)
	t.trim(s, store.Retention{Before: past(), Lost: past(), Hidden: future()}, 100)
	t.left(s, a, 1, 2, 3)
	t.trim(s, store.Retention{Before: future()}, 100)
	t.left(s, a, 3)
	t.span(s, a, 3, 3, 2)
	t.left(s, b, 1, 2, 3)
	t.trim(s, store.Retention{Before: future(), Lost: future()}, 100)
	t.left(s, a)
	t.span(s, a, 4, 3, 3) // what is gone need not be delivered
	t.left(s, b)
	t.span(s, b, 4, 3, 3)
}

func trimHidden(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.conversation(s, a, bobJID+"!", bobJID, bobJID+"!", bobJID, bobJID+"!")
	t.trim(s, store.Retention{Hidden: future()}, 100)
	t.left(s, a, 1, 2, 3, 4, 5)
	t.check(s.SetDelivered(t.Context(), map[store.OwnerID]uint64{a: 4}))
	t.trim(s, store.Retention{Hidden: past()}, 100)
	t.left(s, a, 1, 2, 3, 4, 5)
	removed, _ := t.trim(s, store.Retention{Hidden: future()}, 100)
	t.equal("removed", removed, 2)
	t.left(s, a, 2, 4, 5)
	t.span(s, a, 1, 5, 4)
	t.found(s, a, store.Range{Limit: 9}, 2, 4)
	t.trim(s, store.Retention{Keep: 2}, 100)
	t.left(s, a, 4, 5)
	t.span(s, a, 3, 5, 4)
}

// trimInSteps checks that a step is no larger than it may be, and that all of many
// timelines is looked at.
func trimInSteps(t suite, s store.Store) {
	const users, each, step = 5, 20, 7
	delivered := make(map[store.OwnerID]uint64)
	var owners []store.OwnerID
	for i := range users {
		a := t.newAccount(s, fmt.Sprintf("user%d@example.com", i)).Owner
		owners = append(owners, a)
		delivered[a] = each
		for range each {
			t.conversation(s, a, bobJID)
		}
	}
	t.check(s.SetDelivered(t.Context(), delivered))
	removed, steps := t.trim(s, store.Retention{Keep: 1}, step)
	t.equal("removed", removed, users*(each-1))
	t.equal("steps", steps, users*3)
	for _, owner := range owners {
		t.left(s, owner, each)
	}
}

func trimTogether(t suite) {
	const each = 200
	stores := t.two()
	a := t.newAccount(stores[0], "alice@example.com").Owner
	for range each {
		t.conversation(stores[0], a, bobJID)
	}
	t.check(stores[0].SetDelivered(t.Context(), map[store.OwnerID]uint64{a: each}))
	var removed atomic.Int64
	t.together(4, func(i int) error {
		if i == 3 {
			_, err := stores[0].AppendBatch(t.Context(), []store.Append{{Drafts: []store.Draft{text(a, "late")}}})
			return err
		}
		for from := store.OwnerID(0); ; {
			next, n, err := stores[i%2].Trim(t.Context(), store.Retention{Keep: 10}, from, 15)
			removed.Add(int64(n))
			if err != nil || next == 0 {
				return err
			}
			from = next
		}
	})
	page, err := stores[1].Read(t.Context(), a, 0, 1000)
	t.check(err)
	t.equal("entries", int64(len(page)), each+1-removed.Load())
	t.equal("no hole", page[len(page)-1].Seq-page[0].Seq+1, uint64(len(page)))
	t.span(stores[0], a, page[0].Seq, each+1, each)
}

func appendAfterTrim(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.conversation(s, a, bobJID, bobJID)
	t.trim(s, store.Retention{Lost: future()}, 100)
	t.left(s, a)
	t.conversation(s, a, bobJID, bobJID)
	t.left(s, a, 3, 4)
	t.span(s, a, 3, 4, 2)
}
