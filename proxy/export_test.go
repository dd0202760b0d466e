package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/backend/xmpp"
	"imlb/proxy/ws"
)

// Learn makes the nodes of a pool known to offer the features, to clients on private
// transports.
func (s *Server) Learn(pool, domain, features string) error {
	e, err := xmpp.ParseElement([]byte(features))
	if err != nil {
		return err
	}
	for ties := range 8 {
		s.offers.learn(featureKey{
			pool: pool, domain: domain, private: true, exporter: ties&1 != 0, endPoint: ties&2 != 0, certified: ties&4 != 0,
		}, readFeatures(e))
	}
	return nil
}

// Session is a session that has but connections.
type Session struct{ session }

// Track has Abort close a connection.
func (s *Session) Track(conn net.Conn) { s.track(conn) }

// Abort cuts the session off.
func (s *Session) Abort() { s.abort() }

// LetGo tells whether the connections may go to a loop.
func (s *Session) LetGo() bool { return s.letGo() }

// OutcomeOf is what is reported of a node that did not serve a session because of err.
func OutcomeOf(err error) Outcome { return outcomeOf(err) }

// SetFeatureAge sets how long features are believed.
func (s *Server) SetFeatureAge(d time.Duration) {
	s.offers.mu.Lock()
	defer s.offers.mu.Unlock()
	s.offers.age = d
}

// Tally brings the bytes of opaque sessions into the metrics now.
func (s *Server) Tally() { s.tally() }

// KnownFeatures is how many features are kept, and MaxKnownFeatures how many may be.
func (s *Server) KnownFeatures() int {
	s.offers.mu.Lock()
	defer s.offers.mu.Unlock()
	return len(s.offers.known)
}

const MaxKnownFeatures = maxKnown

// SetDoubtTime sets how long settles are kept that may be wanted. It must be called before there are any.
func (s *Server) SetDoubtTime(d time.Duration) { s.settles.doubt = d }

// SetProofTime sets how long settles of sessions that can be resumed wait for a proof. It
// must be called before there are any.
func (s *Server) SetProofTime(d time.Duration) { s.settles.proof = d }

// ResumeNote is what a settle says of a session that can be resumed: one that a client resumes
// that has handled h stanzas, or one that is new when h is negative, to which stanzas
// are written that end with these numbers of entries, or with places, and which acknowledges them all.
func ResumeNote(id string, h int64, entries ...uint64) string {
	return ResumeNoteOf(id, h, entries, func(_, written uint32) uint32 { return written })
}

// ResumeNoteOf is ResumeNote for a client of which acked says what it has acknowledged, by how many stanzas were written
// before and how many it had handled, each time that one is written.
func ResumeNoteOf(id string, h int64, entries []uint64, acked func(i, written uint32) uint32) string {
	r := &resumption{id: id}
	if h >= 0 {
		r.count = uint32(h) //nolint:gosec // G115: tests choose it
	}
	for i, n := range entries {
		r.wrote(told(n), acked(uint32(i), r.count)) //nolint:gosec // G115: as above
	}
	return string(r.append(nil))
}

// OtherNames is otherNames.
func OtherNames(names []byte) []string { return otherNames(names) }

// OfferOf returns what a node's features offer a client on a private transport.
func OfferOf(features []byte, wanted ...string) string {
	e, err := xmpp.ParseElement(features)
	if err != nil {
		return ""
	}
	f := readFeatures(e)
	o := f.offer(wanted, func(m string) bool { return !bindsChannel(m) || f.front }, 16<<10)
	return string(o.raw)
}

// NewQUICConn makes a stream the net.Conn that sessions use.
func NewQUICConn(conn *quic.Conn, stream *quic.Stream) net.Conn { return newQUICConn(conn, stream) }

// NewWire makes a connection the net.Conn that sessions use.
func NewWire(conn *net.TCPConn) net.Conn { return newWire(conn) }

// Leg is a leg on a byte stream.
type Leg struct{ *streamLeg }

// NewLeg returns a leg on a connection.
func NewLeg(conn *net.TCPConn) Leg { return Leg{newStreamLeg(conn, xmpp.Limits{}, time.Second)} }

// JoinLoop has it go on on a loop with that buffer.
func (l Leg) JoinLoop(scratch []byte) { l.joinLoop(scratch) }

// LeaveLoop ends that.
func (l Leg) LeaveLoop() { l.leaveLoop() }

// Look looks at the next n bytes of what NewWire has returned.
func Look(conn net.Conn, n int) error {
	w, ok := conn.(*wire)
	if !ok {
		return errors.ErrUnsupported
	}
	for had := len(w.seen); len(w.seen) < had+n; {
		if err := w.look(); err != nil {
			return err
		}
	}
	return nil
}

// These are the bits of what a message tells.
const (
	PlaceBit = uint64(placeBit)
	HadBit   = uint64(hadBit)
	CopyBit  = uint64(copyBit)
	ApartBit = uint64(apartBit)
)

// ReadTold is readTold.
func ReadTold(raw []byte, user string) uint64 { return uint64(readTold(raw, user)) }

// Reasons are all reasons that a record may have.
func Reasons() []Reason {
	var all []Reason
	for r := ReasonNone; r <= ReasonInternal; r++ {
		all = append(all, r)
	}
	return all
}

// KindOf is the name of kindOf.
func KindOf(raw string) string { return kindOf([]byte(raw)).String() }

// CountStanzas returns what is done for each stanza of a session that can be resumed.
func CountStanzas() func() {
	r := new(resumption)
	return func() { r.wrote(7, r.count) }
}

// ResumeInline is what a settle says of the session that a login with SASL2 brings; "" if it
// cannot be resumed.
func ResumeInline(auth, success []byte) string {
	r := resumptionInline(success, askedInline(claim{sasl2: true, auth: auth}))
	if r == nil {
		return ""
	}
	return string(r.append(nil))
}

// WSLeg is a leg on a WebSocket.
type WSLeg struct{ *wsLeg }

// NewWSLeg returns a leg on a WebSocket.
func NewWSLeg(conn *ws.Conn, maxBytes int) WSLeg {
	return WSLeg{newWSLeg(conn, xmpp.Limits{MaxBytes: maxBytes}, time.Second)}
}

// HalfCloser is a connection of which one direction can be ended.
type HalfCloser = halfCloser

// Pump is a pump between a client and a node that is told of nothing.
type Pump struct{ pump }

// NewPump returns a pump with limits of time.
func NewPump(client, node HalfCloser, idle, halfOpen, pause time.Duration) *Pump {
	end := func(c HalfCloser, by Reason) pumpEnd {
		return pumpEnd{halfCloser: c, gone: func(err error) *ending {
			if ended(err) {
				return &ending{reason: by}
			}
			return &ending{reason: by, cause: err}
		}}
	}
	return &Pump{pump{
		client: end(client, ReasonClientClosed), node: end(node, ReasonNodeClosed),
		late:   func(bool) *ending { return &ending{reason: ReasonHalfOpen} },
		limits: pumpLimits{idle: idle, halfOpen: halfOpen, pause: pause},
	}}
}

// Run runs the pump, tells when it can be drained, and returns the reason of its end.
func (p *Pump) Run(ctx context.Context, begun func()) string {
	p.begun = func(carrier) { begun() }
	return p.run(ctx).reason.String()
}

// Journal writes the session log.
type Journal struct{ *journal }

// NewJournal returns one that writes to log.
func NewJournal(log *slog.Logger) Journal { return Journal{newJournal(log, func(int) {})} }

// Add has the line of a session written.
func (j Journal) Add(r *Record) { j.add(r) }

// Close writes what waits.
func (j Journal) Close() { j.close() }

// Refusals is of how many kinds of refusals something is kept.
func (j Journal) Refusals() int { return len(j.refusals.of) }
