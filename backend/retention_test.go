package backend_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// countingStore counts how often a node has asked for the job, and how often it has
// gone through all timelines.
type countingStore struct {
	store.Store

	claims, rounds, tidied atomic.Int64
}

func (s *countingStore) ClaimJob(ctx context.Context, name string, now, next time.Time) (bool, error) {
	claimed, err := s.Store.ClaimJob(ctx, name, now, next)
	s.claims.Add(1)
	return claimed, err
}

func (s *countingStore) Trim(ctx context.Context, r store.Retention, from store.OwnerID, limit int) (store.OwnerID, int, error) {
	next, removed, err := s.Store.Trim(ctx, r, from, limit)
	if next == 0 && err == nil {
		s.rounds.Add(1)
	}
	return next, removed, err
}

func (s *countingStore) Tidy(ctx context.Context, before time.Time) (more bool, err error) {
	if ago := time.Since(before).Round(time.Hour); ago != 24*time.Hour {
		return false, fmt.Errorf("imports of %v ago are to go", ago)
	}
	if more, err = s.Store.Tidy(ctx, before); err == nil {
		more = s.tidied.Add(1)%2 == 1
	}
	return more, err
}

// count starts a node that counts.
func (c *cluster) count() *countingStore {
	c.t.Helper()
	counting := &countingStore{Store: c.store}
	c.store = counting
	c.startNode("counting")
	return counting
}

// wait waits until all of two rounds of retention has happened from now on.
func (s *countingStore) wait(c *cluster) {
	c.t.Helper()
	until := s.rounds.Load() + 2
	c.eventually("retention comes around", func() bool { return s.rounds.Load() >= until })
}

// aged gives a user entries that are so many hours old.
func (c *cluster) aged(name string, hours ...int) store.OwnerID {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	var entries []store.Entry
	for i, h := range hours {
		entries = append(entries, store.Entry{
			Seq: uint64(i + 1), Time: time.Now().Add(-time.Duration(h) * time.Hour), Peer: "bob@example.com",
			Stanza: fmt.Appendf(nil, "<message from='bob@example.com/x'><body>%d</body></message>", i+1),
		})
	}
	if err := c.store.RestoreEntries(c.t.Context(), a.Owner, entries); err != nil {
		c.t.Fatal(err)
	}
	return a.Owner
}

// Old messages go when they are delivered, or when they are twice as old.
func TestRetentionByAge(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Age: 24 * time.Hour, Every: 20 * time.Millisecond}
	})
	owner := c.aged("alice", 72, 49, 30, 25, 1)
	retention := c.count()
	retention.wait(c)
	if left := c.timeline("alice"); len(left) != 3 || left[0].Seq != 3 {
		t.Errorf("left: %v", left)
	}
	if err := c.store.SetDelivered(t.Context(), map[store.OwnerID]uint64{owner: 5}); err != nil {
		t.Fatal(err)
	}
	retention.wait(c)
	if left := c.timeline("alice"); len(left) != 1 || left[0].Seq != 5 {
		t.Errorf("left: %v", left)
	}
	alice := c.online(0, "alice", "phone")
	for _, tt := range []struct{ fields, page, want string }{
		{"", "", "5"},
		{field("after-id", "4"), "", "item-not-found"},
		{field("ids", "4"), "", "item-not-found"},
		{field("ids", "5"), "", "5"},
		{"", rsm("<after>3</after>"), "item-not-found"},
		{"", rsm("<before>5</before>"), ""},
		{field("start", "2000-01-01T00:00:00Z"), "", "5"},
		{field("end", "2000-01-01T00:00:00Z"), "", ""},
	} {
		ids, fin := alice.mam(tt.fields, tt.page)
		got := strings.Join(ids, " ")
		if strings.Contains(fin, "<item-not-found ") {
			got = "item-not-found"
		}
		if got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.fields, tt.page, got, tt.want)
		}
	}
	alice.write("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
	alice.expect("<start id='5' [^>]*/><end id='5' ")
}

func TestRetentionByCount(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Entries: 2, Every: 20 * time.Millisecond}
	})
	alice := c.aged("alice", 9000, 5, 4, 3, 2)
	c.aged("bob", 9000, 5, 4, 3, 2)
	if err := c.store.SetDelivered(t.Context(), map[store.OwnerID]uint64{alice: 5}); err != nil {
		t.Fatal(err)
	}
	c.count().wait(c)
	if n := len(c.timeline("alice")); n != 2 {
		t.Errorf("alice has %d", n)
	}
	if n := len(c.timeline("bob")); n != 5 {
		t.Errorf("bob, who has received none, has %d", n)
	}
	bob := c.login(0, "bob", "desk")
	bob.write("<presence/>")
	bob.expectAll("^<presence ", "<body>1</body>.*<delay ", "<body>2</body>", "<body>3</body>", "<body>4</body>", "<body>5</body>")
}

// In each round what was left undone is finished, until there is no more.
func TestRetentionTidies(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Every: 20 * time.Millisecond}
	})
	counting := c.count()
	c.eventually("what interrupted deletions have left is erased", func() bool { return counting.tidied.Load() >= 4 })
}

// Who comes late gets what is still there, from the first entry on, and what follows.
func TestRetentionBeforeALogin(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Age: 24 * time.Hour, Every: 20 * time.Millisecond}
	})
	c.aged("alice", 72, 49, 30, 1)
	c.count().wait(c)
	alice, bob := c.login(0, "alice", "phone"), c.online(0, "bob", "desk")
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "<body>3</body>.*<delay .*id='3'", "<body>4</body>.*<delay .*id='4'")
	bob.write("<message to='alice@example.com' type='chat'><body>new</body></message>")
	alice.expect("<body>new</body>.*id='5'")
	c.eventually("all is delivered", func() bool { head, delivered := c.head("alice"); return head == 5 && delivered == 5 })
}

// A session that is told of a message which retention has removed in the meantime does
// not wait for it.
func TestRetentionBehindACursor(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	a, err := c.store.Account(t.Context(), "alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	draft := store.Draft{Owner: a.Owner, Peer: "bob@example.com", Stanza: []byte("<message><body>gone</body></message>")}
	if _, err := c.store.AppendBatch(t.Context(), []store.Append{{Drafts: []store.Draft{draft, draft}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.store.Trim(t.Context(), store.Retention{Lost: time.Now().Add(time.Hour)}, 0, 100); err != nil {
		t.Fatal(err)
	}
	c.nodes[0].Signal(bus.Signal{Kind: bus.Entry, User: "alice@example.com", Seq: 2, Data: draft.Stanza})
	bob.write("<message to='alice@example.com' type='chat'><body>here</body></message>")
	alice.expect("<body>here</body>.*id='3'")
}

// A node leaves the work alone that another has done.
func TestRetentionIsDoneByOne(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Retention = backend.Retention{Age: time.Hour, Every: 4 * time.Millisecond}
	})
	c.aged("alice", 9000)
	now := time.Now()
	if claimed, err := c.store.ClaimJob(t.Context(), "retention", now, now.Add(time.Hour)); err != nil || !claimed {
		t.Fatal(claimed, err)
	}
	retention := c.count()
	c.eventually("the node asks", func() bool { return retention.claims.Load() > 3 })
	if n := len(c.timeline("alice")); n != 1 || retention.rounds.Load() > 0 {
		t.Errorf("%d entries after %d rounds", n, retention.rounds.Load())
	}
}

// A full mailbox refuses what is sent to it, and takes again when it has been emptied
// (XEP-0160 §2).
func TestWaitingIsBounded(t *testing.T) {
	c := newCluster(t, 2, func(o *backend.Options) {
		o.Limits.Waiting = 3
		o.Timeouts.Flush = time.Millisecond
	})
	alice := c.online(0, "alice", "phone")
	for i := range 5 {
		alice.write(fmt.Sprintf("<message to='bob@example.com' type='chat' id='m%d'><body>%d</body></message>", i, i))
	}
	for i := 3; i < 5; i++ {
		alice.expect(fmt.Sprintf("^<message [^>]*id='m%d' .*type='error'><error type='cancel'><service-unavailable ", i))
	}
	alice.sync()
	if ids, _ := alice.mam("", ""); len(ids) != 3 {
		t.Errorf("the sender's archive has %v", ids)
	}
	bob := c.login(1, "bob", "desk")
	bob.write("<presence/>")
	bob.expectAll("^<presence ", "<body>0</body>", "<body>1</body>", "<body>2</body>")
	c.eventually("what was read has been noted", func() bool { _, n := c.head("bob"); return n == 3 })
	alice.write("<message to='bob@example.com' type='chat'><body>again</body></message>")
	bob.expect("<body>again</body>")
}
