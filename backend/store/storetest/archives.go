package storetest

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"imlb/backend/store"
)

func archiveTests() []test {
	return []test{
		{"Find", on(find)},
		{"FindNothing", on(findNothing)},
		{"HiddenIsReadButNotFound", on(hiddenEntries)},
		{"Prefs", on(archivePrefs)},
		{"PrefsAreHonoured", on(prefsAreHonoured)},
		{"PrefsAndRosters", on(prefsAndRosters)},
		{"PrefsOfMissingOwner", on(prefsOfMissingOwner)},
		{"Room", on(room)},
		{"RoomInABatch", on(roomInABatch)},
		{"TrimByCount", on(trimByCount)},
		{"TrimByAge", on(trimByAge)},
		{"TrimHidden", on(trimHidden)},
		{"TrimInSteps", on(trimInSteps)},
		{"TrimTogether", trimTogether},
		{"AppendAfterTrim", on(appendAfterTrim)},
		{"OneClaimOfAJob", claimJob},
	}
}

const (
	bobJID   = "bob@example.com"
	carolJID = "carol@example.com"
)

// conversation appends entries: one for each name of the other party. A name that
// ends with "!" is that of a hidden one.
func (t suite) conversation(s store.Store, owner store.OwnerID, peers ...string) {
	t.Helper()
	var batch []store.Append
	for i, peer := range peers {
		d := store.Draft{Owner: owner, Peer: peer, Stanza: fmt.Append(nil, i+1)}
		if n := len(peer) - 1; peer[n] == '!' {
			d.Peer, d.Hidden = peer[:n], true
		}
		batch = append(batch, store.Append{Drafts: []store.Draft{d}})
	}
	done, err := s.AppendBatch(t.Context(), batch)
	t.check(err)
	for _, a := range done {
		t.check(a.Err)
	}
}

func numbers(entries []store.Entry) []uint64 {
	var all []uint64
	for _, e := range entries {
		all = append(all, e.Seq)
	}
	return all
}

// found checks the numbers of what is in a range.
func (t suite) found(s store.Store, owner store.OwnerID, r store.Range, want ...uint64) {
	t.Helper()
	page, err := s.Find(t.Context(), owner, r)
	t.check(err)
	t.equal(fmt.Sprintf("%+v", r), numbers(page), want)
	n, err := s.Count(t.Context(), owner, r)
	t.check(err)
	t.equal(fmt.Sprintf("count of %+v", r), n, len(want))
}

// left checks the numbers of what there is, found or hidden.
func (t suite) left(s store.Store, owner store.OwnerID, want ...uint64) {
	t.Helper()
	page, err := s.Read(t.Context(), owner, 0, 1000)
	t.check(err)
	t.equal("entries", numbers(page), want)
}

// span checks the ends of a timeline.
func (t suite) span(s store.Store, owner store.OwnerID, first, head, delivered uint64) {
	t.Helper()
	f, h, err := s.Span(t.Context(), owner)
	t.check(err)
	t.equal("first and head", [2]uint64{f, h}, [2]uint64{first, head})
	h, d, err := s.Head(t.Context(), owner)
	t.check(err)
	t.equal("head and delivered", [2]uint64{h, d}, [2]uint64{head, delivered})
}

func find(t suite, s store.Store) {
	a, other := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, "dave@example.com").Owner
	t.conversation(s, other, bobJID, carolJID, bobJID)
	t.conversation(s, a, bobJID, carolJID, bobJID, bobJID+"!", carolJID, bobJID, carolJID+"!")
	for _, one := range []struct {
		r    store.Range
		want []uint64
	}{
		{store.Range{Limit: 10}, []uint64{1, 2, 3, 5, 6}},
		{store.Range{Limit: 2}, []uint64{1, 2}},
		{store.Range{Limit: 2, Newest: true}, []uint64{6, 5}},
		{store.Range{Limit: 10, Newest: true}, []uint64{6, 5, 3, 2, 1}},
		{store.Range{After: 2, Limit: 2}, []uint64{3, 5}},
		{store.Range{After: 3, Before: 6, Limit: 9}, []uint64{5}},
		{store.Range{After: 1, Before: 6, Limit: 2, Newest: true}, []uint64{5, 3}},
		{store.Range{After: 3, Before: 5, Limit: 9}, nil},
		{store.Range{After: 5, Before: 3, Limit: 9}, nil},
		{store.Range{Peer: bobJID, Limit: 9}, []uint64{1, 3, 6}},
		{store.Range{Peer: bobJID, Limit: 2, Newest: true}, []uint64{6, 3}},
		{store.Range{Peer: carolJID, After: 2, Limit: 9}, []uint64{5}},
		{store.Range{Peer: "bob@example.co", Limit: 9}, nil},
		{store.Range{After: math.MaxUint64, Limit: 9}, nil},
		{store.Range{Before: math.MaxUint64, Limit: 1}, []uint64{1}},
		{store.Range{Limit: 0}, nil},
		{store.Range{Limit: -1}, nil},
	} {
		t.found(s, a, one.r, one.want...)
	}
	t.span(s, a, 1, 7, 0)
}

func findNothing(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.found(s, a, store.Range{Limit: 5})
	t.span(s, a, 1, 0, 0)
	t.found(s, 12345, store.Range{Limit: 5, Newest: true})
	_, _, err := s.Span(t.Context(), 12345)
	t.wantErr(err, store.ErrNotFound)
}

func hiddenEntries(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.conversation(s, a, bobJID, bobJID+"!")
	all := t.readAll(s, a)
	t.equal("hidden", [2]bool{all[0].Hidden, all[1].Hidden}, [2]bool{false, true})
	page, err := s.Find(t.Context(), a, store.Range{Limit: 5})
	t.check(err)
	t.equal("found", page, all[:1])
	page, err = s.Find(t.Context(), a, store.Range{Peer: carolJID, Limit: 5, Hidden: true})
	t.check(err)
	t.equal("found of the hidden", page, all[1:])
}

func archivePrefs(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	want := func(p store.ArchivePrefs) {
		t.Helper()
		got, err := s.ArchivePrefs(t.Context(), a)
		t.check(err)
		t.equal("preferences", got, p)
	}
	want(store.ArchivePrefs{})
	t.check(s.SetArchivePrefs(t.Context(), a, store.ArchivePrefs{
		Default: store.ArchiveRoster, Always: []string{carolJID, bobJID, carolJID}, Never: []string{"x@y/z"},
	}))
	want(store.ArchivePrefs{Default: store.ArchiveRoster, Always: []string{bobJID, carolJID}, Never: []string{"x@y/z"}})
	t.check(s.SetArchivePrefs(t.Context(), a, store.ArchivePrefs{Default: store.ArchiveNever}))
	want(store.ArchivePrefs{Default: store.ArchiveNever})
	t.check(s.SetArchivePrefs(t.Context(), a, store.ArchivePrefs{}))
	want(store.ArchivePrefs{})
}

func prefsOfMissingOwner(t suite, s store.Store) {
	t.wantErr(s.SetArchivePrefs(t.Context(), 12345, store.ArchivePrefs{Default: store.ArchiveNever}), store.ErrNotFound)
	got, err := s.ArchivePrefs(t.Context(), 12345)
	t.check(err)
	t.equal("preferences of nobody", got, store.ArchivePrefs{})
	a := t.newAccount(s, "alice@example.com")
	t.check(s.SetArchivePrefs(t.Context(), a.Owner, store.ArchivePrefs{Default: store.ArchiveNever}))
	t.check(s.DeleteAccount(t.Context(), a.User))
	got, err = s.ArchivePrefs(t.Context(), a.Owner)
	t.check(err)
	t.equal("preferences of a deleted account", got, store.ArchivePrefs{})
}

// prefsAreHonoured appends the same messages under several preferences, to one
// timeline that has them and one that has not.
func prefsAreHonoured(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner
	for i, one := range []struct {
		prefs store.ArchivePrefs
		want  []bool // hidden, of: bob; bob/phone; bob/desk; carol/phone
	}{
		{store.ArchivePrefs{}, []bool{false, false, false, false}},
		{store.ArchivePrefs{Default: store.ArchiveNever}, []bool{true, true, true, true}},
		{store.ArchivePrefs{Never: []string{bobJID}}, []bool{true, true, true, false}},
		{store.ArchivePrefs{Default: store.ArchiveNever, Always: []string{bobJID}}, []bool{false, false, false, true}},
		{store.ArchivePrefs{Never: []string{bobJID + "/phone"}}, []bool{false, true, false, false}},
		{store.ArchivePrefs{Never: []string{bobJID}, Always: []string{bobJID + "/phone"}}, []bool{true, false, true, false}},
		{store.ArchivePrefs{Never: []string{bobJID}, Always: []string{bobJID}}, []bool{true, true, true, false}},
		{store.ArchivePrefs{Default: store.ArchiveRoster}, []bool{true, true, true, true}},
		{store.ArchivePrefs{}, []bool{false, false, false, false}},
	} {
		t.check(s.SetArchivePrefs(t.Context(), a, one.prefs))
		var batch []store.Append
		for _, address := range []string{"", bobJID + "/phone", bobJID + "/desk", carolJID + "/phone"} {
			d := store.Draft{Owner: a, Peer: bobJID, Address: address, Stanza: []byte("x")}
			if address != "" && address[0] == 'c' {
				d.Peer = carolJID
			}
			batch = append(batch, store.Append{Drafts: []store.Draft{{Owner: b, Peer: "alice@example.com", Stanza: []byte("x")}, d}})
		}
		done, err := s.AppendBatch(t.Context(), batch)
		t.check(err)
		var hidden []bool
		for _, d := range done {
			t.check(d.Err)
			page, err := s.Read(t.Context(), a, d.Seqs[1]-1, 1)
			t.check(err)
			hidden = append(hidden, page[0].Hidden)
		}
		t.equal(fmt.Sprintf("hidden by %+v", one.prefs), hidden, one.want)
		t.equal("entries of bob that are found", len(t.all(s, b)), 4*(i+1))
	}
}

func (t suite) all(s store.Store, owner store.OwnerID) []store.Entry {
	t.Helper()
	page, err := s.Find(t.Context(), owner, store.Range{Limit: 1000})
	t.check(err)
	return page
}

func prefsAndRosters(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com").Owner, t.newAccount(s, bobJID).Owner
	for _, owner := range []store.OwnerID{a, b} {
		t.check(s.SetArchivePrefs(t.Context(), owner, store.ArchivePrefs{Default: store.ArchiveRoster}))
	}
	_, _, err := s.UpdateRoster(t.Context(), a, bobJID, add)
	t.check(err)
	_, _, err = s.UpdateRoster(t.Context(), a, carolJID, func(item *store.RosterItem) bool {
		item.PendingIn = []byte("<presence/>") // which is not in the roster
		return true
	})
	t.check(err)
	t.conversation(s, a, bobJID, carolJID, bobJID+"!", bobJID)
	t.conversation(s, b, bobJID)
	t.found(s, a, store.Range{Limit: 9}, 1, 4)
	t.found(s, b, store.Range{Limit: 9})
}

func claimJob(t suite) {
	stores := t.two()
	claim := func(name string, at, next time.Time) bool {
		claimed, err := stores[0].ClaimJob(t.Context(), name, at, next)
		t.check(err)
		return claimed
	}
	hour := func(n int) time.Time { return noon().Add(time.Duration(n) * time.Hour) }
	t.equal("first", claim("a", hour(0), hour(1)), true)
	t.equal("too early", claim("a", hour(1).Add(-time.Millisecond), hour(5)), false)
	t.equal("another", claim("b", hour(0), hour(1)), true)
	t.equal("in time", claim("a", hour(1), hour(2)), true)
	var claims atomic.Int64
	t.together(8, func(i int) error {
		claimed, err := stores[i%2].ClaimJob(t.Context(), "a", hour(3), hour(4))
		if claimed {
			claims.Add(1)
		}
		return err
	})
	t.equal("claims", claims.Load(), int64(1))
}
