package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

// brokenStore is a store that can be out of reach.
type brokenStore struct {
	store.Store
	noLease  atomic.Bool
	stuck    atomic.Bool // a lease is renewed when somebody else lets go of the store
	noAppend atomic.Bool
	noRead   atomic.Bool
	noRoster atomic.Bool
	noUser   atomic.Bool
	panics   atomic.Bool
}

var errBroken = errors.New("the store is broken")

func (b *brokenStore) RenewLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	if b.stuck.Load() {
		<-ctx.Done()
		return fmt.Errorf("wait for the store: %w", ctx.Err())
	}
	if b.noLease.Load() {
		return errBroken
	}
	return b.Store.RenewLease(ctx, node, incarnation, lasts)
}

func (b *brokenStore) Roster(ctx context.Context, owner store.OwnerID) ([]store.RosterItem, uint64, error) {
	if b.panics.Load() {
		panic("a mistake")
	}
	if b.noRoster.Load() {
		return nil, 0, errBroken
	}
	return b.Store.Roster(ctx, owner)
}

func (b *brokenStore) Account(ctx context.Context, user string) (store.Account, error) {
	if b.noUser.Load() {
		return store.Account{}, errBroken
	}
	return b.Store.Account(ctx, user)
}

func (b *brokenStore) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	if b.noAppend.Load() {
		return nil, errBroken
	}
	return b.Store.AppendBatch(ctx, batch)
}

func (b *brokenStore) Read(ctx context.Context, owner store.OwnerID, after uint64, limit int) ([]store.Entry, error) {
	if b.noRead.Load() {
		return nil, errBroken
	}
	return b.Store.Read(ctx, owner, after, limit)
}

// A node that cannot renew its lease is not ready. When it could not for too long it ends the
// sessions that others have ended meanwhile, and keeps the rest.
func TestLapsedLease(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) {
		broken.Store, o.Store = o.Store, broken
		o.Timeouts.Lease = 100 * time.Millisecond
	})
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	health := healthOf(t, c.nodes[0])
	ready := func() bool { return health("/readyz") == http.StatusOK }
	if !ready() {
		t.Error("a node is not ready")
	}
	broken.noLease.Store(true)
	c.eventually("the node is not ready", func() bool { return !ready() })
	var reaped []store.Session
	c.eventually("the lease runs out", func() bool {
		var err error
		reaped, err = c.store.ReapSessions(t.Context(), "node-2", 1)
		return err == nil && len(reaped) == 1
	})
	broken.noLease.Store(false)
	gone, kept := alice, bob
	if reaped[0].User == "bob@example.com" {
		gone, kept = bob, alice
	}
	gone.end("internal-server-error")
	kept.sync()
	c.eventually("the node is ready", ready)
}

// rivalStore is one on which another node reaps first, as long as it is not too late for that.
type rivalStore struct {
	store.Store

	once   sync.Once
	reaped chan struct{} // closed when it has
}

func (r *rivalStore) ReapSessions(ctx context.Context, node string, limit int) ([]store.Session, error) {
	select {
	case <-r.reaped:
		return r.Store.ReapSessions(ctx, node, limit)
	default:
	}
	reaped, err := r.Store.ReapSessions(ctx, "rival", limit)
	if len(reaped) > 0 {
		r.once.Do(func() { close(r.reaped) })
	}
	return nil, err
}

// newRivalCluster starts two nodes, of which the first reaps, on such a store.
func newRivalCluster(t *testing.T) (*cluster, *rivalStore) {
	t.Helper()
	rival := &rivalStore{reaped: make(chan struct{})}
	c := newCluster(t, 0, func(o *backend.Options) {
		o.Timeouts.Lease = 10 * time.Minute
		if o.Name == "node-1" { // which reaps
			o.Timeouts.Lease = 500 * time.Millisecond
		}
	})
	rival.Store, c.store = c.store, rival
	c.startNode("node-1")
	c.startNode("node-2")
	return c, rival
}

// A node that dies after it has ended the session of another dead one, and before it has told the contacts, leaves
// that to those that live.
func TestReaperDies(t *testing.T) {
	t.Parallel()
	c, rival := newRivalCluster(t)
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	c.online(1, "alice", "phone")
	bob.skipTo("^<presence [^>]*from='alice@example.com/phone'")
	if err := c.store.TakeLease(t.Context(), "rival", "run", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := c.store.TakeLease(t.Context(), "node-2", "later", time.Millisecond); err != nil {
		t.Fatal(err)
	}
	<-rival.reaped
	if err := c.store.EndLease(t.Context(), "rival", "run"); err != nil {
		t.Fatal(err)
	}
	bob.skipTo("^<presence type='unavailable' from='alice@example.com/phone'")
}

// Of two processes with one name the one that was started later has it. The other, which
// was taken for dead, says so, lets its sessions go and takes no more; what it does then
// does not touch the later one.
func TestReplacedNode(t *testing.T) {
	c := newCluster(t, 0, func(o *backend.Options) { o.Timeouts.Lease = 300 * time.Millisecond })
	old := c.startNode("node-1")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	bob := c.online(0, "bob", "desk")
	later := c.startNode("node-1")
	bob.skipTo("<(system-shutdown|internal-server-error) ") // his session may have been reaped by then
	alice.skipTo("<system-shutdown ")
	ready := healthOf(t, old)
	c.eventually("the old one says that it was replaced", func() bool {
		return ready("/readyz") == http.StatusServiceUnavailable && strings.Contains(old.log.String(), "level=ERROR msg=\"the node's lease is lost")
	})
	again := c.returns(1, "alice")
	again.resumed(id, 0, 0)
	late := c.dial(0, leg{})
	late.open()
	late.write(auth("PLAIN", b64("\x00carol\x00"+password)))
	late.expect("^<success ")
	late.scanner.Reset()
	late.open()
	late.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	late.end("system-shutdown")
	c.stopNode(old)
	living, err := c.store.LiveNodes(t.Context())
	if err != nil || len(living) != 1 {
		t.Errorf("living nodes: %v, %v", living, err)
	}
	again.sync()
	c.metric(1, "imlb_node_connections_ended_total", map[string]string{"reason": "lease-lapsed"}, 0)
	if log := later.log.String(); strings.Contains(log, "lease") {
		t.Errorf("log of the later one:\n%s", log)
	}
}

// What the store does not take is not acknowledged: the session ends.
func TestStoreFails(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) { broken.Store, o.Store = o.Store, broken })
	alice := c.online(0, "alice", "phone")
	alice.counts()
	broken.noAppend.Store(true)
	alice.write("<message to='bob@example.com'><body>x</body></message>" + smAsk)
	alice.expect("^<a [^>]*h='0'/>")
	alice.end("internal-server-error")
	c.eventually("the log says why", func() bool {
		log := c.nodes[0].log.String()
		return strings.Contains(log, "reason=store-failed") && strings.Contains(log, `cause="append a message: the store is broken"`)
	})
}

// A renewal of the lease that runs into its time is told of.
func TestStuckLease(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) {
		broken.Store, o.Store = o.Store, broken
		o.Timeouts.Lease = 300 * time.Millisecond
	})
	c.online(0, "alice", "phone")
	broken.stuck.Store(true)
	c.eventually("the log says so", func() bool {
		return strings.Contains(c.nodes[0].log.String(), `level=WARN msg="renew the node's lease" error="wait for the store: context deadline exceeded"`)
	})
	broken.stuck.Store(false)
}

// Delivery goes on when the store can be read again, and in order.
func TestReadFails(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) { broken.Store, o.Store = o.Store, broken })
	alice := c.online(0, "alice", "phone")
	alice.write("<message to='bob@example.com' type='chat'><body>1</body></message>")
	alice.sync()
	broken.noRead.Store(true)
	bob := c.online(0, "bob", "desk") // its own presence comes although the timeline does not
	alice.write("<message to='bob@example.com' type='chat'><body>2</body></message>" +
		"<message to='bob@example.com' type='headline'><body>3</body></message>")
	alice.sync()
	broken.noRead.Store(false)
	for _, body := range []string{"1", "2", "3"} {
		bob.expect("<body>" + body + "</body>")
	}
}

// A mistake of ours ends the session that runs into it, and no other.
func TestPanic(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) { broken.Store, o.Store = o.Store, broken })
	alice, bob := c.login(0, "alice", "phone"), c.online(0, "bob", "desk")
	bob.sync() // his presence goes to his contacts after him
	broken.panics.Store(true)
	alice.write(getRoster)
	alice.gone()
	broken.panics.Store(false)
	bob.sync()
	c.gone("alice")
	c.eventually("the log line", func() bool { return strings.Contains(c.nodes[0].log.String(), "reason=internal") })
	if log := c.nodes[0].log.String(); !strings.Contains(log, "a mistake") {
		t.Errorf("log: %s", log)
	}
}

// What needs the store and fails is answered so, and the session goes on.
func TestRosterFails(t *testing.T) {
	broken := &brokenStore{}
	c := newCluster(t, 1, func(o *backend.Options) { broken.Store, o.Store = o.Store, broken })
	alice := c.login(0, "alice", "phone")
	broken.noRoster.Store(true)
	alice.write(getRoster + "<presence/>")
	alice.expect("^<iq [^>]*type='error'.*<internal-server-error ")
	alice.expect("^<presence [^>]*type='error'.*<internal-server-error ")
	broken.noRoster.Store(false)
	alice.write("<presence/>")
	alice.expect("^<presence [^>]*from='alice@example.com/phone'")
}

// While signals do not arrive, messages do: later, and completely.
func TestDeafNode(t *testing.T) {
	deaf := &atomic.Bool{}
	c := newCluster(t, 2, func(o *backend.Options) {
		o.Timeouts.Lease = 150 * time.Millisecond
		o.Bus = hearingBus{o.Bus, deaf}
	})
	alice, bob := c.online(0, "alice", "phone"), c.online(1, "bob", "desk")
	c.bus.mu.Lock()
	c.bus.cut = func(bus.Signal) bool { return deaf.Load() }
	c.bus.mu.Unlock()
	deaf.Store(true)
	bob.write(say("alice", "one") + say("alice", "two"))
	alice.hears("one", "two")
	deaf.Store(false)
	bob.write(say("alice", "three"))
	alice.hears("three")
}

// A node whose bus is away serves on, and says so.
func TestBusAway(t *testing.T) {
	away := &atomic.Bool{}
	c := newCluster(t, 1, func(o *backend.Options) { o.Bus = awayBus{o.Bus, away} })
	c.online(0, "alice", "phone")
	answer := httptest.NewServer(c.nodes[0].AdminHandler())
	defer answer.Close()
	ready := func() string {
		t.Helper()
		response, err := answer.Client().Get(answer.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("status %d, %v", response.StatusCode, err)
		}
		return string(text)
	}
	c.metric(0, "imlb_node_bus_up", nil, 1)
	away.Store(true)
	c.metric(0, "imlb_node_bus_up", nil, 0)
	if text := ready(); text != "ready\ndegraded: delivery is slower without the bus: no server\nsessions=1 capacity=0 draining=false\n" {
		t.Error(text)
	}
	bob := c.online(0, "bob", "desk")
	bob.write(say("alice", "one") + say("alice", "two"))
	bob.sync()
	if log := c.nodes[0].log.String(); strings.Count(log, "publish a signal") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// awayBus is a bus whose servers are away: what is published reaches this node alone.
type awayBus struct {
	backend.Bus
	away *atomic.Bool
}

func (b awayBus) Away() error {
	if b.away.Load() {
		return errors.New("no server")
	}
	return nil
}

func (b awayBus) Publish(s bus.Signal) error {
	return errors.Join(b.Bus.Publish(s), b.Away())
}

// hearingBus says that it hears nobody when it is deaf.
type hearingBus struct {
	backend.Bus
	deaf *atomic.Bool
}

func (b hearingBus) Hears(string) bool { return !b.deaf.Load() }

// A node whose database is away when it starts takes its lease, and serves, when that is there.
func TestLeaseOfDatabaseAway(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	c := newHookedCluster(t, 1, &hookedStore{fails: func(what string) error {
		if what == "take lease" && asked.Add(1) < 3 {
			return fmt.Errorf("%w: the database system is starting up", store.ErrUnavailable)
		}
		return nil
	}}, func(o *backend.Options) { o.Timeouts.Lease = 300 * time.Millisecond })
	c.online(0, "alice", "phone").close()
	if n := asked.Load(); n != 3 {
		t.Errorf("the lease was asked for %d times", n)
	}
}

// A node whose lease is over, because the database was away from all for longer than that, leaves its sessions in order to whoever
// resumes them, there or elsewhere: nothing comes again.
func TestResumeWhenTheLeaseIsOver(t *testing.T) {
	t.Parallel()
	for name, node := range map[string]int{"there": 0, "elsewhere": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := &brokenStore{}
			c := newCluster(t, 2, func(o *backend.Options) {
				o.Bus = hearingBus{o.Bus, &atomic.Bool{}}
				if o.Name == "node-1" {
					broken.Store, o.Store = o.Store, broken
					o.Timeouts.Lease = 100 * time.Millisecond
				}
			})
			bob := c.online(1, "bob", "desk")
			alice := c.online(0, "alice", "phone")
			id := alice.resumable()
			bob.write(say("alice", "one"))
			alice.skipTo("<body>one</body>")
			broken.noLease.Store(true)
			c.eventually("the lease is over", func() bool {
				h, err := c.store.Holding(t.Context(), id, 1)
				return err == nil && h.Lapsed == "node-1"
			})
			again := c.returns(node, "alice")
			again.resumed(id, 1, 0)
			bob.write(say("alice", "two"))
			again.hears("two")
		})
	}
}
