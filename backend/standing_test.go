package backend_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// quickly makes nodes look for changes of accounts often, and not wait for clients.
func quickly(o *backend.Options) {
	o.Timeouts.Accounts = 5 * time.Millisecond
	o.Timeouts.Close = 50 * time.Millisecond
}

// suspend does what the command line does, of which no node is told.
func (c *cluster) suspend(name string, state store.AccountState) {
	c.t.Helper()
	state.Suspended = true
	if err := c.store.SetState(c.t.Context(), name+"@"+domain, state); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) resume(name string) {
	c.t.Helper()
	if err := c.store.SetState(c.t.Context(), name+"@"+domain, store.AccountState{}); err != nil {
		c.t.Fatal(err)
	}
}

// tryLogin returns the answer to a login with PLAIN.
func (c *cluster) tryLogin(name, pass string) string {
	c.t.Helper()
	cl := c.dial(0, leg{})
	defer cl.conn.Close()
	cl.open()
	cl.write(auth("PLAIN", b64("\x00"+name+"\x00"+pass)))
	return cl.next()
}

func TestSuspendedCannotLogIn(t *testing.T) {
	c := newCluster(t, 1, nil)
	c.suspend("alice", store.AccountState{Reason: "spam & lies", Until: time.Now().Add(time.Hour)})
	answer := c.tryLogin("alice", password)
	if !strings.Contains(answer, "<account-disabled/>") || !strings.Contains(answer, "spam &amp; lies") {
		t.Errorf("got %s", answer)
	}
	// Who does not know the password learns nothing.
	if answer := c.tryLogin("alice", "pen"); !strings.Contains(answer, "<not-authorized/></failure>") {
		t.Errorf("got %s", answer)
	}
	c.suspend("alice", store.AccountState{Until: time.Now().Add(-time.Second)})
	c.login(0, "alice", "phone").close()
	c.suspend("alice", store.AccountState{})
	cl := c.dial(0, leg{})
	cl.open()
	sc, err := scram.SHA256.NewClient("alice", password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := sc.NewConversation()
	first, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	cl.write(auth("SCRAM-SHA-256", b64(first)))
	final, err := conv.Step(payload(t, cl.expect("^<challenge ")))
	if err != nil {
		t.Fatal(err)
	}
	cl.write("<response xmlns='" + nsSASL + "'>" + b64(final) + "</response>")
	cl.expect("<account-disabled/>.*the account is suspended<")
}

// A suspension ends the sessions on all nodes although no node was told; mail waits.
func TestSuspensionEndsSessions(t *testing.T) {
	c := newCluster(t, 2, quickly)
	bob := c.online(0, "bob", "desk")
	phone, desk := c.online(0, "alice", "phone"), c.online(1, "alice", "desk")
	desk.skipTo("from='alice@example.com/phone'")
	phone.skipTo("from='alice@example.com/desk'")
	c.suspend("alice", store.AccountState{Reason: "spam"})
	for _, cl := range []*client{phone, desk} {
		last := cl.skipTo("^<stream:error")
		if !strings.Contains(last, "<policy-violation ") || !strings.Contains(last, "suspended: spam") {
			t.Errorf("got %s", last)
		}
	}
	c.gone("alice")
	for _, n := range c.nodes {
		c.eventually("the log line", func() bool { return strings.Contains(n.log.String(), "reason=suspended") })
	}
	bob.write("<message to='alice@example.com' type='chat' id='m1'><body>wait</body></message>")
	bob.sync() // and no error before the answer
	c.resume("alice")
	phone = c.login(0, "alice", "phone")
	phone.write("<presence/>")
	phone.expectAll("^<presence ", "<body>wait</body>.*<delay ")
}

// The sessions that are left of a deleted account end, on all nodes, when another with its name
// logs in, however seldom the nodes look for themselves.
func TestNameIsTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, func(o *backend.Options) {
		o.Timeouts.Accounts = time.Hour
		o.Timeouts.Close = 50 * time.Millisecond
	})
	old := c.online(1, "alice", "phone")
	if err := c.store.DeleteAccount(t.Context(), "alice@"+domain); err != nil {
		t.Fatal(err)
	}
	c.account("alice")
	alice := c.login(0, "alice", "phone")
	old.end("not-authorized")
	alice.sync()
}

func TestDeletionEndsSessions(t *testing.T) {
	c := newCluster(t, 2, quickly)
	bob, alice := c.online(0, "bob", "desk"), c.online(1, "alice", "phone")
	if err := c.store.DeleteAccount(t.Context(), "alice@"+domain); err != nil {
		t.Fatal(err)
	}
	c.account("alice") // somebody else with that name does not change it
	alice.end("not-authorized")
	bob.sync()
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[1].log.String(), "reason=account-gone") })
}

// Whoever takes the name of a user who was deleted by another process does not come into
// the subscriptions of that one.
func TestDeletedContact(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, quickly)
	c.befriend("alice", "bob")
	bob := c.interested(0, "bob", "desk")
	alice := c.interested(1, "alice", "phone")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	if _, err := backend.DeleteUser(t.Context(), c.store, "alice@"+domain); err != nil {
		t.Fatal(err)
	}
	alice.skipTo("^<stream:error")
	alice.end("")
	alice.over()
	bob.skipTo("^<iq type='set'.*<item jid='alice@example.com'[^>]* subscription='none'>")
	c.quiet()
	c.account("alice")
	other := c.online(1, "alice", "new")
	bob.write("<presence><status>private</status></presence>")
	bob.skipTo("private")
	other.write("<presence type='probe' to='bob@example.com'/>")
	other.sync()
	nothingMore(other)
}

// A node that was told nothing for so long that changes were forgotten looks at all.
func TestForgottenChanges(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Accounts = time.Hour })
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	c.suspend("alice", store.AccountState{})
	for range store.ChangesKept + 1 {
		c.resume("carol")
	}
	user := "bob@" + domain
	if err := c.bus.nodes[0].Publish(bus.Signal{Kind: bus.Control, User: user, Partition: partition(user), Data: []byte(`{"account":true}`)}); err != nil {
		t.Fatal(err)
	}
	alice.end("policy-violation")
	bob.sync()
}

// lateStore suspends a user between its login and the making of its session.
type lateStore struct {
	store.Store
	between func()
	asked   atomic.Uint64 // the last change that a node knew
}

func (l *lateStore) CreateSession(ctx context.Context, s store.Session) (*store.Session, error) {
	l.between()
	return l.Store.CreateSession(ctx, s)
}

func (l *lateStore) AccountChanges(ctx context.Context, after uint64, limit int) ([]store.AccountChange, error) {
	l.asked.Store(after)
	return l.Store.AccountChanges(ctx, after, limit)
}

func TestSuspendedWhileLoggingIn(t *testing.T) {
	late := &lateStore{}
	c := newCluster(t, 1, func(o *backend.Options) {
		quickly(o)
		late.Store, o.Store = o.Store, late
	})
	late.between = func() {
		c.suspend("alice", store.AccountState{})
		c.eventually("the node has seen the change", func() bool { return late.asked.Load() > 0 })
	}
	c.login(0, "alice", "phone").end("policy-violation")
}

// The sessions are ended when the store can be asked again.
func TestStandingFails(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) {
		quickly(o)
		broken.Store, o.Store = o.Store, broken
	})
	alice := c.online(0, "alice", "phone")
	broken.noUser.Store(true)
	c.suspend("alice", store.AccountState{})
	c.eventually("the failure is logged", func() bool {
		return strings.Contains(c.nodes[0].log.String(), "follow the changes of accounts")
	})
	broken.noUser.Store(false)
	alice.end("policy-violation")
}

// Who takes the name of a deleted user has none of its subscriptions.
func TestDeletionEndsSubscriptions(t *testing.T) {
	c := newCluster(t, 1, quickly)
	alice, bob, carol := c.online(0, "alice", "phone"), c.online(0, "bob", "desk"), c.online(0, "carol", "desk")
	bob.write(getRoster)
	bob.expect("^<iq [^>]*type='result'")
	alice.write("<presence to='bob@example.com' type='subscribe'/><presence to='carol@example.com' type='subscribe'/>")
	bob.expect("type='subscribe'")
	bob.write("<presence to='alice@example.com' type='subscribed'/>")
	bob.skipTo("subscription='from'")
	alice.close()
	carol.expect("type=.subscribe.")
	if _, err := backend.DeleteUser(t.Context(), c.store, "alice@"+domain); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bob", "carol"} {
		a, err := c.store.Account(t.Context(), name+"@"+domain)
		if err != nil {
			t.Fatal(err)
		}
		items, _, err := c.store.Roster(t.Context(), a.Owner)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if it.Subscription != store.SubscriptionNone || len(it.PendingIn) > 0 {
				t.Errorf("%s still has %+v", name, it)
			}
		}
	}
	if _, err := backend.DeleteUser(t.Context(), c.store, "alice@"+domain); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
