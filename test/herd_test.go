package test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// herdPassword is that of all members.
const herdPassword = "stampede"

// herd is many clients in one process, two of each user, in pairs of users that talk to each other.
// One client of each talks, the other one listens: it gets copies (XEP-0280) of what it does not get itself.
// When they lose the connection they come back and resume (XEP-0198 §5), as a phone would.
type herd struct {
	t       *testing.T
	addr    string
	config  *tls.Config
	members []*member       // of each user the one that talks, and the one that listens
	start   chan struct{}   // closed when they may talk
	stop    func()          // nothing new is said from then on
	quiet   <-chan struct{} // closed by stop
	quit    func()          // stop, and go offline
	running sync.WaitGroup
	trouble atomic.Value // the last error of a login, as text

	online  atomic.Int64 // logins and resumptions
	resumed atomic.Int64
	over    atomic.Int64 // sessions that could not be resumed, and whose count was told
}

// member is one client.
type member struct {
	herd    *herd
	name    string
	peer    string // whom it talks to
	listens bool

	mu       sync.Mutex
	conn     net.Conn // nil: it has none
	ready    bool     // it is logged in
	id       string   // of the session that may be resumed
	received uint32   // stanzas, since <enabled/>
	sent     []string // bodies, all of them
	acked    int      // of these, handled
	base     int      // how many were handled before <enabled/>
	stanzas  uint32   // stanzas sent and handled beside messages, since <enabled/>
	told     uint32   // the highest count that the server has told
	heard    []string // bodies of what the peer said
	copied   []string // and of what the user's other client did
}

// What the clients of a user are called.
const talkerResource, listenerResource = "talks", "listens"

func (m *member) resource() string {
	if m.listens {
		return listenerResource
	}
	return talkerResource
}

// peerOf is the member that talks to the one at i.
func (h *herd) peerOf(i int) *member { return h.members[(i/2^1)*2] }

// herdAccounts makes the accounts of a herd, in a database that nobody uses yet.
func herdAccounts(t *testing.T, url string, n int) {
	t.Helper()
	creds, err := backend.DeriveCredentials(herdPassword, 4096)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range n {
		if _, err := db.CreateAccount(t.Context(), fmt.Sprintf("herd%04d@localhost", i), creds); err != nil {
			t.Fatal(err)
		}
	}
}

// newHerd brings n clients online, of half as many users.
func newHerd(t *testing.T, d *dev, n int, pause time.Duration) *herd {
	t.Helper()
	ctx, quit := context.WithCancel(context.Background())
	talking, stop := context.WithCancel(ctx)
	h := &herd{t: t, addr: d.Front.XMPPS, config: d.tls(t, "xmpp-client"), start: make(chan struct{}), stop: stop, quiet: talking.Done(), quit: quit}
	for i := range n {
		peer := fmt.Sprintf("herd%04d@localhost", i/2^1)
		if i/4%2 == 1 {
			peer += "/" + talkerResource // the one that listens gets nothing but copies
		}
		h.members = append(h.members, &member{herd: h, name: fmt.Sprintf("herd%04d", i/2), peer: peer, listens: i%2 == 1})
	}
	gate := make(chan struct{}, 64) // so many log in at a time
	for _, m := range h.members {
		h.running.Go(func() { m.live(ctx, gate) })
		if !m.listens {
			h.running.Go(func() { m.talk(pause) })
		}
	}
	t.Cleanup(func() { quit(); h.running.Wait() })
	return h
}

// live keeps the client online until ctx ends.
func (m *member) live(ctx context.Context, gate chan struct{}) {
	stop := context.AfterFunc(ctx, m.drop)
	defer stop()
	for ctx.Err() == nil {
		gate <- struct{}{}
		scan, err := m.login(ctx)
		<-gate
		if err != nil {
			m.herd.trouble.Store(err.Error())
		} else {
			m.herd.online.Add(1)
			err = scan.each(func(raw string) error { return m.handle(scan, raw) })
		}
		var lost *lostError
		if errors.As(err, &lost) {
			m.herd.t.Errorf("%s: %v", m.name, err)
			return
		}
		m.drop()
		pauseFor(ctx, 50*time.Millisecond)
	}
}

// pauseFor spaces the attempts of a client, as clients do.
func pauseFor(ctx context.Context, d time.Duration) {
	limited, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-limited.Done()
}

// lostError is what a client must not meet.
type lostError struct{ what string }

func (e *lostError) Error() string { return e.what }

func (m *member) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn, m.ready = nil, false
	}
}

// tokens reads a stream.
type tokens struct {
	conn net.Conn
	scan *xmpp.Scanner
	buf  []byte
	rest []byte
}

func (s *tokens) next() (xmpp.Token, error) {
	for {
		for len(s.rest) > 0 {
			tok, rest, err := s.scan.Next(s.rest)
			s.rest = rest
			if err != nil || tok.Kind != xmpp.KindNone && tok.Kind != xmpp.KindSpace {
				return tok, err
			}
		}
		n, err := s.conn.Read(s.buf)
		if s.rest = s.buf[:n]; n == 0 && err != nil {
			return xmpp.Token{}, err
		}
	}
}

// each hands over what the server says until the stream ends.
func (s *tokens) each(take func(raw string) error) error {
	for {
		tok, err := s.next()
		if err != nil {
			return err
		}
		if tok.Kind == xmpp.KindClose {
			return io.EOF
		}
		if err := take(string(tok.Raw)); err != nil {
			return err
		}
	}
}

// ask sends something, and returns the first element that has one of the prefixes.
func (s *tokens) ask(say string, prefixes ...string) (string, error) {
	if _, err := io.WriteString(s.conn, say); err != nil {
		return "", err
	}
	for {
		tok, err := s.next()
		if err != nil {
			return "", err
		}
		for _, p := range prefixes {
			if strings.HasPrefix(string(tok.Raw), p) {
				return string(tok.Raw), nil
			}
		}
		if tok.Kind == xmpp.KindClose || strings.HasPrefix(string(tok.Raw), "<stream:error") {
			return "", fmt.Errorf("the server said %s", tok.Raw)
		}
	}
}

const herdHeader = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

// login connects and resumes, or begins, a session.
func (m *member) login(ctx context.Context) (*tokens, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.herd.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, m.herd.config)
	m.mu.Lock()
	m.conn = conn
	m.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(patience))
	s := &tokens{conn: conn, scan: xmpp.NewScanner(xmpp.Limits{}), buf: make([]byte, 4<<10)}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + m.name + "\x00" + herdPassword))
	if _, err := s.ask(herdHeader, "<stream:features"); err != nil {
		return nil, err
	}
	got, err := s.ask("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"+plain+"</auth>", "<success", "<failure")
	if err == nil && strings.HasPrefix(got, "<failure") {
		err = fmt.Errorf("login: %s", got)
	}
	if err != nil {
		return nil, err
	}
	s.scan.Reset()
	if _, err := s.ask(herdHeader, "<stream:features"); err != nil {
		return nil, err
	}
	if err := m.begin(s); err != nil {
		return nil, err
	}
	return s, conn.SetDeadline(time.Time{})
}

// begin resumes the session, or binds a resource. Who cannot resume says again what was
// not handled.
func (m *member) begin(s *tokens) error {
	m.mu.Lock()
	id, h := m.id, m.received
	m.mu.Unlock()
	if id != "" {
		got, err := s.ask(fmt.Sprintf("<resume xmlns='urn:xmpp:sm:3' previd='%s' h='%d'/>", id, h), "<resumed", "<failed")
		if err != nil {
			return err
		}
		if strings.HasPrefix(got, "<resumed") {
			m.herd.resumed.Add(1)
			return m.again(s, got)
		}
		if err := m.failed(got); err != nil {
			return err
		}
	}
	carbons := "enable"
	if !m.listens {
		carbons = "disable"
	}
	for _, step := range [][2]string{
		{"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>" + m.resource() + "</resource></bind></iq>", "<iq type='result'"},
		{"<iq type='set' id='c'><" + carbons + " xmlns='urn:xmpp:carbons:2'/></iq>", "<iq type='result' id='c'"},
		{"<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "<enabled"},
	} {
		got, err := s.ask(step[0], step[1])
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.id = attribute(got, "id")
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.received, m.told, m.stanzas, m.base, m.ready = 0, 0, 1, m.acked, true
	_, err := io.WriteString(s.conn, "<presence/>"+m.unhandled())
	return err
}

// failed takes the count of a session that is over.
func (m *member) failed(got string) error {
	h := attribute(got, "h")
	if h == "" {
		return &lostError{"a session is gone without a count: " + got}
	}
	m.herd.over.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = ""
	return m.take(h)
}

// again goes on with a resumed session: what was not handled is sent once more.
func (m *member) again(s *tokens, got string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.take(attribute(got, "h")); err != nil {
		return err
	}
	m.ready = true
	var say string
	if m.told == 0 {
		say = "<presence/>"
	}
	_, err := io.WriteString(s.conn, say+m.unhandled())
	return err
}

// unhandled are the messages that may have to be said again; under mu.
func (m *member) unhandled() string {
	var b strings.Builder
	for _, body := range m.sent[m.acked:] {
		b.WriteString(m.message(body))
	}
	return b.String() + "<r xmlns='urn:xmpp:sm:3'/>"
}

func (m *member) message(body string) string {
	return "<message type='chat' to='" + m.peer + "'><body>" + body + "</body></message>"
}

// take takes the server's count; under mu. It never goes back, and counts nothing that
// was not sent.
func (m *member) take(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return &lostError{"a count is " + strconv.Quote(text)}
	}
	h := uint32(n) //nolint:gosec // It was parsed as one.
	if h < m.told || h > m.stanzas+uint32(len(m.sent)-m.base) {
		return &lostError{fmt.Sprintf("the server counts %d; it said %d before, and %d were sent", h, m.told, int(m.stanzas)+len(m.sent)-m.base)}
	}
	if m.told = h; h >= m.stanzas {
		m.acked = m.base + int(h-m.stanzas)
	}
	return nil
}

func attribute(raw, name string) string {
	_, rest, ok := strings.Cut(raw, " "+name+"='")
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, "'")
	return value
}

// handle takes what the server says.
func (m *member) handle(s *tokens, raw string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case strings.HasPrefix(raw, "<a "):
		return m.take(attribute(raw, "h"))
	case strings.HasPrefix(raw, "<r "):
		_, err := fmt.Fprintf(s.conn, "<a xmlns='urn:xmpp:sm:3' h='%d'/>", m.received)
		return err
	case strings.HasPrefix(raw, "<message"):
		if _, rest, ok := strings.Cut(raw, "<body>"); ok {
			body, _, _ := strings.Cut(rest, "</body>")
			if strings.Contains(raw, "><sent xmlns='urn:xmpp:carbons:2'>") {
				m.copied = append(m.copied, body)
			} else {
				m.heard = append(m.heard, body)
			}
		}
		m.received++
	case strings.HasPrefix(raw, "<presence"), strings.HasPrefix(raw, "<iq"):
		m.received++
	}
	return nil
}

// talk says one thing after the other, once all are there.
func (m *member) talk(pause time.Duration) {
	select {
	case <-m.herd.start:
	case <-m.herd.quiet:
		return
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
			m.say(fmt.Sprintf("%s-%d", m.name, i))
		case <-m.herd.quiet:
			return
		}
	}
}

// say notes a message, and sends it if there is a session.
func (m *member) say(body string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return // nothing is said to nobody
	}
	m.sent = append(m.sent, body)
	_, _ = io.WriteString(m.conn, m.message(body)+"<r xmlns='urn:xmpp:sm:3'/>") // said again if that fails
}

// settle ends the talk, and waits until all that was said is handled and heard.
func (h *herd) settle() {
	h.t.Helper()
	h.stop()
	eventually(h.t, "all is said and heard", func(context.Context) (bool, string) {
		waiting, first := 0, ""
		for i, m := range h.members {
			sent, acked, heard, copied := m.counts()
			said, _, _, _ := h.peerOf(i).counts()
			toCopy := 0
			if m.listens {
				toCopy, _, _, _ = h.members[i-1].counts()
			}
			if acked < sent || heard < said || copied < toCopy {
				waiting++
				first = fmt.Sprintf("%s: %d sent, %d acknowledged, %d heard of %d, %d copied of %d", m.name, sent, acked, heard, said, copied, toCopy)
			}
		}
		return waiting == 0, fmt.Sprintf("%d wait, as %s", waiting, first)
	})
}

func (m *member) counts() (sent, acked, heard, copied int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sent), m.acked, len(m.heard), len(m.copied)
}

// isThere tells whether the server knows that the client is.
func (m *member) isThere() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready && m.told >= m.stanzas
}

// check looks for what was lost, doubled or out of order.
func (h *herd) check() {
	h.t.Helper()
	said, bad := 0, 0
	look := func(from, to *member, received []string) {
		for _, v := range (history{sent: from.sent, acked: from.sent[:from.acked], received: received}).violations() {
			if bad++; bad <= 20 {
				h.t.Errorf("%s at %s/%s: %s", from.name, to.name, to.resource(), v)
			}
		}
	}
	for i, m := range h.members {
		look(h.peerOf(i), m, m.heard)
		if m.listens {
			look(h.members[i-1], m, m.copied)
		}
		said += len(m.sent)
	}
	h.t.Logf("%d messages among %d clients; %d logins, of which %d resumed and %d could not; %d violations",
		said, len(h.members), h.online.Load(), h.resumed.Load(), h.over.Load(), bad)
}
