package backend_test

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
)

const (
	enableCarbons = "<enable xmlns='urn:xmpp:carbons:2'/>"
	beInactive    = "<inactive xmlns='urn:xmpp:csi:0'/>"
)

// bound2 logs a client in with a resource.
func (c *cluster) bound2(node int, name, more string) (cl *client, success string) {
	c.t.Helper()
	cl = c.dial(node, leg{})
	return cl, cl.login2(authenticate("PLAIN", "\x00"+name+"\x00"+password, more))
}

func TestBind2(t *testing.T) {
	const made = "[A-Za-z0-9_-]{16}"
	for _, tt := range []struct {
		name, more    string
		resource      string // a pattern
		inside, after string // of <bound/>, and what is offered then
	}{
		{
			name: "nothing but a resource", more: bind(), resource: "[A-Z2-7]{26}",
			after: "<sm xmlns='urn:xmpp:sm:3'/><csi xmlns='urn:xmpp:csi:0'/><ver xmlns='urn:xmpp:features:rosterver'/><sub xmlns='urn:xmpp:features:pre-approval'/>",
		},
		{name: "a client that is known", more: phone + bind(), resource: made, after: "<sm xmlns='urn:xmpp:sm:3'/><csi"},
		{name: "a tag", more: phone + bind("<tag>T 1</tag>"), resource: "T 1/" + made, after: "<sm "},
		{name: "a tag that is none", more: phone + bind("<tag>&#x202e;</tag>"), resource: made, after: "<sm "},
		{name: "a tag that is too long", more: phone + bind("<tag>"+strings.Repeat("x", 1024)+"</tag>"), resource: made, after: "<sm "},
		{name: "stream management", more: bind(smEnable), resource: ".*", inside: "<enabled xmlns='urn:xmpp:sm:3'[^>]*/>", after: "<csi "},
		{name: "all", more: bind(enableCarbons, smEnable, beInactive, "<x xmlns='y'/>"), resource: ".*", inside: "<enabled [^>]*/>", after: "<csi "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1, nil)
			cl := c.dial(0, leg{})
			cl.open()
			cl.write(authenticate("PLAIN", aliceSecret, tt.more))
			cl.expect("^<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>alice@example.com/" + tt.resource +
				"</authorization-identifier><bound xmlns='urn:xmpp:bind:0'><metadata xmlns='urn:xmpp:mam:2'/>" + tt.inside + "</bound></success>$")
			cl.expect("^<stream:features>" + tt.after)
			cl.close()
		})
	}
}

// The metadata say what the archive had when the resource was bound (XEP-0386 §3.2).
func TestBind2Metadata(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	for range 3 {
		bob.write("<message to='alice@example.com' type='chat'><body>hello</body></message>")
	}
	bob.sync()
	alice, success := c.bound2(0, "alice", bind())
	const stamp = `timestamp='\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z'`
	want := "<metadata xmlns='urn:xmpp:mam:2'><start id='1' " + stamp + "/><end id='3' " + stamp + "/></metadata>"
	if !regexp.MustCompile(want).MatchString(success) {
		t.Errorf("got %s, want %s", success, want)
	}
	alice.close()
}

// A client that comes back takes the place of its own session, on any node, and has
// the resource that it had.
func TestBind2Again(t *testing.T) {
	c := newCluster(t, 2, nil)
	first, _ := c.bound2(0, "alice", phone+bind("<tag>T</tag>"))
	other, _ := c.bound2(0, "alice", desk+bind("<tag>T</tag>"))
	second, _ := c.bound2(1, "alice", phone+bind("<tag>T</tag>"))
	if first.jid != second.jid || first.jid == other.jid {
		t.Errorf("bound %s, then %s; another client %s", first.jid, second.jid, other.jid)
	}
	first.end("conflict")
	// With another tag it has another address, and is still the same client.
	third, _ := c.bound2(1, "alice", phone+bind("<tag>T2</tag>"))
	second.end("conflict")
	other.sync()
	third.sync()
	bob, _ := c.bound2(0, "bob", phone+bind("<tag>T</tag>"))
	if _, resource, _ := strings.Cut(bob.jid, "/"); strings.HasSuffix(first.jid, resource) {
		t.Error("the same client of two users has the same resource")
	}
}

// headStore does something when a timeline's head is asked for, which a login does twice:
// when the session is known already, and for the metadata.
type headStore struct {
	store.Store

	mu   sync.Mutex
	then []func()
}

func (h *headStore) Head(ctx context.Context, owner store.OwnerID) (head, delivered uint64, err error) {
	h.mu.Lock()
	then := h.then
	if len(then) > 0 {
		h.then = then[1:]
	}
	h.mu.Unlock()
	if len(then) > 0 {
		then[0]()
	}
	return h.Store.Head(ctx, owner)
}

func (h *headStore) next(then ...func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.then = then
}

// newHeadCluster has one node.
func newHeadCluster(t *testing.T) (*cluster, *headStore) {
	t.Helper()
	h := new(headStore)
	return newCluster(t, 1, func(o *backend.Options) { h.Store, o.Store = o.Store, h }), h
}

// Nothing comes before <success/>, though contacts know the address that the client will
// have.
func TestBind2First(t *testing.T) {
	c, h := newHeadCluster(t)
	alice, _ := c.bound2(0, "alice", phone+bind())
	bob := c.online(0, "bob", "desk")
	h.next(func() {
		const news = "' type='headline'><body>news</body></message>"
		bob.write("<message to='" + alice.jid + news + "<message to='" + bob.jid + news)
		bob.expect("news") // signals come in order
	})
	again, _ := c.bound2(0, "alice", phone+bind(smEnable)) // which wants <success/> to be the first
	again.expect("news")
	again.write("<a xmlns='urn:xmpp:sm:3' h='1'/>") // and the rest is counted
	again.sync()
	again.close()
}

// What is appended while a resource is bound is not in the metadata: it will come.
func TestBind2MetadataInTime(t *testing.T) {
	c, h := newHeadCluster(t)
	bob := c.online(0, "bob", "desk")
	say := func() {
		bob.write("<message to='alice@example.com' type='chat'><body>hello</body></message>")
		bob.sync()
	}
	say()
	h.next(func() {}, say)
	alice, success := c.bound2(0, "alice", phone+bind())
	if !strings.Contains(success, "<end id='1' ") {
		t.Errorf("got %s", success)
	}
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "^<message .* id='2'")
	alice.close()
}

// What waits for a user is left to the archive, and comes to nobody later.
func TestBind2ClearsOffline(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	say := func(body string) {
		bob.write("<message to='alice@example.com' type='chat'><body>" + body + "</body></message>")
		bob.sync()
	}
	say("waits")
	alice, _ := c.bound2(0, "alice", phone+bind())
	c.eventually("what waited is received", func() bool { _, delivered := c.head("alice"); return delivered == 1 })
	say("came after binding")
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "came after binding")
	alice.close()
	c.eventually("all is received", func() bool { head, delivered := c.head("alice"); return head == 2 && delivered == 2 })
	old := c.online(0, "alice", "old")
	old.sync()
	old.close()
}

// What cannot be read from the archive is not left to it, and the rest is.
func TestBind2BringsWhatIsNotArchived(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	bob, old := c.online(0, "bob", "desk"), c.login(0, "alice", "old")
	old.prefs("always", "")
	say := func(body, more string) {
		bob.write("<message to='alice@example.com' type='chat'><body>" + body + "</body>" + more + "</message>")
		bob.sync()
	}
	const passing = "<no-permanent-store xmlns='urn:xmpp:hints'/>"
	say("archived 1", "")
	say("passing 2", passing)
	say("archived 3", "")
	old.prefs("never", "")
	say("never 4", "")
	old.close()
	c.gone("alice")

	alice, success := c.bound2(1, "alice", phone+bind(smResumable))
	id := between(success, "<enabled xmlns='urn:xmpp:sm:3' id='", "'")
	if _, delivered := c.head("alice"); delivered > 1 {
		t.Fatalf("delivered %d before anything was", delivered)
	}
	alice.write("<presence/>")
	alice.skipToAll("^<presence ", "passing 2.*<stanza-id [^>]*/></message>$", "never 4")
	_ = alice.conn.Close() // without having acknowledged it
	alice = c.returns(0, "alice")
	alice.resumed(id, 0, 1)
	alice.skipToAll("^<presence ", "passing 2", "never 4")
	alice.settled()
	alice.write("<a xmlns='urn:xmpp:sm:3' h='4'/>") // the presence, two messages and a result
	c.eventually("all is received", func() bool { _, delivered := c.head("alice"); return delivered == 4 })
	alice.close()
	again := c.online(0, "alice", "old")
	again.sync()
}

// Beside another client, which is to get all of it, it comes as well.
func TestBind2BringsWhatIsNotArchivedToBoth(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	bob, old := c.online(0, "bob", "desk"), c.login(0, "alice", "old")
	for _, more := range []string{"1</body>", "2</body><no-permanent-store xmlns='urn:xmpp:hints'/>", "3</body>"} {
		bob.write("<message to='alice@example.com' type='chat'><body>" + more + "</message>")
		bob.sync()
	}
	alice, _ := c.bound2(0, "alice", phone+bind())
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "<stanza-id [^>]*/><body>2</body>")
	alice.sync()
	old.write("<presence/>")
	old.expectAll("^<presence ", "^<presence ", "<body>1</body>", "<body>3</body>")
	old.sync()
}

// A node that dies while it delivers what waited has not made it count as received.
func TestWaitingOutlivesTheNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	c.bus.cut = func(sig bus.Signal) bool { return strings.Contains(string(sig.Data), "yield") }
	bob := c.online(1, "bob", "desk")
	bob.write(say("alice", "one") + say("alice", "two"))
	bob.settled()
	alice := c.login(0, "alice", "phone")
	id := alice.resumable()
	alice.write("<presence/>")
	alice.skipToAll("<body>two</body>", "^<presence ")
	alice.write(smAsk)
	alice.skipTo("^<a [^>]*h='1'/>") // so that the presence need not be said again
	again := c.returns(1, "alice")   // the first node is cut off
	again.resumed(id, 0, 1)
	again.skipTo("<body>one</body>")
	again.skipTo("<body>two</body>")
}

// What is on its way to another client stays so.
func TestBind2LeavesOthersAlone(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	old := c.login(0, "alice", "old")
	bob.write("<message to='alice@example.com' type='chat'><body>waits</body></message>")
	bob.sync()
	alice, _ := c.bound2(0, "alice", phone+bind())
	alice.write("<presence/>")
	alice.expect("^<presence ")
	alice.sync()
	old.write("<presence/>")
	old.expectAll("^<presence [^>]*/old", "^<presence ", "waits")
}

// Copies are complete from the moment of binding.
func TestBind2Carbons(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	old := c.online(0, "alice", "old")
	alice, _ := c.bound2(0, "alice", phone+bind(enableCarbons))
	old.write("<message to='bob@example.com' type='chat'><body>sent meanwhile</body></message>")
	bob.expect("sent meanwhile")
	bob.write("<message to='" + old.jid + "' type='chat'><body>received meanwhile</body></message>")
	old.expect("received meanwhile")
	bob.write("<message to='alice@example.com' type='chat'><body>for all</body></message>")
	old.expect("for all")
	c.eventually("the other client has it", func() bool { _, delivered := c.head("alice"); return delivered == 3 })
	alice.write("<presence/>")
	alice.expectAll("^<presence ", "^<presence ",
		"<sent xmlns='urn:xmpp:carbons:2'>.*sent meanwhile", "<received xmlns='urn:xmpp:carbons:2'>.*received meanwhile",
		"<received xmlns='urn:xmpp:carbons:2'>.*for all")
	old.write("<message to='bob@example.com' type='chat'><body>later</body></message>")
	alice.expect("<sent xmlns='urn:xmpp:carbons:2'>.*later")
}

// A session may begin inactive (XEP-0352).
func TestBind2Inactive(t *testing.T) {
	c := newCluster(t, 1, nil)
	bob := c.online(0, "bob", "desk")
	alice, _ := c.bound2(0, "alice", phone+bind(beInactive))
	alice.write("<presence/>")
	alice.sync() // its own presence is held, too
	bob.write("<message to='" + alice.jid + "' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>")
	bob.sync()
	alice.sync()
	alice.write("<active xmlns='urn:xmpp:csi:0'/>")
	alice.expectAll("^<presence ", "<composing ")
}

// With XEP-0198 both sides count from the login on.
func TestBind2Counts(t *testing.T) {
	c := newCluster(t, 1, nil)
	alice, _ := c.bound2(0, "alice", phone+bind(smEnable))
	alice.write("<presence/>" + smAsk)
	alice.expectAll("^<presence ", "^<a xmlns='urn:xmpp:sm:3' h='1'/>")
	alice.write("<a xmlns='urn:xmpp:sm:3' h='1'/>")
	alice.sync()
	alice.write(smEnable)
	alice.expect("^<failed xmlns='urn:xmpp:sm:3'><unexpected-request ")
}

func TestBind2Refused(t *testing.T) {
	c := newCluster(t, 1, func(o *backend.Options) { o.Limits.PerUser = 1 })
	first := c.login(0, "alice", "old")
	cl := c.dial(0, leg{})
	cl.open()
	cl.write(authenticate("PLAIN", aliceSecret, bind()))
	cl.end("resource-constraint")
	first.sync()
}

// A session that cannot be resumed is bound anew, if that is asked for (XEP-0198 §9.2).
func TestInlineResumeFails(t *testing.T) {
	c := newCluster(t, 1, nil)
	const resume, failed = "<resume xmlns='urn:xmpp:sm:3' previd='gone' h='1'/>", "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
	cl, success := c.bound2(0, "alice", phone+resume+bind("<tag>T</tag>", smEnable))
	if !strings.Contains(success, "</authorization-identifier>"+failed+"<bound ") {
		t.Errorf("got %s", success)
	}
	cl.sync()
	cl, success = c.bound2(0, "alice", resume)
	if !strings.Contains(success, ">alice@example.com</authorization-identifier>"+failed+"</success>") {
		t.Errorf("got %s", success)
	}
	cl.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
	cl.expect("^<iq type='result' id='b'")
}
