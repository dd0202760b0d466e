package backend_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// awayStore is a database that can be out of reach.
type awayStore struct {
	store.Store

	away     atomic.Bool // it answers nothing
	full     atomic.Bool // it takes no messages
	attempts atomic.Int64
	lookups  atomic.Int64
	renewals atomic.Int64
	most     atomic.Int64 // messages in a transaction that was tried meanwhile
}

var errAway = fmt.Errorf("the database is away: %w", store.ErrUnavailable)

func (s *awayStore) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	if s.away.Load() || s.full.Load() {
		s.attempts.Add(1)
		s.most.Store(max(s.most.Load(), int64(len(batch))))
		return nil, errAway
	}
	return s.Store.AppendBatch(ctx, batch)
}

func (s *awayStore) Account(ctx context.Context, user string) (store.Account, error) {
	if s.away.Load() {
		s.lookups.Add(1)
		return store.Account{}, errAway
	}
	return s.Store.Account(ctx, user)
}

func (s *awayStore) SessionsOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	if s.away.Load() {
		s.lookups.Add(1)
		return nil, errAway
	}
	return s.Store.SessionsOf(ctx, owner)
}

func (s *awayStore) SaveResumable(ctx context.Context, id string, epoch uint64, r store.Resumable) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.SaveResumable(ctx, id, epoch, r)
}

func (s *awayStore) RenewLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	if s.away.Load() {
		s.renewals.Add(1)
		return errAway
	}
	return s.Store.RenewLease(ctx, node, incarnation, lasts)
}

func (s *awayStore) Ping(ctx context.Context) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.Ping(ctx)
}

// While the database is away nothing is acknowledged, what a sender may have on its way
// is bounded and the rest waits in the connection; the node says that it is not ready,
// but lives. When the database is back all goes on by itself, nothing lost or doubled.
func TestStoreAway(t *testing.T) {
	const messages, outstanding = 200, 8
	away := &awayStore{}
	c := newCluster(t, 0, func(o *backend.Options) { o.Limits.Outstanding = outstanding })
	away.Store, c.store = c.store, away
	c.startNode("node-1")
	status := healthOf(t, c.nodes[0])

	alice := c.online(0, "alice", "phone")
	alice.counts()
	away.full.Store(true)
	for i := range messages {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat'><body>%d</body></message>", i))
	}
	alice.write(smAsk)
	c.eventually("the node tries again", func() bool { return away.attempts.Load() > 3 })
	if n := away.most.Load(); n > outstanding {
		t.Errorf("%d messages were on their way", n)
	}
	if ready, live := status("/readyz"), status("/livez"); ready != http.StatusServiceUnavailable || live != http.StatusOK {
		t.Errorf("/readyz %d, /livez %d", ready, live)
	}
	if n := len(c.timeline("alice")); n > 0 {
		t.Errorf("%d messages are stored", n)
	}

	away.full.Store(false)
	alice.expect(fmt.Sprintf("^<a xmlns='urn:xmpp:sm:3' h='%d'/>", messages)) // and no other before
	if ready := status("/readyz"); ready != http.StatusOK {
		t.Errorf("/readyz %d", ready)
	}
	for _, name := range []string{"alice", "bob"} {
		entries := c.timeline(name)
		if len(entries) != messages {
			t.Errorf("%s has %d messages", name, len(entries))
		}
		for i, e := range entries {
			if !strings.Contains(string(e.Stanza), fmt.Sprintf("<body>%d</body>", i)) {
				t.Fatalf("entry %d of %s is %s", e.Seq, name, e.Stanza)
			}
		}
	}
}

// newAwayCluster starts nodes whose database can be out of reach.
func newAwayCluster(t *testing.T, nodes int, tune func(*backend.Options)) (*cluster, *awayStore) {
	t.Helper()
	away := &awayStore{}
	c := newCluster(t, 0, tune)
	away.Store, c.store = c.store, away
	for i := range nodes {
		c.startNode(fmt.Sprintf("node-%d", i+1))
	}
	return c, away
}

// A message for which the database has to be asked first waits as well, and so does all
// that comes after it.
func TestStoreAwayLookups(t *testing.T) {
	c, away := newAwayCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.counts()
	for i, to := range []string{"bob", "carol", "carol@example.com/gone"} { // of carol all but her sessions is known by then
		away.away.Store(true)
		before := away.lookups.Load()
		to, _, full := strings.Cut(to, "@")
		message := say(to, "m")
		if full {
			message = strings.Replace(message, "carol@example.com", "carol@example.com/gone", 1)
		}
		alice.write(message + smAsk)
		c.eventually("the node asks again", func() bool { return away.lookups.Load() > before+1 })
		away.away.Store(false)
		alice.expect(fmt.Sprintf("^<a xmlns='urn:xmpp:sm:3' h='%d'/>", i+1))
	}
	if n := len(c.timeline("carol")); n != 2 {
		t.Errorf("carol has %d messages", n)
	}
}

// What a session is told to have handled when it ends while the database is away are the
// messages that are stored, and nothing that came after them.
func TestStoreAwayAtShutdown(t *testing.T) {
	c, away := newAwayCluster(t, 2, nil)
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	away.full.Store(true)
	alice.write(say("alice", "m") + "<iq type='get' id='p' to='" + domain + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	c.eventually("the node tries to store", func() bool { return away.attempts.Load() > 0 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.stopNode(c.nodes[0])
	}()
	alice.skipTo("<system-shutdown ")
	away.full.Store(false)
	<-stopped
	again := c.returns(1, "alice")
	again.resumed(id, 0, 1)
	again.hears("m")
}

// When the database was away from all nodes for longer than their leases, they do not take
// each other for dead when it is back.
func TestStoreAwayFromAll(t *testing.T) {
	c, away := newAwayCluster(t, 2, func(o *backend.Options) { o.Timeouts.Lease = 300 * time.Millisecond })
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	away.away.Store(true)
	c.eventually("the leases run out", func() bool {
		living, err := away.LiveNodes(t.Context())
		return err == nil && len(living) == 0
	})
	away.away.Store(false)
	c.eventually("the leases are renewed", func() bool {
		living, err := away.LiveNodes(t.Context())
		return err == nil && len(living) == 2
	})
	alice.write(say("bob", "m"))
	bob.expect("<body>m</body>")
	alice.sync()
	for node := range c.nodes {
		c.metric(node, "imlb_node_sessions_reaped_total", nil, 0)
	}
}

// healthOf returns what asks a node's admin listener.
func healthOf(t *testing.T, n *testNode) func(path string) int {
	t.Helper()
	server := httptest.NewServer(n.AdminHandler())
	t.Cleanup(server.Close)
	return func(path string) int {
		t.Helper()
		response, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response.StatusCode
	}
}
