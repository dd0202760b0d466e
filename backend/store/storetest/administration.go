package storetest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"imlb/backend/store"
)

func administrationTests() []test {
	return []test{
		{"NewAccount", on(newAccountIsActive)},
		{"Role", on(setRole)},
		{"Suspend", on(suspend)},
		{"SuspendForAWhile", on(suspendForAWhile)},
		{"LastLogin", on(lastLogin)},
		{"Filters", on(accountFilters)},
		{"Changes", on(accountChanges)},
		{"ChangesAreForgotten", on(changesAreForgotten)},
		{"ChangesAtATime", changesAtATime},
		{"Missing", on(administrationOfMissing)},
	}
}

func (t suite) account(s store.Store, user string) store.Account {
	t.Helper()
	a, err := s.Account(t.Context(), user)
	t.check(err)
	return a
}

func newAccountIsActive(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.equal("role", a.Role, store.RoleUser)
	t.equal("state", a.State, store.AccountState{})
	if a.State.SuspendedAt(time.Now()) || !a.LastLogin.IsZero() {
		t.Errorf("got %+v", a)
	}
}

func setRole(t suite, s store.Store) {
	alice, bob := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	for _, role := range []store.Role{store.RoleAdmin, store.RoleModerator, store.RoleUser} {
		t.check(s.SetRole(t.Context(), alice.User, role))
		alice.Role = role
		t.equal("alice", t.account(s, alice.User), alice)
	}
	t.equal("bob", t.account(s, bob.User), bob)
}

func suspend(t suite, s store.Store) {
	alice, bob := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	alice.State = store.AccountState{Suspended: true, Reason: "spam — and 'worse'"}
	t.check(s.SetState(t.Context(), alice.User, alice.State))
	t.equal("alice", t.account(s, alice.User), alice)
	t.equal("bob", t.account(s, bob.User), bob)
	list, err := s.ListAccounts(t.Context(), "", 10)
	t.check(err)
	t.equal("list", list, []store.Account{alice, bob})
	// What is sent to it waits.
	t.appendOne(s, store.Append{Drafts: []store.Draft{text(alice.Owner, "to alice")}})
	alice.State = store.AccountState{}
	t.check(s.SetState(t.Context(), alice.User, store.AccountState{Reason: "there is none for being active"}))
	t.equal("alice", t.account(s, alice.User), alice)
}

func suspendForAWhile(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	until := time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("east", 3600))
	t.check(s.SetState(t.Context(), a.User, store.AccountState{Suspended: true, Until: until}))
	got := t.account(s, a.User).State
	t.equal("until", got.Until, until.UTC().Truncate(time.Millisecond))
	if !got.SuspendedAt(got.Until.Add(-time.Millisecond)) || got.SuspendedAt(got.Until) {
		t.Errorf("got %+v", got)
	}
}

func lastLogin(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.newSession(s, a.Owner, "s1", "phone", "node-1")
	login := t.account(s, a.User).LastLogin
	t.recent(login)
	t.check(s.EndSession(t.Context(), "s1", 1))
	t.equal("last login", t.account(s, a.User).LastLogin, login)
}

func accountFilters(t suite, s store.Store) {
	var all []store.Account
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		all = append(all, t.newAccount(s, name+"@example.com"))
	}
	for i, until := range []time.Time{{}, time.Now().Add(time.Hour), time.Now().Add(-time.Hour)} {
		t.check(s.SetState(t.Context(), all[i].User, store.AccountState{Suspended: true, Until: until}))
	}
	t.newSession(s, all[4].Owner, "e1", "phone", "node-1")
	t.newSession(s, all[4].Owner, "e2", "desktop", "node-1")
	t.newSession(s, all[2].Owner, "c1", "desktop", "node-1")
	for filter, want := range map[store.AccountFilter]string{
		store.EveryAccount: "abcde", store.SuspendedAccounts: "ab", store.OnlineAccounts: "ce",
	} {
		n, err := s.CountAccounts(t.Context(), filter)
		t.check(err)
		t.equal(fmt.Sprintf("count of filter %d", filter), n, len(want))
		var got strings.Builder
		for after, limit := "", 2; ; {
			page, err := s.FindAccounts(t.Context(), filter, after, limit)
			t.check(err)
			for _, a := range page {
				got.WriteString(a.User[:1])
				after = a.User
			}
			if len(page) < limit {
				break
			}
		}
		t.equal(fmt.Sprintf("accounts of filter %d", filter), got.String(), want)
		page, err := s.FindAccounts(t.Context(), filter, "", -1)
		t.check(err)
		t.equal("accounts with limit -1", len(page), 0)
	}
}

func accountChanges(t suite, s store.Store) {
	last, err := s.LastAccountChange(t.Context())
	t.check(err)
	t.equal("number of the last change", last, uint64(0))
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.check(s.SetCredentials(t.Context(), a.User, nil)) // is none
	t.check(s.SetState(t.Context(), a.User, store.AccountState{Suspended: true}))
	t.check(s.SetRole(t.Context(), b.User, store.RoleAdmin))
	t.check(s.DeleteAccount(t.Context(), a.User))
	t.wantErr(s.SetRole(t.Context(), a.User, store.RoleAdmin), store.ErrNotFound)
	want := []store.AccountChange{{Number: 1, User: a.User}, {Number: 2, User: b.User}, {Number: 3, User: a.User}}
	last, err = s.LastAccountChange(t.Context())
	t.check(err)
	t.equal("number of the last change", last, uint64(3))
	for after := range uint64(5) {
		got, err := s.AccountChanges(t.Context(), after, 10)
		t.check(err)
		t.equal(fmt.Sprintf("changes after %d", after), append([]store.AccountChange{}, got...), append([]store.AccountChange{}, want[min(after, 3):]...))
	}
	got, err := s.AccountChanges(t.Context(), 0, 2)
	t.check(err)
	t.equal("two changes", got, want[:2])
	got, err = s.AccountChanges(t.Context(), 0, -1)
	t.check(err)
	t.equal("no changes", len(got), 0)
}

func changesAreForgotten(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	for range store.ChangesKept + 5 {
		t.check(s.SetRole(t.Context(), a.User, store.RoleModerator))
	}
	got, err := s.AccountChanges(t.Context(), 0, 1)
	t.check(err)
	t.equal("the first one known", got, []store.AccountChange{{Number: 6, User: a.User}})
	got, err = s.AccountChanges(t.Context(), store.ChangesKept, 10)
	t.check(err)
	t.equal("the last ones", len(got), 5)
}

// changesAtATime checks that who has seen a number has seen all before it, whatever
// order transactions commit in.
func changesAtATime(t suite) {
	const writers, each = 4, 10
	reader := t.open(t.T)
	defer reader.Close()
	a := t.newAccount(reader, "alice@example.com")
	var writing sync.WaitGroup
	for range writers {
		s := t.open(t.T)
		t.Cleanup(func() { t.check(s.Close()) })
		writing.Go(func() {
			for range each {
				if err := s.SetRole(t.Context(), a.User, store.RoleAdmin); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for after := uint64(0); after < writers*each && !t.Failed(); {
		got, err := reader.AccountChanges(t.Context(), after, 3)
		t.check(err)
		for _, c := range got {
			if after++; c.Number != after {
				t.Fatalf("change %d follows %d", c.Number, after-1)
			}
		}
	}
	writing.Wait()
}

func administrationOfMissing(t suite, s store.Store) {
	t.wantErr(s.SetRole(t.Context(), "nobody@example.com", store.RoleAdmin), store.ErrNotFound)
	t.wantErr(s.SetState(t.Context(), "nobody@example.com", store.AccountState{Suspended: true}), store.ErrNotFound)
	last, err := s.LastAccountChange(t.Context())
	t.check(err)
	t.equal("number of the last change", last, uint64(0))
}
