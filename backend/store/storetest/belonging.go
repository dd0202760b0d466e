package storetest

import (
	"sync"
	"time"

	"imlb/backend/store"
)

func belongingTests() []test {
	return []test{
		{"Claim", on(claim)},
		{"ClaimAtATime", on(claimAtATime)},
		{"ClaimForCluster", on(claimForCluster)},
	}
}

func (t suite) belongsTo(s store.Store, want string) {
	t.Helper()
	got, err := s.Domain(t.Context())
	t.check(err)
	t.equal("domain", got, want)
}

// claims claims the database for a node that begins then.
func (t suite) claims(s store.Store, domain, cluster string, want store.Owner) {
	t.Helper()
	got, err := s.Claim(t.Context(), domain, cluster)
	t.check(err)
	t.equal("owner", got, want)
}

func claim(t suite, s store.Store) {
	t.newAccount(s, "alice@example.com") // it may have been used before
	t.belongsTo(s, "")
	for _, domain := range []string{"example.com", "example.com", "example.org"} {
		t.claims(s, domain, "", store.Owner{Domain: "example.com"})
		t.belongsTo(s, "example.com")
	}
}

// A database is one cluster's as long as a node lives there. That of a domain of which no
// node has named its cluster is the first one's.
func claimForCluster(t suite, s store.Store) {
	const domain = "example.com"
	t.claims(s, domain, "", store.Owner{Domain: domain})
	t.take(s, "node-1", "run")
	t.claims(s, domain, "east", store.Owner{Domain: domain, Cluster: "east"})
	t.claims(s, domain, "west", store.Owner{Domain: domain, Cluster: "east"})
	t.claims(s, domain, "east", store.Owner{Domain: domain, Cluster: "east"})
	t.claims(s, domain, "", store.Owner{Domain: domain, Cluster: "east"})
	t.lasts(s, "node-1", "run", -time.Second)
	t.claims(s, domain, "", store.Owner{Domain: domain, Cluster: "east"})
	t.claims(s, "example.org", "west", store.Owner{Domain: domain, Cluster: "east"})
	t.claims(s, domain, "west", store.Owner{Domain: domain, Cluster: "west"})
	t.take(s, "node-2", "run")
	t.claims(s, domain, "east", store.Owner{Domain: domain, Cluster: "west"})
	t.check(s.EndLease(t.Context(), "node-2", "run"))
	t.claims(s, domain, "east", store.Owner{Domain: domain, Cluster: "east"})
	t.belongsTo(s, domain)
}

func claimAtATime(t suite, s store.Store) {
	t.take(s, "node-1", "run")
	domains := []string{"a.example", "b.example", "c.example", "d.example"}
	owners := make([]store.Owner, len(domains))
	var claims sync.WaitGroup
	for i, domain := range domains {
		claims.Go(func() {
			var err error
			if owners[i], err = s.Claim(t.Context(), domain, "of-"+domain); err != nil {
				t.Error(err)
			}
		})
	}
	claims.Wait()
	for _, owner := range owners {
		t.equal("owner", owner, store.Owner{Domain: owner.Domain, Cluster: "of-" + owner.Domain})
		t.belongsTo(s, owner.Domain)
	}
}
