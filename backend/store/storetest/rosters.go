package storetest

import (
	"fmt"

	"imlb/backend/store"
)

func rosterTests() []test {
	return []test{
		{"Add", on(rosterAdd)},
		{"Fields", on(rosterFields)},
		{"NoChange", on(rosterNoChange)},
		{"Remove", on(rosterRemove)},
		{"WhatIsKept", on(rosterKeep)},
		{"ContactAndVersionStay", on(rosterIdentity)},
		{"Order", on(rosterOrder)},
		{"MissingOwner", on(rosterMissingOwner)},
		{"Versions", on(rosterVersions)},
		{"Since", on(rosterSince)},
		{"RemovalsKept", on(rosterRemovalsKept)},
	}
}

// add puts an item into the roster that clients see.
func add(item *store.RosterItem) bool {
	item.InRoster = true
	return true
}

// roster checks what a roster holds.
func (t suite) roster(s store.Store, owner store.OwnerID, version uint64, want ...store.RosterItem) {
	t.Helper()
	items, got, err := s.Roster(t.Context(), owner)
	t.check(err)
	t.equal("number of items", len(items), len(want))
	if len(want) > 0 {
		t.equal("items", items, want)
	}
	t.equal("version", got, version)
}

func rosterAdd(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	item, version, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
		t.equal("item before", *item, store.RosterItem{Contact: "bob@example.com"})
		return add(item)
	})
	t.check(err)
	want := store.RosterItem{Contact: "bob@example.com", InRoster: true, Version: 1}
	t.equal("item", item, want)
	t.equal("version", version, uint64(1))
	t.roster(s, a.Owner, 1, want)
}

func rosterFields(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	full := store.RosterItem{
		Contact: "bob@example.com", Name: "Bob \t& 🙂", Groups: []string{"", "friends", "\"work\""},
		Subscription: store.SubscriptionBoth, Ask: true, Approved: true,
		PendingIn: []byte("<presence type='subscribe'/>"), InRoster: true, Version: 1,
	}
	pending := []byte("<presence type='subscribe'/>")
	item, _, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
		*item = full
		item.PendingIn = pending
		item.Groups = []string{"friends", "\"work\"", "", "friends"}
		return true
	})
	t.check(err)
	pending[0] = 'x'
	full.Groups = []string{"", "\"work\"", "friends"}
	t.equal("item", item, full)
	item.PendingIn[0], item.Groups[0] = 'x', "x"
	t.roster(s, a.Owner, 1, full)
	_, _, err = s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
		t.equal("item before", *item, full)
		return false
	})
	t.check(err)
}

func rosterNoChange(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	_, _, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", add)
	t.check(err)
	item, version, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
		item.Name = "Robert"
		return false
	})
	t.check(err)
	want := store.RosterItem{Contact: "bob@example.com", InRoster: true, Version: 1}
	t.equal("item", item, want)
	t.equal("version", version, uint64(1))
	t.roster(s, a.Owner, 1, want)
}

func rosterRemove(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	_, _, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", add)
	t.check(err)
	remove := func(item *store.RosterItem) bool {
		item.InRoster, item.Name = false, "gone"
		return true
	}
	item, version, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", remove)
	t.check(err)
	t.equal("item", item, store.RosterItem{Contact: "bob@example.com", Name: "gone", Version: 2})
	t.equal("version", version, uint64(2))
	// Nothing is there any more, so that removing it again changes nothing.
	_, version, err = s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", remove)
	t.check(err)
	t.equal("version", version, uint64(2))
	t.roster(s, a.Owner, 2)
}

func rosterKeep(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for _, one := range []struct {
		contact string
		change  func(*store.RosterItem)
		kept    bool
	}{
		{"a", func(i *store.RosterItem) { i.InRoster = true }, true},
		{"b", func(i *store.RosterItem) { i.Approved = true }, true},
		{"c", func(i *store.RosterItem) { i.PendingIn = []byte("x") }, true},
		{"d", func(i *store.RosterItem) { i.PendingIn = []byte{} }, false},
		{"e", func(i *store.RosterItem) { i.Name, i.Ask, i.Subscription = "E", true, store.SubscriptionBoth }, false},
	} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, one.contact, func(item *store.RosterItem) bool {
			one.change(item)
			return true
		})
		t.check(err)
		items, _, err := s.Roster(t.Context(), a.Owner)
		t.check(err)
		if kept := len(items) > 0 && items[len(items)-1].Contact == one.contact; kept != one.kept {
			t.Errorf("item %s: kept is %v", one.contact, kept)
		}
	}
}

func rosterIdentity(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	item, _, err := s.UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
		item.Contact, item.Version = "mallory@example.com", 77
		return add(item)
	})
	t.check(err)
	t.equal("item", item, store.RosterItem{Contact: "bob@example.com", InRoster: true, Version: 1})
}

func rosterOrder(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	for _, contact := range []string{"c@x", "B@x", "🙂@x", "a@x"} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, contact, add)
		t.check(err)
	}
	_, version, err := s.UpdateRoster(t.Context(), b.Owner, "a@x", add)
	t.check(err)
	t.equal("bob's version", version, uint64(1))
	items, version, err := s.Roster(t.Context(), a.Owner)
	t.check(err)
	t.equal("alice's version", version, uint64(4))
	var contacts []string
	for _, item := range items {
		contacts = append(contacts, item.Contact)
	}
	t.equal("contacts", contacts, []string{"B@x", "a@x", "c@x", "🙂@x"})
}

func rosterMissingOwner(t suite, s store.Store) {
	_, _, err := s.Roster(t.Context(), 12345)
	t.wantErr(err, store.ErrNotFound)
	_, _, err = s.UpdateRoster(t.Context(), 12345, "bob@example.com", add)
	t.wantErr(err, store.ErrNotFound)
	_, _, err = s.RosterSince(t.Context(), 12345, 0)
	t.wantErr(err, store.ErrNotFound)
}

func rosterVersions(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID)
	versions := func(owners []store.OwnerID, want map[store.OwnerID]store.Versions) {
		t.Helper()
		got, err := s.Versions(t.Context(), owners)
		t.check(err)
		t.equal("versions", got, want)
	}
	both := []store.OwnerID{a.Owner, b.Owner, 12345}
	versions(nil, map[store.OwnerID]store.Versions{})
	versions(both, map[store.OwnerID]store.Versions{a.Owner: {}, b.Owner: {}})
	for _, contact := range []string{bobJID, carolJID} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, contact, add)
		t.check(err)
	}
	_, err := s.UpdateBlocklist(t.Context(), b.Owner, func([]string) []string { return []string{carolJID} })
	t.check(err)
	versions(both, map[store.OwnerID]store.Versions{a.Owner: {Roster: 2}, b.Owner: {Blocklist: 1}})
	versions(both[1:], map[store.OwnerID]store.Versions{b.Owner: {Blocklist: 1}})
}

// What clients do not see any more is told with what has changed, also when it has come back since.
func rosterSince(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID)
	hide := func(item *store.RosterItem) bool { *item = store.RosterItem{}; return true }
	request := func(item *store.RosterItem) bool { item.PendingIn = []byte("x"); return true }
	for _, c := range []struct {
		contact string
		change  func(*store.RosterItem) bool
	}{
		{"a", add}, {"b", add}, {"c", add}, // 1 to 3
		{"b", hide}, {"a", hide}, {"d", request}, {"d", hide}, // 4 to 7
		{"a", add}, {"b", request}, {"c", func(item *store.RosterItem) bool { item.Name = "C"; return true }}, // 8 to 10
	} {
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, c.contact, c.change)
		t.check(err)
	}
	_, _, err := s.UpdateRoster(t.Context(), b.Owner, "z", add)
	t.check(err)
	all := []store.RosterItem{
		{Contact: "b", Version: 4}, {Contact: "a", Version: 5},
		{Contact: "a", InRoster: true, Version: 8}, {Contact: "b", PendingIn: []byte("x"), Version: 9},
		{Contact: "c", Name: "C", InRoster: true, Version: 10},
	}
	for since, want := range map[uint64][]store.RosterItem{0: all, 3: all, 4: all[1:], 7: all[2:], 9: all[4:], 10: nil, 99: nil} {
		items, version, err := s.RosterSince(t.Context(), a.Owner, since)
		t.check(err)
		t.equal("number of items", len(items), len(want))
		if len(want) > 0 {
			t.equal("items", items, want)
		}
		t.equal("version", version, uint64(10))
	}
	_, _, err = s.UpdateRoster(t.Context(), a.Owner, "a", hide)
	t.check(err)
	items, _, err := s.RosterSince(t.Context(), a.Owner, 9)
	t.check(err)
	t.equal("items", items, []store.RosterItem{all[4], {Contact: "a", Version: 11}})
	_, _, err = s.UpdateRoster(t.Context(), a.Owner, "c", func(item *store.RosterItem) bool {
		item.InRoster, item.Approved = false, true
		return true
	})
	t.check(err)
	items, _, err = s.RosterSince(t.Context(), a.Owner, 11)
	t.check(err)
	t.equal("what is kept of who is taken from sight", items, []store.RosterItem{
		{Contact: "c", Name: "C", Approved: true, Version: 12}, {Contact: "c", Version: 12},
	})
}

func rosterRemovalsKept(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for i := range store.RemovalsKept + 2 {
		contact := fmt.Sprint(i)
		_, _, err := s.UpdateRoster(t.Context(), a.Owner, contact, add)
		t.check(err)
		_, _, err = s.UpdateRoster(t.Context(), a.Owner, contact, func(item *store.RosterItem) bool {
			item.InRoster = false
			return true
		})
		t.check(err)
	}
	items, _, err := s.RosterSince(t.Context(), a.Owner, 0)
	t.check(err)
	t.equal("number of removals", len(items), store.RemovalsKept)
	t.equal("the oldest", items[0], store.RosterItem{Contact: "2", Version: 6})
}
