package storetest

import (
	"time"

	"imlb/backend/store"
)

func transferTests() []test {
	return []test{
		{"AllCredentials", on(allCredentials)},
		{"Erased", on(erased)},
		{"RestoreRoster", on(restoreRoster)},
		{"RestoreEntries", on(restoreEntries)},
		{"RestoreSpan", on(restoreSpan)},
		{"Rename", on(rename)},
		{"RenameReplaces", on(renameReplaces)},
		{"RenameSucceeds", on(renameSucceeds)},
		{"Unfinished", on(unfinishedAccounts)},
	}
}

func allCredentials(t suite, s store.Store) {
	t.newAccount(s, bobJID)
	a, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-256", 2), keys("SCRAM-SHA-1", 1)})
	t.check(err)
	all, err := s.Credentials(t.Context(), a.User)
	t.check(err)
	t.equal("keys", all, []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)})
	all, err = s.Credentials(t.Context(), bobJID)
	t.check(err)
	t.equal("keys of who has none", len(all), 0)
	_, err = s.Credentials(t.Context(), "nobody@example.com")
	t.wantErr(err, store.ErrNotFound)
}

func erased(t suite, s store.Store) {
	a, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-256", 2)})
	t.check(err)
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	_, _, err = s.UpdateRoster(t.Context(), a.Owner, bobJID, add)
	t.check(err)
	t.conversation(s, a.Owner, bobJID, bobJID+"!", bobJID)
	all, err := s.EraseAccount(t.Context(), a.User)
	t.check(err)
	rows := make(map[string]int64)
	for _, e := range all {
		rows[e.Table] = e.Rows
	}
	for table, want := range map[string]int64{"accounts": 1, "credentials": 1, "sessions": 1, "roster_items": 1, "entries": 3} {
		t.equal(table, rows[table], want)
	}
	_, err = s.EraseAccount(t.Context(), a.User)
	t.wantErr(err, store.ErrNotFound)
}

func restoreRoster(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	_, _, err := s.UpdateRoster(t.Context(), a, "old@example.com", add)
	t.check(err)
	given := []store.RosterItem{
		{Contact: carolJID, Approved: true, PendingIn: []byte("<presence/>")},
		{Contact: bobJID, Name: "Bob", Groups: []string{"b", "a", "b"}, Subscription: store.SubscriptionFrom, Ask: true, InRoster: true},
	}
	t.check(s.RestoreRoster(t.Context(), a, given, 17))
	given[0].Version, given[1].Version = 17, 17
	given[1].Groups = []string{"a", "b"}
	t.roster(s, a, 17, given[1], given[0])
	_, version, err := s.UpdateRoster(t.Context(), a, "old@example.com", add)
	t.check(err)
	t.equal("next version", version, uint64(18))
	t.wantErr(s.RestoreRoster(t.Context(), 12345, given, 1), store.ErrNotFound)
}

func restoreEntries(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	at := time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	given := []store.Entry{
		{Seq: 3, Time: at, Peer: bobJID, Sent: true, Resource: "phone", Stanza: []byte("<message/>")},
		{Seq: 7, Time: at.Add(time.Minute), Peer: carolJID, Hidden: true, Stanza: []byte{0, 0xff}},
	}
	t.check(s.RestoreEntries(t.Context(), a, nil))
	t.check(s.RestoreEntries(t.Context(), a, given))
	got, err := s.Read(t.Context(), a, 0, 10)
	t.check(err)
	t.equal("entries", got, given)
	t.wantErr(s.RestoreEntries(t.Context(), a, given[1:]), store.ErrExists)
	t.wantErr(s.RestoreEntries(t.Context(), 12345, given), store.ErrNotFound)
	t.conversation(s, a, bobJID)
	t.left(s, a, 3, 7, 8)
	t.span(s, a, 1, 8, 0)
}

func restoreSpan(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com").Owner
	t.conversation(s, a, bobJID, bobJID, bobJID)
	t.check(s.RestoreSpan(t.Context(), a, 2, 5, 4))
	t.span(s, a, 2, 5, 4)
	t.check(s.RestoreSpan(t.Context(), a, 0, 0, 0))
	t.span(s, a, 2, 5, 4)
	t.check(s.RestoreSpan(t.Context(), a, 9, 0, 100))
	t.span(s, a, 9, 8, 8)
	t.conversation(s, a, bobJID)
	t.span(s, a, 9, 9, 8)
	t.wantErr(s.RestoreSpan(t.Context(), 12345, 1, 1, 1), store.ErrNotFound)
}

func rename(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID)
	t.wantErr(s.RenameAccount(t.Context(), a.User, b.User, store.KeepOther), store.ErrExists)
	t.wantErr(s.RenameAccount(t.Context(), "nobody@example.com", "x@example.com", store.EraseOther), store.ErrNotFound)
	t.wantErr(s.RenameAccount(t.Context(), a.User, a.User, store.EraseOther), store.ErrExists)
	t.check(s.RenameAccount(t.Context(), a.User, carolJID, store.KeepOther))
	_, err := s.Account(t.Context(), a.User)
	t.wantErr(err, store.ErrNotFound)
	got, err := s.Account(t.Context(), carolJID)
	t.check(err)
	t.equal("owner", got.Owner, a.Owner)
	last, err := s.LastAccountChange(t.Context())
	t.check(err)
	t.equal("changes", last, uint64(0))
}

func renameReplaces(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, bobJID)
	t.conversation(s, a.Owner, carolJID)
	t.conversation(s, b.Owner, carolJID, carolJID)
	t.newSession(s, b.Owner, "s1", "phone", "node-1")
	t.check(s.RenameAccount(t.Context(), a.User, b.User, store.EraseOther))
	got, err := s.Account(t.Context(), b.User)
	t.check(err)
	t.equal("owner", got.Owner, a.Owner)
	t.equal("entries", len(t.readAll(s, a.Owner)), 1)
	t.equal("entries before", len(t.readAll(s, b.Owner)), 0)
	_, err = s.Session(t.Context(), "s1")
	t.wantErr(err, store.ErrNotFound)
	// Nodes hear of it: they have sessions of the one that was erased.
	changes, err := s.AccountChanges(t.Context(), 0, 10)
	t.check(err)
	t.equal("changes", changes, []store.AccountChange{{Number: 1, User: bobJID}})
}

// renameSucceeds checks who keeps which role and state.
func renameSucceeds(t suite, s store.Store) {
	suspended := store.AccountState{Suspended: true, Reason: "spam", Until: time.UnixMilli(4_000_000_000_123).UTC()}
	for _, other := range []store.Other{store.EraseOther, store.SucceedOther} {
		t.newAccount(s, store.UnfinishedName(bobJID))
		if other == store.EraseOther {
			t.newAccount(s, bobJID)
		}
		t.check(s.SetRole(t.Context(), bobJID, store.RoleAdmin))
		t.check(s.SetState(t.Context(), bobJID, suspended))
		t.check(s.RenameAccount(t.Context(), store.UnfinishedName(bobJID), bobJID, other))
		want := store.Account{}
		if other == store.SucceedOther {
			want.Role, want.State = store.RoleAdmin, suspended
		}
		got := t.account(s, bobJID)
		t.equal("role", got.Role, want.Role)
		t.equal("state", got.State, want.State)
	}
}

// unfinishedAccounts checks that what an import has not finished is nowhere to be seen, and
// goes after a time.
func unfinishedAccounts(t suite, s store.Store) {
	t.newAccount(s, bobJID)
	a := t.newAccount(s, store.UnfinishedName(bobJID))
	t.conversation(s, a.Owner, carolJID)
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	t.check(s.SetState(t.Context(), a.User, store.AccountState{Suspended: true}))
	list, err := s.ListAccounts(t.Context(), "", 10)
	t.check(err)
	t.equal("accounts in the list", len(list), 1)
	for which, want := range map[store.AccountFilter]int{store.EveryAccount: 1, store.SuspendedAccounts: 0, store.OnlineAccounts: 0} {
		list, err := s.FindAccounts(t.Context(), which, "", 10)
		t.check(err)
		t.equal("accounts found", len(list), want)
		n, err := s.CountAccounts(t.Context(), which)
		t.check(err)
		t.equal("accounts counted", n, want)
	}
	tidy := func(before time.Time) {
		for more := true; more; {
			var err error
			more, err = s.Tidy(t.Context(), before)
			t.check(err)
		}
	}
	tidy(a.Created)
	t.equal("owner", t.account(s, a.User).Owner, a.Owner)
	tidy(a.Created.Add(time.Millisecond))
	_, err = s.Account(t.Context(), a.User)
	t.wantErr(err, store.ErrNotFound)
	t.equal("entries", len(t.readAll(s, a.Owner)), 0)
	t.account(s, bobJID)
}
