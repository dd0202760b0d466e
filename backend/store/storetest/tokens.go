package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"imlb/backend/store"
)

func tokenTests() []test {
	return []test{
		{"Add", on(addToken)},
		{"Rotate", on(rotateToken)},
		{"UnusedIsReplaced", on(replaceUnusedToken)},
		{"Count", on(countToken)},
		{"Revoke", on(revokeTokens)},
		{"Expired", on(expiredTokens)},
		{"AreBounded", on(boundTokens)},
		{"NewPassword", on(tokensAndPassword)},
		{"DeletedAccount", on(tokensOfDeleted)},
		{"Missing", on(missingTokens)},
		{"SlicesAreCopied", on(tokenSlices)},
		{"OneCountOnce", oneCountOnce},
	}
}

// newToken is one that was issued some minutes after another.
func newToken(secret string, minutes int) store.Token {
	at := time.Now().UTC().Truncate(time.Millisecond).Add(time.Duration(minutes) * time.Minute)
	return store.Token{Secret: []byte(secret), Mechanism: "HT-SHA-256-NONE", Issued: at, Expires: at.Add(24 * time.Hour)}
}

func (t suite) addToken(s store.Store, owner store.OwnerID, client string, token store.Token) {
	t.Helper()
	t.check(s.AddToken(t.Context(), owner, client, token, time.Now()))
}

// secrets are those of a client's tokens, in the order in which they are returned.
func (t suite) secrets(s store.Store, owner store.OwnerID, client string) []string {
	t.Helper()
	all, err := s.TokensOf(t.Context(), owner, client)
	t.check(err)
	list := []string{}
	for _, one := range all {
		list = append(list, string(one.Secret))
	}
	return list
}

func addToken(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	given := newToken("one\x00", 0)
	given.Count, given.Used = 7, true
	t.addToken(s, a.Owner, "phone", given)
	given.Count, given.Used = 0, false
	all, err := s.TokensOf(t.Context(), a.Owner, "phone")
	t.check(err)
	t.equal("tokens", all, []store.Token{given})
	t.equal("another client's", t.secrets(s, a.Owner, "Phone"), []string{})
	t.equal("another user's", t.secrets(s, b.Owner, "phone"), []string{})
}

func rotateToken(t suite, s store.Store) {
	ctx := t.Context()
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("one", 0))
	t.addToken(s, a.Owner, "desk", newToken("desk", 0))
	t.check(s.UseToken(ctx, a.Owner, "phone", []byte("one"), 0))
	t.addToken(s, a.Owner, "phone", newToken("two", 1))
	t.equal("both", t.secrets(s, a.Owner, "phone"), []string{"two", "one"})
	t.check(s.UseToken(ctx, a.Owner, "phone", []byte("one"), 0)) // the new one was lost on its way
	t.equal("still both", t.secrets(s, a.Owner, "phone"), []string{"two", "one"})
	t.check(s.UseToken(ctx, a.Owner, "phone", []byte("two"), 0))
	all, err := s.TokensOf(ctx, a.Owner, "phone")
	t.check(err)
	if len(all) != 1 || string(all[0].Secret) != "two" || !all[0].Used {
		t.Errorf("after the new token was used: %+v", all)
	}
	t.wantErr(s.UseToken(ctx, a.Owner, "phone", []byte("one"), 0), store.ErrNotFound)
	t.equal("another client's", t.secrets(s, a.Owner, "desk"), []string{"desk"})
}

func replaceUnusedToken(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("one", 0))
	t.addToken(s, a.Owner, "phone", newToken("two", 1))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{"two"})
}

func countToken(t suite, s store.Store) {
	ctx := t.Context()
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("one", 0))
	use := func(count uint64) error { return s.UseToken(ctx, a.Owner, "phone", []byte("one"), count) }
	t.check(use(5))
	t.wantErr(use(5), store.ErrReplayed)
	t.wantErr(use(4), store.ErrReplayed)
	t.check(use(0)) // a login that was not counted
	t.wantErr(use(5), store.ErrReplayed)
	t.check(use(6))
	all, err := s.TokensOf(ctx, a.Owner, "phone")
	t.check(err)
	if len(all) != 1 || all[0].Count != 6 || !all[0].Used {
		t.Errorf("got %+v", all)
	}
}

func revokeTokens(t suite, s store.Store) {
	ctx := t.Context()
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("one", 0))
	t.check(s.UseToken(ctx, a.Owner, "phone", []byte("one"), 0))
	t.addToken(s, a.Owner, "phone", newToken("two", 1))
	t.addToken(s, a.Owner, "desk", newToken("desk", 0))
	t.check(s.RevokeTokens(ctx, a.Owner, "phone"))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{})
	t.equal("another client's", t.secrets(s, a.Owner, "desk"), []string{"desk"})
	t.check(s.RevokeTokens(ctx, a.Owner, "phone"))
}

// What has expired goes with the user's next new token.
func expiredTokens(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("old", -48*60))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{"old"})
	t.addToken(s, a.Owner, "desk", newToken("new", 0))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{})
}

func boundTokens(t suite, s store.Store) {
	a, b := t.newAccount(s, "alice@example.com"), t.newAccount(s, "bob@example.com")
	t.addToken(s, b.Owner, "c0", newToken("bob's", 0))
	for i := range store.TokensPerUser + 2 {
		t.addToken(s, a.Owner, fmt.Sprintf("c%d", i), newToken("x", i))
	}
	for i, want := range []int{0, 0, 1, 1} {
		t.equal(fmt.Sprintf("tokens of client %d", i), len(t.secrets(s, a.Owner, fmt.Sprintf("c%d", i))), want)
	}
	t.equal("of the last", len(t.secrets(s, a.Owner, fmt.Sprintf("c%d", store.TokensPerUser+1))), 1)
	t.equal("another user's", t.secrets(s, b.Owner, "c0"), []string{"bob's"})
}

// A new password revokes what the old one has brought, also to who has just logged in
// with it.
func tokensAndPassword(t suite, s store.Store) {
	ctx := t.Context()
	a := t.newAccount(s, "alice@example.com")
	began := time.Now().Add(-time.Second)
	t.check(s.AddToken(ctx, a.Owner, "phone", newToken("one", 0), began))
	t.check(s.SetCredentials(ctx, a.User, []store.Credential{keys("SCRAM-SHA-1", 2)}))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{})
	t.wantErr(s.AddToken(ctx, a.Owner, "phone", newToken("two", 0), began), store.ErrFenced)
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{})
	t.check(s.AddToken(ctx, a.Owner, "phone", newToken("three", 0), time.Now().Add(time.Second)))
}

func tokensOfDeleted(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	t.addToken(s, a.Owner, "phone", newToken("one", 0))
	t.check(s.DeleteAccount(t.Context(), a.User))
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{})
	again := t.newAccount(s, "alice@example.com")
	t.equal("tokens of the next owner", t.secrets(s, again.Owner, "phone"), []string{})
}

func missingTokens(t suite, s store.Store) {
	ctx := t.Context()
	a := t.newAccount(s, "alice@example.com")
	nobody := a.Owner + 1000
	t.wantErr(s.AddToken(ctx, nobody, "phone", newToken("one", 0), time.Now()), store.ErrNotFound)
	t.wantErr(s.UseToken(ctx, nobody, "phone", []byte("one"), 0), store.ErrNotFound)
	t.wantErr(s.UseToken(ctx, a.Owner, "phone", []byte("one"), 1), store.ErrNotFound)
	t.equal("tokens", t.secrets(s, nobody, "phone"), []string{})
	t.check(s.RevokeTokens(ctx, nobody, "phone"))
}

func tokenSlices(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	given := newToken("one", 0)
	t.addToken(s, a.Owner, "phone", given)
	given.Secret[0] = 'X'
	first, err := s.TokensOf(t.Context(), a.Owner, "phone")
	t.check(err)
	first[0].Secret[0] = 'X'
	t.equal("tokens", t.secrets(s, a.Owner, "phone"), []string{"one"})
}

// Of logins with the same count on any node one succeeds.
func oneCountOnce(t suite) {
	stores := []store.Store{t.open(t.T), t.open(t.T)}
	for _, s := range stores {
		t.Cleanup(func() { t.check(s.Close()) })
	}
	a := t.newAccount(stores[0], "alice@example.com")
	t.addToken(stores[0], a.Owner, "phone", newToken("one", 0))
	var wait sync.WaitGroup
	results := make(chan error, 8)
	for i := range cap(results) {
		wait.Go(func() { results <- stores[i%2].UseToken(t.Context(), a.Owner, "phone", []byte("one"), 1) })
	}
	wait.Wait()
	close(results)
	succeeded := 0
	for err := range results {
		switch {
		case err == nil:
			succeeded++
		case !errors.Is(err, store.ErrReplayed):
			t.Errorf("the error is %v", err)
		}
	}
	t.equal("successes", succeeded, 1)
}
