package storetest

import (
	"fmt"

	"imlb/backend/store"
)

func accountTests() []test {
	return []test{
		{"Create", on(createAccount)},
		{"CreateTwice", on(createAccountTwice)},
		{"Credentials", on(credentials)},
		{"SetCredentials", on(setCredentials)},
		{"LacksKeys", on(lacksKeys)},
		{"SlicesAreCopied", on(credentialSlices)},
		{"List", on(listAccounts)},
		{"DeleteTakesAllAlong", on(deleteAccount)},
		{"OwnersAreNeverReused", on(ownersAreNeverReused)},
		{"LongTimelineIsDeleted", on(deleteLongTimeline)},
		{"Missing", on(missingAccount)},
	}
}

func keys(mechanism string, seed byte) store.Credential {
	return store.Credential{
		Mechanism: mechanism, Iterations: 10000 + int(seed),
		Salt: []byte{seed, 0, 1}, StoredKey: []byte{seed, 0xff}, ServerKey: []byte{seed, 2, 3, 4},
	}
}

func createAccount(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	if a.Owner <= 0 {
		t.Errorf("owner %d is not positive", a.Owner)
	}
	t.equal("user", a.User, "alice@example.com")
	t.recent(a.Created)
	found, err := s.Account(t.Context(), "alice@example.com")
	t.check(err)
	t.equal("account", found, a)
	t.roster(s, a.Owner, 0)
	head, delivered, err := s.Head(t.Context(), a.Owner)
	t.check(err)
	t.equal("head and delivered", [2]uint64{head, delivered}, [2]uint64{})
}

func createAccountTwice(t suite, s store.Store) {
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1)})
	t.check(err)
	_, err = s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 2)})
	t.wantErr(err, store.ErrExists)
	c, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	t.check(err)
	t.equal("keys", c, keys("SCRAM-SHA-1", 1))
}

func credentials(t suite, s store.Store) {
	want := []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)}
	_, err := s.CreateAccount(t.Context(), "alice@example.com", want)
	t.check(err)
	for _, w := range want {
		c, err := s.Credential(t.Context(), "alice@example.com", w.Mechanism)
		t.check(err)
		t.equal("keys", c, w)
	}
	_, err = s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-512")
	t.wantErr(err, store.ErrNotFound)
	_, err = s.Credential(t.Context(), "bob@example.com", "SCRAM-SHA-1")
	t.wantErr(err, store.ErrNotFound)
}

func setCredentials(t suite, s store.Store) {
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)})
	t.check(err)
	t.check(s.SetCredentials(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-256", 3)}))
	c, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-256")
	t.check(err)
	t.equal("keys", c, keys("SCRAM-SHA-256", 3))
	_, err = s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	t.wantErr(err, store.ErrNotFound)
}

func lacksKeys(t suite, s store.Store) {
	lacks := func(mechanism string, want bool) {
		got, err := s.LacksKeys(t.Context(), mechanism)
		t.check(err)
		t.equal("an account without "+mechanism, got, want)
	}
	lacks("SCRAM-SHA-1", false)
	_, err := s.CreateAccount(t.Context(), "carol@example.com", nil) // its passwords are elsewhere
	t.check(err)
	lacks("SCRAM-SHA-1", false)
	_, err = s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)})
	t.check(err)
	_, err = s.CreateAccount(t.Context(), "bob@example.com", []store.Credential{keys("SCRAM-SHA-1", 3)})
	t.check(err)
	lacks("SCRAM-SHA-1", false)
	lacks("SCRAM-SHA-256", true)
	lacks("SCRAM-SHA-512", true)
	t.check(s.SetCredentials(t.Context(), "bob@example.com", []store.Credential{keys("SCRAM-SHA-256", 4), keys("SCRAM-SHA-1", 4)}))
	lacks("SCRAM-SHA-256", false)
	lacks("SCRAM-SHA-512", true)
	t.check(s.DeleteAccount(t.Context(), "alice@example.com"))
	t.check(s.DeleteAccount(t.Context(), "bob@example.com"))
	lacks("SCRAM-SHA-512", false)
}

func credentialSlices(t suite, s store.Store) {
	given := keys("SCRAM-SHA-1", 1)
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{given})
	t.check(err)
	given.Salt[0] = 99
	first, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	t.check(err)
	first.StoredKey[0] = 99
	second, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	t.check(err)
	t.equal("keys", second, keys("SCRAM-SHA-1", 1))
}

func listAccounts(t suite, s store.Store) {
	var want []store.Account
	// In the order of their bytes: no other one is the same everywhere.
	for _, name := range []string{"B", "a", "a-", "a0", "b", "é", "ﬀ", "🙂"} {
		want = append(want, t.newAccount(s, name+"@example.com"))
	}
	all, err := s.ListAccounts(t.Context(), "", 100)
	t.check(err)
	sorted := []store.Account{want[0], want[2], want[3], want[1], want[4], want[5], want[6], want[7]}
	t.equal("all", all, sorted)
	page, err := s.ListAccounts(t.Context(), sorted[2].User, 3)
	t.check(err)
	t.equal("page", page, sorted[3:6])
	for _, limit := range []int{0, -1} {
		page, err = s.ListAccounts(t.Context(), "", limit)
		t.check(err)
		t.equal(fmt.Sprintf("accounts with limit %d", limit), len(page), 0)
	}
}

func deleteAccount(t suite, s store.Store) {
	ctx := t.Context()
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.check(s.SetCredentials(ctx, a.User, []store.Credential{keys("SCRAM-SHA-1", 1)}))
	_, _, err := s.UpdateRoster(ctx, a.Owner, b.User, add)
	t.check(err)
	t.newSession(s, a.Owner, "a1", "phone", "node-1")
	t.newSession(s, b.Owner, "b1", "phone", "node-1")
	t.appendOne(s, store.Append{Drafts: []store.Draft{text(a.Owner, "to alice"), text(b.Owner, "to bob")}})

	t.check(s.DeleteAccount(ctx, a.User))

	_, err = s.Account(ctx, a.User)
	t.wantErr(err, store.ErrNotFound)
	_, err = s.Credential(ctx, a.User, "SCRAM-SHA-1")
	t.wantErr(err, store.ErrNotFound)
	_, _, err = s.Roster(ctx, a.Owner)
	t.wantErr(err, store.ErrNotFound)
	_, _, err = s.Head(ctx, a.Owner)
	t.wantErr(err, store.ErrNotFound)
	_, err = s.Session(ctx, "a1")
	t.wantErr(err, store.ErrNotFound)
	t.equal("alice's entries", len(t.readAll(s, a.Owner)), 0)
	t.equal("bob's entries", len(t.readAll(s, b.Owner)), 1)
	_, err = s.Session(ctx, "b1")
	t.check(err)
	t.wantErr(s.DeleteAccount(ctx, a.User), store.ErrNotFound)
}

func ownersAreNeverReused(t suite, s store.Store) {
	first := t.newAccount(s, "alice@example.com")
	t.check(s.DeleteAccount(t.Context(), first.User))
	second := t.newAccount(s, "alice@example.com")
	if second.Owner <= first.Owner {
		t.Errorf("owner %d follows owner %d", second.Owner, first.Owner)
	}
	t.equal("entries", len(t.readAll(s, second.Owner)), 0)
}

func deleteLongTimeline(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	batch := make([]store.Append, 2500)
	for i := range batch {
		batch[i].Drafts = []store.Draft{text(a.Owner, "%d", i), text(b.Owner, "%d", i)}
	}
	_, err := s.AppendBatch(t.Context(), batch)
	t.check(err)
	t.check(s.DeleteAccount(t.Context(), a.User))
	t.equal("alice's entries", len(t.readAll(s, a.Owner)), 0)
	t.equal("bob's entries", len(t.readAll(s, b.Owner)), len(batch))
}

func missingAccount(t suite, s store.Store) {
	_, err := s.Account(t.Context(), "nobody@example.com")
	t.wantErr(err, store.ErrNotFound)
	t.wantErr(s.SetCredentials(t.Context(), "nobody@example.com", nil), store.ErrNotFound)
	t.wantErr(s.DeleteAccount(t.Context(), "nobody@example.com"), store.ErrNotFound)
	t.check(s.Ping(t.Context()))
}
