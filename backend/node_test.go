package backend_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"imlb/backend"
	"imlb/backend/store"
)

// The newer session wins (RFC 6120 §7.7.2.2), wherever the older one is.
func TestConflict(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	first := c.online(0, "alice", "phone")
	bob.expect("from='alice@example.com/phone'")
	first.expect("from='bob@example.com/desk'")
	for _, node := range []int{0, 1} {
		second := c.online(node, "alice", "phone")
		second.expect("from='bob@example.com/desk'")
		bob.expect("type='unavailable'.*from='alice@example.com/phone'")
		bob.expect("^<presence [^>]*from='alice@example.com/phone'")
		first.skipTo("^<stream:error.*<conflict ")
		first.close()
		if n := len(c.sessions("alice")); n != 1 {
			t.Errorf("alice has %d sessions", n)
		}
		first = second
	}
	bob.sync()
	first.sync()
}

func TestServerMakesAResource(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(auth("PLAIN", b64("\x00alice\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	cl.open()
	cl.write("<iq type='set' id='b0'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>\u0007</resource></bind></iq>")
	cl.end("not-well-formed") // XML has no such character

	cl = c.dial(0, leg{})
	cl.open()
	cl.write(auth("PLAIN", b64("\x00alice\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	if f := cl.open(); !strings.Contains(f, "<bind ") || !strings.Contains(f, "<optional/>") || !strings.Contains(f, "<sm ") {
		t.Errorf("features: %s", f)
	}
	cl.write("<enable xmlns='urn:xmpp:sm:3'/>")
	cl.expect("^<failed .*<unexpected-request ")
	cl.write("<iq type='set' id='b1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>&#x200B;</resource></bind></iq>")
	cl.expect("<bad-request ")
	cl.write("<iq type='set' id='b2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	reply := cl.expect("<jid>alice@example.com/")
	if resource := between(reply, "<jid>alice@example.com/", "</jid>"); len(resource) < 20 {
		t.Errorf("resource %q can be guessed", resource)
	}
	cl.close()
}

// orphan leaves a session of a user on a node that is dead, whose lease has some time to go.
func (c *cluster) orphan(name, resource string, lease time.Duration) {
	c.t.Helper()
	a, err := c.store.Account(c.t.Context(), name+"@"+domain)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.store.TakeLease(c.t.Context(), "dead", "1", lease); err != nil {
		c.t.Fatal(err)
	}
	_, err = c.store.CreateSession(c.t.Context(), store.Session{
		ID: "orphan", Owner: a.Owner, User: a.User, Resource: resource, Node: "dead", Epoch: 1, Created: time.Now(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// A node that dies is cleaned up after by another, and its users' contacts see it.
func TestReap(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Lease = 300 * time.Millisecond })
	c.befriend("alice", "bob")
	bob := c.online(0, "bob", "desk")
	c.orphan("alice", "phone", 50*time.Millisecond)
	bob.expect("^<presence type='unavailable' .*from='alice@example.com/phone'")
	if n := len(c.sessions("alice")); n != 0 {
		t.Errorf("alice has %d sessions", n)
	}
}

// What is addressed to a resource on a dead node reaches the user's next client.
func TestResourceOnDeadNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	c.orphan("bob", "old", time.Hour)
	alice.write("<message to='bob@example.com/old' type='chat'><body>1</body></message>")
	alice.sync()
	bob := c.login(0, "bob", "new")
	bob.write("<presence/>")
	bob.expectAll("<body>1</body>", "^<presence ")
	alice.write("<message to='bob@example.com/old' type='chat'><body>2</body></message>")
	bob.expect("<body>2</body>")
}

// A session that another node has ended in the store may not write any more.
func TestFenced(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	for _, s := range c.sessions("alice") {
		if err := c.store.EndSession(t.Context(), s.ID, s.Epoch); err != nil {
			t.Fatal(err)
		}
	}
	alice.write("<message to='bob@example.com'><body>x</body></message>")
	alice.end("internal-server-error") // and no conflict: she is to come back
	if head, _ := c.head("bob"); head != 0 {
		t.Error("the message was stored")
	}
}

func TestDrain(t *testing.T) {
	c := newCluster(t, 2, nil)
	c.befriend("alice", "bob")
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	bob.expect("from='alice@example.com/phone'")
	drained := make(chan error, 1)
	go func() { drained <- c.nodes[0].Drain(t.Context()) }()
	alice.skipTo("^<stream:error.*<system-shutdown ")
	alice.write("</stream:stream>")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	bob.expect("type='unavailable'.*from='alice@example.com/phone'")
	if status := c.nodes[0].Status(t.Context()); !status.Draining || status.Ready || status.Sessions != 0 {
		t.Errorf("got %+v", status)
	}
	late := c.dial(0, leg{})
	late.open()
	late.write(auth("PLAIN", b64("\x00alice\x00pencil")))
	late.expect("^<success ")
	late.scanner.Reset()
	late.open()
	late.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	late.end("system-shutdown")
}

// slowStore takes no message before it is let.
type slowStore struct {
	store.Store

	asked chan struct{} // has a word for each batch that came
	let   chan struct{} // closed for all that wait
}

func (s *slowStore) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	s.asked <- struct{}{}
	<-s.let
	return s.Store.AppendBatch(ctx, batch)
}

// A client whose messages are on their way into the store is told that the node stops when
// they are there, and that they are: what it says elsewhere then comes after them.
func TestDrainWaitsForTheStore(t *testing.T) {
	slow := &slowStore{asked: make(chan struct{}, 10), let: make(chan struct{})}
	c := newCluster(t, 1, func(o *backend.Options) { slow.Store, o.Store = o.Store, slow })
	alice, carol := c.online(0, "alice", "phone"), c.online(0, "carol", "pad")
	alice.counts()
	alice.write("<message to='bob@example.com'><body>1</body></message>")
	<-slow.asked
	drained := make(chan error, 1)
	go func() { drained <- c.nodes[0].Drain(t.Context()) }()
	carol.end("system-shutdown") // who has said nothing
	carol.write("</stream:stream>")
	alice.write("<message to='bob@example.com'><body>2</body></message>") // which may be too late
	close(slow.let)
	told := alice.expect("^<a ")
	alice.end("system-shutdown")
	if head, _ := c.head("bob"); head < 1 || told != fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%d'/>", head) {
		t.Errorf("%d messages are stored, and was told %s", head, told)
	}
	alice.write("</stream:stream>")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

// Serve leaves nothing behind: no session, no lease, no undelivered number.
func TestStop(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Flush = time.Hour })
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	handshake := c.dial(0, leg{})
	handshake.open()
	alice.write("<message to='bob@example.com'><body>x</body></message>")
	bob.expect("<body>x</body>")
	go func() { // as clients do
		for _, cl := range []*client{alice, bob} {
			for {
				if _, err := cl.read(); err != nil {
					_ = cl.conn.Close()
					break
				}
			}
		}
	}()
	c.stopNode(c.nodes[0])
	if _, delivered := c.head("bob"); delivered != 1 {
		t.Errorf("delivered %d, want 1", delivered)
	}
	if n := len(c.sessions("alice")) + len(c.sessions("bob")); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	handshake.gone()
}

func TestFull(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.MaxSessions = 1 })
	c.online(0, "alice", "phone")
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(auth("PLAIN", b64("\x00bob\x00pencil")))
	cl.expect("^<success ")
	cl.scanner.Reset()
	cl.open()
	cl.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	cl.end("resource-constraint")
	if n := len(c.sessions("bob")); n != 0 {
		t.Errorf("bob has %d sessions", n)
	}
}

// Who has too many sessions is told so, and may bind when one has ended (RFC 6120
// §7.6.2.1).
// How long a stop may take says nothing of sessions that end before it.
func TestSessionsLeaveWhateverAStopMayTake(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Timeouts.Shutdown = time.Nanosecond })
	alice := c.online(0, "alice", "phone")
	alice.close()
	c.eventually("the record is gone", func() bool { return len(c.sessions("alice")) == 0 })
}

func TestTooManySessionsOfOneUser(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.PerUser = 2 })
	phone := c.online(0, "alice", "phone")
	c.online(0, "alice", "desk")
	c.online(0, "alice", "desk") // replaces one
	cl := c.returns(0, "alice")
	const bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
	cl.write("<iq type='set' id='b'>" + bind)
	cl.expect("^<iq [^>]*id='b'[^>]*><error type='wait'><resource-constraint .*too many sessions<")
	phone.close()
	c.eventually("one has ended", func() bool { return len(c.sessions("alice")) == 1 })
	cl.write("<iq type='set' id='c'>" + bind)
	cl.expect("^<iq type='result' id='c'><bind ")
	cl.sync()
}

// Requests to bind that make no sense are answered, and another one may follow.
func TestBindErrors(t *testing.T) {
	c := newCluster(t, 1, nil)
	cl := c.returns(0, "alice")
	for _, request := range []string{
		"<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
		"<iq type='set' id=''><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
		"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + strings.Repeat("x", 1024) + "</resource></bind></iq>",
		"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><x xmlns='urn:x'/></iq>",
		"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
	} {
		cl.write(request)
		cl.expect("^<iq [^>]*type='error'[^>]*><error type='modify'><bad-request ")
	}
	if n := len(c.sessions("alice")); n != 0 {
		t.Errorf("alice has %d sessions", n)
	}
	cl.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	cl.expect("^<iq type='result' id='b'><bind ")
}

// A client's stream error ends the stream, and is not answered with another one (RFC 6120
// §4.9.1.1). The session is over, as after the end of the stream.
func TestClientsStreamError(t *testing.T) {
	const broken = "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
	c := newCluster(t, 1, nil)
	alice := c.online(0, "alice", "phone")
	alice.resumable()
	alice.write(broken + "</stream:stream>")
	alice.end("")
	c.gone("alice")
	c.eventually("the log line", func() bool {
		return strings.Contains(c.nodes[0].log.String(), "reason=client-closed") &&
			strings.Contains(c.nodes[0].log.String(), `cause="the client sent a stream error: undefined-condition"`)
	})
	unbound := c.returns(0, "bob")
	unbound.write(broken)
	unbound.gone()
}

func TestAdmin(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Weight, o.Capacity = 2, 100 })
	c.online(0, "alice", "phone")
	server := httptest.NewServer(c.nodes[0].AdminHandler())
	defer server.Close()
	get := func(path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b strings.Builder
		if _, err := io.Copy(&b, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String()
	}
	if code, body := get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
	c.eventually("ready", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
	if _, body := get("/readyz"); body != "ready\nsessions=1 capacity=100 draining=false\n" {
		t.Errorf("/readyz: %s", body)
	}
	_, body := get("/status")
	var status backend.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatal(err)
	}
	if want := (backend.Status{Node: "node-1", Sessions: 1, Ready: true, Capacity: 100, Weight: 2}); status != want {
		t.Errorf("got %+v, want %+v", status, want)
	}
	if _, body := get("/metrics"); !strings.Contains(body, "imlb_node_sessions 1") {
		t.Errorf("/metrics: %s", body)
	}
	c.metric(0, "imlb_node_ready", nil, 1)
	if problems, err := testutil.GatherAndLint(c.nodes[0].metrics); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.nodes[0].Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || body != "draining\nsessions=0 capacity=100 draining=true\n" {
		t.Errorf("/readyz: %d %s", code, body)
	}
	c.metric(0, "imlb_node_ready", nil, 0)
}

func TestOptionsAreChecked(t *testing.T) {
	good := func() backend.Options {
		signals := &memBus{}
		end := signals.node(nil)
		t.Cleanup(signals.close)
		return backend.Options{
			Name: "n", Domain: domain, Store: newCluster(t, 0, nil).store, Bus: end, Partition: partition, TrustedFronts: trusted,
		}
	}
	if _, err := backend.New(good()); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*backend.Options){
		"name":      func(o *backend.Options) { o.Name = "" },
		"domain":    func(o *backend.Options) { o.Domain = "Example.COM" },
		"no domain": func(o *backend.Options) { o.Domain = "a@b" },
		"store":     func(o *backend.Options) { o.Store = nil },
		"fronts":    func(o *backend.Options) { o.TrustedFronts = nil },
		"mechanism": func(o *backend.Options) { o.Mechanisms = []string{"DIGEST-MD5"} },
		"registration where passwords are checked elsewhere": func(o *backend.Options) {
			o.Passwords, o.Registration.PasswordChange = new(passwords), true
		},
	} {
		o := good()
		spoil(&o)
		if _, err := backend.New(o); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
