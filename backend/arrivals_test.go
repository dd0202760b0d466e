package backend_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"imlb/backend"
	"imlb/backend/store"
)

// onlyOne sends a message to the user when exactly one of some clients is left, and returns that.
func (c *cluster) onlyOne(clients []*client) *client {
	c.t.Helper()
	type end struct {
		cl  *client
		all string
	}
	ends := make(chan end, len(clients))
	for _, cl := range clients {
		go func() {
			var all strings.Builder
			for {
				tok, err := cl.read()
				all.Write(tok.Raw)
				if err != nil || strings.Contains(all.String(), "<body>who</body>") {
					ends <- end{cl, all.String()}
					return
				}
			}
		}()
	}
	for range len(clients) - 1 {
		if e := <-ends; strings.Contains(e.all, "<body>who</body>") {
			c.t.Errorf("a client that is not the last got %s", e.all)
		}
	}
	bob := c.online(0, "bob", "desk")
	bob.write(say("alice", "who"))
	bob.sync()
	e := <-ends
	if strings.Contains(e.all, "<conflict ") || !strings.Contains(e.all, "<body>who</body>") {
		c.t.Errorf("the last one got %s", e.all)
	}
	if all := c.sessions("alice"); len(all) != 1 {
		c.t.Errorf("the store has %+v", all)
	}
	return e.cl
}

// Of clients that bind one resource at the same time the last one has it, on whatever node,
// and the others know.
func TestBindAtTheSameTime(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 2; nodes++ {
		c := newCluster(t, nodes, nil)
		var clients []*client
		for i := range 6 {
			clients = append(clients, c.returns(i%nodes, "alice"))
		}
		var all sync.WaitGroup
		for _, cl := range clients {
			all.Go(func() {
				cl.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>phone</resource></bind></iq><presence/>")
			})
		}
		all.Wait()
		c.onlyOne(clients).settled()
	}
}

// createStore holds the first session up once it has its record.
type createStore struct {
	store.Store
	held          atomic.Bool
	made, goAhead chan struct{}
}

func (s *createStore) CreateSession(ctx context.Context, rec store.Session) (*store.Session, error) {
	replaced, err := s.Store.CreateSession(ctx, rec)
	if !s.held.Swap(true) {
		close(s.made)
		<-s.goAhead
	}
	return replaced, err
}

// One that was replaced before its node knew of it does not come after the one that has its place.
func TestReplacedBeforeItIsKnown(t *testing.T) {
	t.Parallel()
	for other := range 2 {
		held := &createStore{made: make(chan struct{}), goAhead: make(chan struct{})}
		c := newCluster(t, 2, func(o *backend.Options) {
			if o.Name == "node-1" {
				held.Store, o.Store = o.Store, held
			}
		})
		first := c.returns(0, "alice")
		first.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>phone</resource></bind></iq>")
		<-held.made
		second := c.online(other, "alice", "phone")
		close(held.goAhead)
		first.end("conflict")
		first.gone()
		second.syncWith(second)
		if all := c.sessions("alice"); len(all) != 1 {
			t.Errorf("the store has %+v", all)
		}
	}
}

// The same of those that resume one session.
func TestResumeAtTheSameTime(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 2; nodes++ {
		c := newCluster(t, nodes, nil)
		alice := c.online(0, "alice", "phone")
		id := alice.resumable()
		_ = alice.conn.Close()
		var clients []*client
		for i := range 5 {
			clients = append(clients, c.returns(i%nodes, "alice"))
		}
		var all sync.WaitGroup
		for _, cl := range clients {
			all.Go(func() { cl.resume(id, 0) })
		}
		all.Wait()
		c.onlyOne(clients).settled()
	}
}

// takenStore holds up whoever has asked for a session, until another one has it.
type takenStore struct {
	store.Store
	looks   atomic.Int32
	asked   chan struct{} // closed when the session waits for whoever is first
	goAhead chan struct{}
}

func (s *takenStore) Holding(ctx context.Context, id string, owner store.OwnerID) (store.Holding, error) {
	h, err := s.Store.Holding(ctx, id, owner)
	if s.looks.Add(1) > 1 && h.Parked && s.asked != nil {
		close(s.asked)
		s.asked = nil
		<-s.goAhead
		return s.Store.Holding(ctx, id, owner)
	}
	return h, err
}

// Who has asked for a session before another connection resumed it does not take it from that one: it may be dead itself,
// and know nothing of what its client has got there. One that is not comes back and asks anew, and the other one leaves it
// in order.
func TestResumeAfterAnotherOne(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	held := &takenStore{asked: asked, goAhead: make(chan struct{})}
	c := newCluster(t, 3, func(o *backend.Options) {
		if o.Name == "node-3" {
			held.Store, o.Store = o.Store, held
		}
	})
	bob := c.online(1, "bob", "desk")
	alice := c.online(0, "alice", "phone")
	id := alice.resumable()
	first, second := c.returns(1, "alice"), c.returns(2, "alice")
	second.resume(id, 0)
	<-asked
	first.resumed(id, 0, 0)
	bob.write(composesTo)
	first.expect("<composing ")
	close(held.goAhead)
	second.skipTo("^<stream:error.*<internal-server-error ") // and no conflict: she is to come back
	bob.write(composesTo)
	first.expect("<composing ")
	third := c.returns(2, "alice")
	third.resumed(id, 1, 0)
	third.expect("<composing ")
	first.skipTo("^<stream:error.*<conflict ")
}
