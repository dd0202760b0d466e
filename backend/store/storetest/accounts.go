package storetest

import (
	"fmt"
	"testing"

	"imlb/backend/store"
)

func accountTests() []test {
	return []test{
		{"Create", on(createAccount)},
		{"CreateTwice", on(createAccountTwice)},
		{"Credentials", on(credentials)},
		{"SetCredentials", on(setCredentials)},
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

func createAccount(t *testing.T, s store.Store) {
	a := newAccount(t, s, "alice@example.com")
	if a.Owner <= 0 {
		t.Errorf("owner %d is not positive", a.Owner)
	}
	equal(t, "user", a.User, "alice@example.com")
	recent(t, a.Created)
	found, err := s.Account(t.Context(), "alice@example.com")
	check(t, err)
	equal(t, "account", found, a)
	items, version, err := s.Roster(t.Context(), a.Owner)
	check(t, err)
	if len(items) != 0 || version != 0 {
		t.Errorf("a new roster has %d items and version %d", len(items), version)
	}
	head, delivered, err := s.Head(t.Context(), a.Owner)
	check(t, err)
	equal(t, "head and delivered", [2]uint64{head, delivered}, [2]uint64{})
}

func createAccountTwice(t *testing.T, s store.Store) {
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1)})
	check(t, err)
	_, err = s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 2)})
	wantErr(t, err, store.ErrExists)
	c, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	check(t, err)
	equal(t, "keys", c, keys("SCRAM-SHA-1", 1))
}

func credentials(t *testing.T, s store.Store) {
	want := []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)}
	_, err := s.CreateAccount(t.Context(), "alice@example.com", want)
	check(t, err)
	for _, w := range want {
		c, err := s.Credential(t.Context(), "alice@example.com", w.Mechanism)
		check(t, err)
		equal(t, "keys", c, w)
	}
	_, err = s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-512")
	wantErr(t, err, store.ErrNotFound)
	_, err = s.Credential(t.Context(), "bob@example.com", "SCRAM-SHA-1")
	wantErr(t, err, store.ErrNotFound)
}

func setCredentials(t *testing.T, s store.Store) {
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1), keys("SCRAM-SHA-256", 2)})
	check(t, err)
	check(t, s.SetCredentials(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-256", 3)}))
	c, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-256")
	check(t, err)
	equal(t, "keys", c, keys("SCRAM-SHA-256", 3))
	_, err = s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	wantErr(t, err, store.ErrNotFound)
}

func credentialSlices(t *testing.T, s store.Store) {
	given := keys("SCRAM-SHA-1", 1)
	_, err := s.CreateAccount(t.Context(), "alice@example.com", []store.Credential{given})
	check(t, err)
	given.Salt[0] = 99
	first, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	check(t, err)
	first.StoredKey[0] = 99
	second, err := s.Credential(t.Context(), "alice@example.com", "SCRAM-SHA-1")
	check(t, err)
	equal(t, "keys", second, keys("SCRAM-SHA-1", 1))
}

func listAccounts(t *testing.T, s store.Store) {
	var want []store.Account
	// In the order of their bytes: no other one is the same everywhere.
	for _, name := range []string{"B", "a", "a-", "a0", "b", "é", "ﬀ", "🙂"} {
		want = append(want, newAccount(t, s, name+"@example.com"))
	}
	all, err := s.ListAccounts(t.Context(), "", 100)
	check(t, err)
	sorted := []store.Account{want[0], want[2], want[3], want[1], want[4], want[5], want[6], want[7]}
	equal(t, "all", all, sorted)
	page, err := s.ListAccounts(t.Context(), sorted[2].User, 3)
	check(t, err)
	equal(t, "page", page, sorted[3:6])
	for _, limit := range []int{0, -1} {
		page, err = s.ListAccounts(t.Context(), "", limit)
		check(t, err)
		equal(t, fmt.Sprintf("accounts with limit %d", limit), len(page), 0)
	}
}

func deleteAccount(t *testing.T, s store.Store) {
	ctx := t.Context()
	a, b := newAccount(t, s, "alice@example.com"), newAccount(t, s, "bob@example.com")
	check(t, s.SetCredentials(ctx, a.User, []store.Credential{keys("SCRAM-SHA-1", 1)}))
	_, _, err := s.UpdateRoster(ctx, a.Owner, b.User, add)
	check(t, err)
	newSession(t, s, a.Owner, "a1", "phone", "node-1")
	newSession(t, s, b.Owner, "b1", "phone", "node-1")
	appendOne(t, s, store.Append{Drafts: []store.Draft{text(a.Owner, "to alice"), text(b.Owner, "to bob")}})

	check(t, s.DeleteAccount(ctx, a.User))

	_, err = s.Account(ctx, a.User)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.Credential(ctx, a.User, "SCRAM-SHA-1")
	wantErr(t, err, store.ErrNotFound)
	_, _, err = s.Roster(ctx, a.Owner)
	wantErr(t, err, store.ErrNotFound)
	_, _, err = s.Head(ctx, a.Owner)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.Session(ctx, "a1")
	wantErr(t, err, store.ErrNotFound)
	equal(t, "alice's entries", len(readAll(ctx, t, s, a.Owner)), 0)
	equal(t, "bob's entries", len(readAll(ctx, t, s, b.Owner)), 1)
	_, err = s.Session(ctx, "b1")
	check(t, err)
	wantErr(t, s.DeleteAccount(ctx, a.User), store.ErrNotFound)
}

func ownersAreNeverReused(t *testing.T, s store.Store) {
	first := newAccount(t, s, "alice@example.com")
	check(t, s.DeleteAccount(t.Context(), first.User))
	second := newAccount(t, s, "alice@example.com")
	if second.Owner <= first.Owner {
		t.Errorf("owner %d follows owner %d", second.Owner, first.Owner)
	}
	equal(t, "entries", len(readAll(t.Context(), t, s, second.Owner)), 0)
}

func deleteLongTimeline(t *testing.T, s store.Store) {
	a, b := newAccount(t, s, "alice@example.com"), newAccount(t, s, "bob@example.com")
	batch := make([]store.Append, 2500)
	for i := range batch {
		batch[i].Drafts = []store.Draft{text(a.Owner, "%d", i), text(b.Owner, "%d", i)}
	}
	_, err := s.AppendBatch(t.Context(), batch)
	check(t, err)
	check(t, s.DeleteAccount(t.Context(), a.User))
	equal(t, "alice's entries", len(readAll(t.Context(), t, s, a.Owner)), 0)
	equal(t, "bob's entries", len(readAll(t.Context(), t, s, b.Owner)), len(batch))
}

func missingAccount(t *testing.T, s store.Store) {
	_, err := s.Account(t.Context(), "nobody@example.com")
	wantErr(t, err, store.ErrNotFound)
	wantErr(t, s.SetCredentials(t.Context(), "nobody@example.com", nil), store.ErrNotFound)
	wantErr(t, s.DeleteAccount(t.Context(), "nobody@example.com"), store.ErrNotFound)
	check(t, s.Ping(t.Context()))
}
