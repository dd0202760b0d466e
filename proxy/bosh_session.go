package proxy

import (
	"context"
	"sync"
	"time"

	"imlb/proxy/bosh"
)

// boshPath is where BOSH is unless the configuration says otherwise. It is where other
// servers have it, too.
const boshPath = "/http-bind"

// BOSH is XMPP over HTTP requests (XEP-0124, XEP-0206). Of what is zero the defaults of
// [bosh.Limits] hold.
type BOSH struct {
	Path       string        // default /http-bind
	Wait       time.Duration // for which a request is held at most
	Inactivity time.Duration // without a request, after which the client is gone
	MaxPause   time.Duration // for which it may say that it will be
}

// boshSession is a session of which the client makes HTTP requests.
type boshSession struct {
	*session
	conn *boshConn
	done chan struct{} // closed at its end
}

// boshTable finds sessions by their id.
type boshTable struct {
	mu       sync.Mutex
	sessions map[string]*boshSession
}

func newBOSHTable() *boshTable { return &boshTable{sessions: make(map[string]*boshSession)} }

// get returns a session of a listener, or nil: what one listener offers others may not, least
// of all without TLS.
func (t *boshTable) get(sid string, l *listener) *boshSession {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[sid]; s != nil && s.ln == l {
		return s
	}
	return nil
}

func (t *boshTable) put(sid string, s *boshSession) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions[sid] = s
}

func (t *boshTable) remove(sid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, sid)
}

// beginBOSH begins a session with its first request, which has come on the connection of s.
func (s *session) beginBOSH(ctx context.Context, r *bosh.Request) (*boshSession, <-chan []byte, error) {
	cfg, sid := s.terms.listener.BOSH, s.srv.ids.next().String()
	machine, err := bosh.New(time.Now(), sid, r, bosh.Limits{Wait: cfg.Wait, Inactivity: cfg.Inactivity, MaxPause: cfg.MaxPause})
	if err != nil {
		return nil, nil, err
	}
	max := s.terms.Limits.MaxPreAuth
	conn := newBOSHConn(machine, s.facts.source, s.facts.reached(), max)
	answer := conn.first(r)
	b := &boshSession{conn: conn, done: make(chan struct{})}
	s.ln.bosh.Add(1)
	b.session = s.srv.newSession(s.ln, s.terms, newWire(conn), s.factsOfBOSH(), func() {
		s.srv.bosh.remove(sid)
		close(b.done)
		s.ln.bosh.Done()
	})
	b.rec.Source, b.rec.Via, b.rec.TLS = s.rec.Source, s.rec.Via, s.rec.TLS
	b.setTransport("bosh")
	b.wire.used.Store(true)
	b.streamOn(newBOSHLeg(conn, b.session, max))
	s.srv.bosh.put(sid, b)
	go b.run(ctx)
	return b, answer, nil
}

// factsOfBOSH are those of a session on several connections, of which this is the first. It is
// bound to none of them.
func (s *session) factsOfBOSH() *facts {
	f := *s.facts
	f.roams = true
	return &f
}

// onBOSH tells whether the session's client makes HTTP requests.
func (s *session) onBOSH() bool {
	_, ok := s.wire.Conn.(*boshConn)
	return ok
}

// serveBOSH is the life of a session whose transport stands.
func (s *session) serveBOSH(ctx context.Context) error {
	if err := s.limit(ctx); err != nil {
		return err
	}
	s.rec.Handshake = time.Since(s.rec.Started)
	return s.stream(ctx)
}

// mayProve tells whether the client of BOSH may still show that it has received an entry.
func (s *session) mayProve() bool {
	l, ok := s.client.(*boshLeg)
	return ok && len(l.marks) > 0
}

// prove notes the last entry that a client of BOSH has shown to have received.
func (s *session) prove() {
	if l, ok := s.client.(*boshLeg); ok {
		s.rec.LastEntry = max(s.rec.LastEntry, l.proved(0))
	}
}
