package storetest

import (
	"sync"

	"imlb/backend/store"
)

func belongingTests() []test {
	return []test{
		{"Claim", on(claim)},
		{"ClaimAtATime", on(claimAtATime)},
	}
}

func (t suite) belongsTo(s store.Store, want string) {
	t.Helper()
	got, err := s.Domain(t.Context())
	t.check(err)
	t.equal("domain", got, want)
}

func claim(t suite, s store.Store) {
	t.newAccount(s, "alice@example.com") // it may have been used before
	t.belongsTo(s, "")
	for _, domain := range []string{"example.com", "example.com", "example.org"} {
		owner, err := s.Claim(t.Context(), domain)
		t.check(err)
		t.equal("owner", owner, "example.com")
		t.belongsTo(s, "example.com")
	}
}

func claimAtATime(t suite, s store.Store) {
	domains := []string{"a.example", "b.example", "c.example", "d.example"}
	owners := make([]string, len(domains))
	var claims sync.WaitGroup
	for i, domain := range domains {
		claims.Go(func() {
			var err error
			if owners[i], err = s.Claim(t.Context(), domain); err != nil {
				t.Error(err)
			}
		})
	}
	claims.Wait()
	for _, owner := range owners {
		t.belongsTo(s, owner)
	}
}
