package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/backend/store"
)

// converse gives alice n messages more, of three contacts, the last of whom writes seldom.
func converse(t *testing.T, s store.Store, owner store.OwnerID, from, n int) {
	t.Helper()
	var batch []store.Append
	for i := from; i < from+n; i++ {
		peer := fmt.Sprint("contact", i%2)
		if i%50 == 7 {
			peer = "seldom"
		}
		batch = append(batch, store.Append{Drafts: []store.Draft{{Owner: owner, Peer: peer, Stanza: []byte("<message/>"), Hidden: i%11 == 0}}})
		if len(batch) == 1+i%9 {
			answers, err := s.AppendBatch(t.Context(), batch)
			if err != nil || slices.ContainsFunc(answers, func(a store.Appended) bool { return a.Err != nil }) {
				t.Fatal(answers, err)
			}
			batch = nil
		}
	}
	if _, err := s.AppendBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// checkContacts compares what is found of each contact with the whole timeline.
func checkContacts(t *testing.T, s store.Store, owner store.OwnerID) {
	t.Helper()
	all, err := s.Read(t.Context(), owner, 0, 10000)
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range []string{"contact0", "contact1", "seldom", "nobody"} {
		for _, r := range []store.Range{
			{Limit: 10000}, {Limit: 7}, {Limit: 7, Newest: true}, {After: 60, Before: 70, Limit: 100}, {After: 40, Limit: 30},
			{Before: 150, Limit: 30, Newest: true}, {After: 190, Limit: 9, Newest: true}, {After: 100000, Limit: 5},
		} {
			r.Peer = peer
			want := naively(all, r)
			got, err := s.Find(t.Context(), owner, r)
			if err != nil || !slices.EqualFunc(got, want, func(a, b store.Entry) bool { return a.Seq == b.Seq && a.Peer == b.Peer }) {
				t.Errorf("%+v: found %d, want %d: %v", r, len(got), len(want), err)
			}
			if n, err := s.Count(t.Context(), owner, r); err != nil || n != len(want) {
				t.Errorf("%+v: counted %d, want %d: %v", r, n, len(want), err)
			}
		}
	}
}

func naively(all []store.Entry, r store.Range) (found []store.Entry) {
	for _, e := range all {
		if e.Peer == r.Peer && !e.Hidden && e.Seq > r.After && (r.Before == 0 || e.Seq < r.Before) {
			found = append(found, e)
		}
	}
	if r.Newest {
		slices.Reverse(found)
	}
	return found[:min(len(found), r.Limit)]
}

// The entries of a contact are found whether or not they are in the index that knows
// them, and go out of it with the entries.
func TestContacts(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer s.Close()
		a, err := s.CreateAccount(t.Context(), "alice@example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{20, 43, 1, 1, 70, 129} {
			head, _, err := s.Head(t.Context(), a.Owner)
			if err != nil {
				t.Fatal(err)
			}
			converse(t, s, a.Owner, int(head)+1, n)
			checkContacts(t, s, a.Owner)
		}
		if err := s.SetDelivered(t.Context(), map[store.OwnerID]uint64{a.Owner: 200}); err != nil {
			t.Fatal(err)
		}
		trimAll(t, s, store.Retention{Keep: 100})
		checkContacts(t, s, a.Owner)
		if _, err := s.EraseAccount(t.Context(), a.User); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(url, "postgres") {
			if left := lines(t, look(t, url), `SELECT COUNT(*) FROM peer_index`); left[0] != "0" {
				t.Errorf("%s rows are left of a deleted timeline", left[0])
			}
		}
	})
}

func trimAll(t *testing.T, s store.Store, r store.Retention) {
	t.Helper()
	for from := store.OwnerID(1); from != 0; {
		next, _, err := s.Trim(t.Context(), r, from, 30)
		if err != nil {
			t.Fatal(err)
		}
		from = next
	}
}

// Entries that came before there was the index, or from another server, are found.
func TestContactsOfOldEntries(t *testing.T) {
	t.Parallel()
	url := t.TempDir() + "/imlb.db"
	s := open(t, url, store.Options{})
	defer func() { s.Close() }()
	ctx := context.Background()
	var owners []store.OwnerID
	for i := range 2 {
		a, err := s.CreateAccount(ctx, fmt.Sprintf("user%d@example.com", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		owners = append(owners, a.Owner)
	}
	converse(t, s, owners[0], 1, 150)
	restored, err := s.Read(ctx, owners[0], 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RestoreEntries(ctx, owners[1], slices.DeleteFunc(restored, func(e store.Entry) bool { return e.Seq%5 == 0 })); err != nil {
		t.Fatal(err)
	}
	undoPeerIndex(t, look(t, url))
	s.Close()
	s = open(t, url, store.Options{})
	for i, owner := range owners {
		converse(t, s, owner, 151, 10+60*i)
		checkContacts(t, s, owner)
	}
}
