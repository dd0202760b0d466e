package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"imlb/backend/xmpp"
)

// walker is a client of a walk. It is online for as long as it can, and resumes its session.
type walker struct {
	w               *walk
	user            account
	resource, name  string
	carbons, inline bool // it gets copies; it resumes within SASL2

	mu      sync.Mutex
	conn    net.Conn // nil: it has none
	ready   bool     // it is logged in
	pause   time.Duration
	twice   bool // it resumes twice at once next time
	muted   bool // it acknowledges nothing
	leaving bool // it has ended its stream
	wants   bool // to be available
	idle    bool

	id       string // of the session that may be resumed
	session  int    // which one it is
	received uint32 // stanzas, since <enabled/>
	handled  uint32 // of its own, as it was told
	out      []unit // that were not
	number   int    // of the last message
	dead     []net.Conn
	resumed  int

	heard   []receipt
	acks    []ack
	losses  []time.Time // of connections, by this end
	begun   time.Time   // the session
	periods []period    // in which it is available
}

// unit is a stanza that the server has not counted yet.
type unit struct {
	text    string
	said    *saying // nil: no message
	arrival int     // the period that it begins; 0: none
	written bool
}

// receipt is a message that has come, or its copy.
type receipt struct {
	text, copied string // copied: "", "received" or "sent"
	entry        uint64
	at           time.Time
	session      int
	count        uint32
	period       int // -1: it was not available
}

// ack says that so many stanzas of a session have come.
type ack struct {
	session int
	count   uint32
	at      time.Time
}

// period is a time in which a session was available.
type period struct {
	session int
	since   time.Time // the server has handled that; zero: not yet
	over    bool
}

// live keeps the client online until ctx ends.
func (d *walker) live(ctx context.Context) {
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, c := range d.dead {
			_ = c.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.drop()
	})
	defer stop()
	for ctx.Err() == nil {
		d.mu.Lock()
		pause := d.pause
		d.pause = 0
		d.mu.Unlock()
		pauseFor(ctx, max(pause, walkPace))
		s, err := d.login(ctx)
		if err == nil {
			err = s.each(func(raw string) error { return d.takes(s, raw) })
		}
		d.mu.Lock()
		d.w.note("%s is offline: %v", d.name, err)
		if d.leaving {
			d.forget()
		} else if isTimeout(err) {
			d.losses = append(d.losses, time.Now())
		}
		d.drop()
		d.mu.Unlock()
	}
}

// drop closes the connection; under mu.
func (d *walker) drop() {
	if d.conn != nil {
		_ = reset(d.conn)
	}
	d.conn, d.ready = nil, false
}

// forget ends the session, with what is not known to be handled; under mu.
func (d *walker) forget() {
	d.id, d.leaving = "", false
	d.out = slices.DeleteFunc(d.out, func(u unit) bool { return u.said == nil || u.written })
}

// connect opens a stream, up to the features.
func (d *walker) connect(ctx context.Context) (*tokens, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.w.Front.XMPPS)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.w.config)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	s := &tokens{conn: conn, scan: xmpp.NewScanner(xmpp.Limits{}), buf: make([]byte, 4<<10)}
	if _, err := s.ask(herdHeader, "<stream:features"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// authenticate logs the client in, and returns the answer to what it asks for with that.
func (d *walker) authenticate(s *tokens, resume string) (got string, err error) {
	if d.inline && resume != "" {
		return s.ask(d.authenticates(resume), "<success")
	}
	if _, err = s.ask("<auth xmlns='"+nsSASL+"' mechanism='PLAIN'>"+plainPayload(d.user)+"</auth>", "<success"); err != nil {
		return "", err
	}
	s.scan.Reset()
	if _, err = s.ask(herdHeader, "<stream:features"); err != nil || resume == "" {
		return "", err
	}
	return s.ask(resume, "<resumed", "<failed")
}

// authenticates is a login that resumes the session within SASL2 (XEP-0198 §9).
func (d *walker) authenticates(resume string) string {
	return "<authenticate xmlns='" + nsSASL2 + "' mechanism='PLAIN'><initial-response>" + plainPayload(d.user) + "</initial-response>" + resume + "</authenticate>"
}

// login connects, and resumes the session or begins one.
func (d *walker) login(ctx context.Context) (*tokens, error) {
	d.mu.Lock()
	resume, twice, received := "", d.twice, d.received
	if d.id != "" {
		resume = fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, d.id, d.received)
	}
	d.twice = false
	d.mu.Unlock()
	if twice && resume != "" {
		d.resumeInVain(ctx, resume, received%2 == 0)
	}
	s, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.conn = s.conn
	d.mu.Unlock()
	got, err := d.authenticate(s, resume)
	if err != nil {
		return nil, err
	}
	if resume != "" {
		return s, d.goesOn(s, got, received)
	}
	return s, d.begins(s)
}

// resumeInVain asks for the session on a connection that is of no use: it is reset at once, or nobody reads it any more when
// the answer has come, and the client asks again. (One that stays without that, and is answered after another one which has
// asked with the same count, leaves the client with a count that fits neither.)
func (d *walker) resumeInVain(ctx context.Context, resume string, resets bool) {
	d.w.note("%s resumes twice, reset: %v", d.name, resets)
	s, err := d.connect(ctx)
	if err != nil {
		return
	}
	if resets {
		ask := "<auth xmlns='" + nsSASL + "' mechanism='PLAIN'>" + plainPayload(d.user) + "</auth>" + herdHeader + resume
		if d.inline {
			ask = d.authenticates(resume)
		}
		_, _ = io.WriteString(s.conn, ask)
		_ = reset(s.conn)
	} else {
		_, _ = d.authenticate(s, resume)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = append(d.dead, s.conn)
	d.losses = append(d.losses, time.Now())
}

// goesOn takes the answer to <resume/>. What was not handled is said again.
func (d *walker) goesOn(s *tokens, got string, received uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, answer, ok := strings.Cut(got, "<resumed")
	if !ok {
		d.w.fault("%s, which has %d stanzas, cannot resume: %s", d.name, received, got)
		if h := attribute(got, "h"); h != "" {
			_ = d.counts(h)
		}
		d.forget()
		return errors.New("no session")
	}
	if err := d.counts(attribute(answer, "h")); err != nil {
		return err
	}
	d.resumed++
	d.w.note("%s is resumed: it has %d, and %d of its are handled", d.name, received, d.handled)
	return d.goOn(s)
}

// begins makes a session. What comes before it is enabled to be resumed counts for it, too.
func (d *walker) begins(s *tokens) error {
	if _, err := s.ask("<iq type='set' id='b'><bind xmlns='"+nsBind+"'><resource>"+d.resource+"</resource></bind></iq>", "<iq type='result'"); err != nil {
		return err
	}
	d.mu.Lock()
	d.end()
	d.session++
	d.received, d.begun = 0, time.Now()
	d.mu.Unlock()
	if _, err := io.WriteString(s.conn, "<enable xmlns='"+nsSM+"' resume='true'/>"); err != nil {
		return err
	}
	got := ""
	for !strings.HasPrefix(got, "<enabled") {
		tok, err := s.next()
		if err != nil {
			return err
		}
		if got = string(tok.Raw); strings.HasPrefix(got, "<message") {
			if err := d.takes(s, got); err != nil {
				return err
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id, d.received, d.handled = attribute(got, "id"), 0, 0
	var first []unit
	if d.carbons {
		first = append(first, unit{text: "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"})
	}
	if d.wants {
		first = append(first, d.arrives())
	}
	d.out = append(first, d.out...)
	d.w.note("%s begins session %d", d.name, d.session)
	return d.goOn(s)
}

// goOn writes what was not handled; under mu.
func (d *walker) goOn(s *tokens) error {
	d.ready = true
	_ = s.conn.SetDeadline(time.Time{})
	var b strings.Builder
	for i := range d.out {
		b.WriteString(d.out[i].text)
		d.out[i].written = true
	}
	_, err := io.WriteString(s.conn, b.String()+"<r xmlns='"+nsSM+"'/>")
	return err
}

// end closes the period in which the client is available; under mu.
func (d *walker) end() {
	if n := len(d.periods); n > 0 {
		d.periods[n-1].over = true
	}
}

// arrives is the stanza that makes it available; under mu.
func (d *walker) arrives() unit {
	d.periods = append(d.periods, period{session: d.session})
	return unit{text: "<presence/>", arrival: len(d.periods)}
}

// counts takes the server's count, which never goes back, and counts nothing that was not sent; under mu.
func (d *walker) counts(text string) error {
	n, err := strconv.ParseUint(text, 10, 32)
	h := uint32(n)
	if err != nil || h < d.handled || int(h-d.handled) > len(d.out) || h > d.handled && !d.out[h-d.handled-1].written {
		d.w.fault("%s: the server counts %q; it said %d before, and %d more were sent", d.name, text, d.handled, len(d.out))
		return errors.New("a wrong count")
	}
	for _, u := range d.out[:h-d.handled] {
		if u.said != nil {
			d.w.mu.Lock()
			u.said.acked = true
			d.w.mu.Unlock()
		}
		if u.arrival > 0 {
			d.periods[u.arrival-1].since = time.Now()
		}
	}
	d.out, d.handled = slices.Clone(d.out[h-d.handled:]), h
	return nil
}

// takes takes what the server says.
func (d *walker) takes(s *tokens, raw string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != s.conn {
		return errors.New("it was lost") // what comes after that never came
	}
	switch {
	case strings.HasPrefix(raw, "<a "):
		return d.counts(attribute(raw, "h"))
	case strings.HasPrefix(raw, "<r "):
		if !d.muted && !d.leaving {
			d.acknowledges()
		}
	case strings.HasPrefix(raw, "<stream:error"):
		d.w.note("%s is told %s", d.name, raw)
	case strings.HasPrefix(raw, "<message"):
		d.received++
		d.hears(raw)
	case strings.HasPrefix(raw, "<presence"), strings.HasPrefix(raw, "<iq"):
		d.received++
	}
	return nil
}

// acknowledges says what has come; under mu.
func (d *walker) acknowledges() {
	if _, err := fmt.Fprintf(d.conn, "<a xmlns='%s' h='%d'/>", nsSM, d.received); err == nil {
		d.acks = append(d.acks, ack{d.session, d.received, time.Now()})
	}
}

// hears takes a message, or a copy of one; under mu.
func (d *walker) hears(raw string) {
	r := receipt{at: time.Now(), session: d.session, count: d.received, period: -1}
	for _, name := range []string{"received", "sent"} {
		if strings.Contains(raw, "<"+name+" xmlns='urn:xmpp:carbons:2'") {
			r.copied = name
		}
	}
	_, rest, ok := strings.Cut(raw, "<body>")
	if !ok || attribute(raw[:strings.Index(raw, ">")], "type") == "error" {
		d.w.fault("%s gets %s", d.name, raw)
		return
	}
	r.text, rest, _ = strings.Cut(rest, "</body>")
	if _, id, ok := strings.Cut(rest, "<stanza-id"); ok {
		r.entry, _ = strconv.ParseUint(attribute(id, "id"), 10, 64)
	} else if _, id, ok := strings.Cut(raw, "<stanza-id"); ok {
		r.entry, _ = strconv.ParseUint(attribute(id, "id"), 10, 64)
	}
	if n := len(d.periods); n > 0 && !d.periods[n-1].over {
		r.period = n - 1
	}
	d.w.note("%s hears %s %s (entry %d, stanza %d)", d.name, r.copied, r.text, r.entry, r.count)
	d.heard = append(d.heard, r)
}

// send notes a stanza, and writes it if there is a session; under mu.
func (d *walker) send(u unit) {
	if d.ready && !d.leaving {
		_, _ = io.WriteString(d.conn, u.text) // written again if that fails
		u.written = true
	}
	d.out = append(d.out, u)
}

// says says a number of things to a client, or to its user.
func (d *walker) says(to *walker, many int, bare bool) (texts []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if to.user == d.user {
		return nil
	}
	for range many {
		d.number++
		m := &saying{text: fmt.Sprintf("%s-%d", d.name, d.number), by: d, to: to.user, at: time.Now()}
		jid := to.user.jid
		if !bare {
			m.resource = to.resource
			jid += "/" + to.resource
		}
		d.w.note("%s says %s to %s", d.name, m.text, jid)
		d.w.mu.Lock()
		d.w.said[m.text] = m
		d.w.mu.Unlock()
		d.send(unit{text: "<message type='chat' to='" + jid + "'><body>" + m.text + "</body></message>", said: m})
		texts = append(texts, m.text)
	}
	return texts
}

// loses has the client lose its connection: it is reset, or left as it is. Later it comes back, maybe twice at once.
func (d *walker) loses(pause time.Duration, silently, twice bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil || d.leaving {
		return
	}
	d.w.note("%s loses its connection for %v, silently: %v", d.name, pause.Round(time.Millisecond), silently)
	d.losses = append(d.losses, time.Now())
	d.pause, d.twice = pause, twice
	if silently {
		// The reader is to end, and what has been read by then to count.
		d.dead = append(d.dead, d.conn)
		_ = d.conn.SetReadDeadline(time.Unix(1, 0))
		d.conn, d.ready = nil, false
		return
	}
	d.drop()
}

// mutes has it stop to acknowledge, or do so again.
func (d *walker) mutes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.muted = !d.muted
	d.w.note("%s acknowledges: %v", d.name, !d.muted)
}

// idles has its user look elsewhere, or back (XEP-0352).
func (d *walker) idles() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready && !d.leaving {
		d.idle = !d.idle
		d.w.note("%s is idle: %v", d.name, d.idle)
		_, _ = io.WriteString(d.conn, "<"+map[bool]string{true: "inactive", false: "active"}[d.idle]+" xmlns='urn:xmpp:csi:0'/>")
	}
}

// comesOrGoes makes it unavailable, or available.
func (d *walker) comesOrGoes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.id == "" || d.leaving {
		return
	}
	d.wants = !d.wants
	d.w.note("%s is available: %v", d.name, d.wants)
	if d.wants {
		d.send(d.arrives())
		return
	}
	d.end()
	d.send(unit{text: "<presence type='unavailable'/>"})
}

// leaves ends the session in order.
func (d *walker) leaves(pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready || d.leaving {
		return
	}
	d.w.note("%s leaves for %v", d.name, pause.Round(time.Millisecond))
	d.end()
	d.acknowledges()
	_, _ = io.WriteString(d.conn, "</stream:stream>")
	d.leaving, d.pause = true, pause
	_ = d.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
}

// asks says what has come, and asks what has been handled.
func (d *walker) asks() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready && !d.leaving {
		if !d.muted {
			d.acknowledges()
		}
		_, _ = io.WriteString(d.conn, "<r xmlns='"+nsSM+"'/>")
	}
}

// returns has it do what well-behaved clients do.
func (d *walker) returns() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.muted = false
	if !d.wants && d.id != "" && !d.leaving {
		d.send(d.arrives())
	}
	d.wants = true
}

// isSettled tells whether it is available, and all that it has said is handled.
func (d *walker) isSettled() (bool, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	said := len(d.acks) > 0 && d.acks[len(d.acks)-1].session == d.session && d.acks[len(d.acks)-1].count == d.received
	return d.ready && !d.leaving && said && len(d.out) == 0, fmt.Sprintf("ready: %v, %d stanzas are not handled", d.ready, len(d.out))
}

// hasLast tells whether it has heard all of these texts that are for its user.
func (d *walker) hasLast(texts []string) (bool, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range texts {
		d.w.mu.Lock()
		mine := d.w.said[text].to == d.user
		d.w.mu.Unlock()
		if mine && !slices.ContainsFunc(d.heard, func(r receipt) bool { return r.text == text && r.copied == "" }) {
			return false, "it has not heard " + text
		}
	}
	return true, ""
}
