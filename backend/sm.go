package backend

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Stream management (XEP-0198 1.6): a stanza is acknowledged to the client when it is
// stored, answered or passed on, and an entry of the user's timeline is received when
// the client has acknowledged it. See park.go and resume.go for what comes after the
// connection.

const smRequest = "<r xmlns='" + xmpp.NSSM + "'/>"

func smAnswer(h uint32) []byte {
	return []byte("<a xmlns='" + xmpp.NSSM + "' h='" + strconv.FormatUint(uint64(h), 10) + "'/>")
}

func smFailed(condition string) []byte {
	return []byte("<failed xmlns='" + xmpp.NSSM + "'><" + condition + " xmlns='" + xmpp.NSStanzas + "'/></failed>")
}

// nonStanza handles a first-level element that is no stanza.
func (s *session) nonStanza(ctx context.Context, raw []byte) error {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return err
	}
	if broken, ok := xmpp.ParseStreamError(raw); ok { // RFC 6120 §4.9.1.1: nothing but the end follows
		s.finish(ReasonClientClosed, fmt.Errorf("the client sent a %w", broken), []byte(xmpp.StreamEnd))
		return nil
	}
	if e.Prefix() != "" && e.Space() == xmpp.NSClient {
		return &xmpp.StreamError{Condition: xmpp.BadNamespacePrefix, Text: "stanzas have no prefix"}
	}
	if e.Space() == xmpp.NSCSI {
		return s.csi(e.Local())
	}
	if e.Space() != xmpp.NSSM {
		return &xmpp.StreamError{Condition: xmpp.UnsupportedStanzaType}
	}
	switch e.Local() {
	case "enable":
		s.enableSM(e)
	case "resume": // XEP-0198 §5: not after a resource is bound
		s.nonza(smFailed(xmpp.UnexpectedRequest))
	case "r":
		if h, ack := s.in.request(); ack && s.promise(ctx) {
			s.nonza(smAnswer(h))
		}
	case "a":
		return s.takeAck(e)
	default:
		return &xmpp.StreamError{Condition: xmpp.UnsupportedStanzaType}
	}
	return nil
}

// enabling is an <enable/> on its way to the writer, which answers it: it knows what
// has been written before.
type enabling struct {
	hold  time.Duration // for how long the session may be resumed; 0: it may not
	state []byte
	done  chan struct{} // closed when it is answered
}

// enableSM begins to count, both ways (XEP-0198 §3). What the client sends next
// counts, so the store has to know that first.
func (s *session) enableSM(e xmpp.Element) {
	s.in.wait(0, s.done)
	if !s.in.enable() {
		s.nonza(smFailed(xmpp.UnexpectedRequest))
		return
	}
	start := s.enabling(e)
	s.out.push(item{kind: itemEnabled, enable: start})
	select {
	case <-start.done:
		s.saved, s.touched = start.state, false
	case <-s.done:
	}
}

func (s *session) enabling(e xmpp.Element) *enabling {
	start := &enabling{hold: s.holdFor(e), done: make(chan struct{})}
	if start.hold > 0 {
		state, err := s.state().encode()
		if err != nil {
			start.hold = 0
		}
		start.state = state
	}
	return start
}

// holdFor is how long the session is held for a client that asks for resumption; it
// may ask for less than the node is ready to.
func (s *session) holdFor(e xmpp.Element) time.Duration {
	resume, _ := e.Attr("resume")
	if resume != "true" && resume != "1" {
		return 0
	}
	hold := s.node.opts.Timeouts.Resume
	if text, ok := e.Attr("max"); ok {
		if most, err := strconv.ParseUint(text, 10, 31); err == nil {
			hold = min(hold, time.Duration(most)*time.Second)
		}
	}
	return max(hold, 0)
}

// beginSM answers <enable/>; the writer calls it.
func (s *session) beginSM(ctx context.Context, start *enabling) {
	defer close(start.done)
	s.flush()
	s.cur.buf = append(s.cur.buf, s.startSM(ctx, start)...)
}

// startSM begins to count what is written after the answer, which it returns.
func (s *session) startSM(ctx context.Context, start *enabling) []byte {
	s.unacked.enable()
	enabled := "<enabled xmlns='" + xmpp.NSSM + "'/>"
	if start.hold > 0 && s.makeResumable(ctx, start) {
		enabled = "<enabled xmlns='" + xmpp.NSSM + "' id='" + s.id + "' resume='true' max='" +
			strconv.Itoa(int(start.hold/time.Second)) + "'/>"
	}
	return []byte(enabled)
}

func (s *session) makeResumable(ctx context.Context, start *enabling) bool {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	p := s.point()
	err := s.node.store.SaveResumable(query, s.id, s.epoch, store.Resumable{
		Hold: start.hold, Pos: s.cur.pos, Claimed: p.Claimed, Told: p.Told, State: start.state,
	})
	if err != nil {
		s.node.opts.Logger.WarnContext(ctx, "make a session resumable", slog.String("user", s.account.User), slog.Any("error", err))
		return false
	}
	s.unacked.keep(s.cur.pos)
	s.holdTime.Store(int64(start.hold))
	s.node.points.mark(s) // something may have been written before the client was heard
	return true
}

// takeAck notes what the client has received. A client that claims more is wrong
// about what it has (XEP-0198 §4).
func (s *session) takeAck(e xmpp.Element) error {
	text, _ := e.Attr("h")
	h, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return &xmpp.StreamError{Condition: xmpp.InvalidXML}
	}
	if !s.unacked.counting() {
		s.nonza(smFailed(xmpp.UnexpectedRequest))
		return nil
	}
	arrived, pause, ok := s.unacked.ack(uint32(h))
	if !ok {
		return s.unacked.outside(uint32(h))
	}
	if pause > 0 && !s.ended() {
		s.askAfter(pause)
	}
	s.arrived(arrived)
	s.node.points.mark(s)
	s.out.rouse() // the writer asks again if more is on its way
	return nil
}

// askAfter has the client asked for its count again. The timer is not worth a field of all sessions: it does nothing to one that
// has ended.
func (s *session) askAfter(pause time.Duration) {
	time.AfterFunc(pause, func() {
		if s.unacked.askAgain(); !s.ended() {
			s.out.rouse()
		}
	})
}

// outside is the stream error for a client that has counted what it cannot have: more than was sent to it, or less than it has
// said before.
func (u *unacked) outside(h uint32) *xmpp.StreamError {
	decimal := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	sent, acked := u.counts()
	return &xmpp.StreamError{
		Condition: xmpp.UndefinedCondition,
		Text:      "h is " + decimal(h) + ", but " + decimal(sent) + " stanzas were sent, of which you had counted " + decimal(acked),
		App:       "<handled-count-too-high xmlns='" + xmpp.NSSM + "' h='" + decimal(h) + "' send-count='" + decimal(sent) + "'/>",
	}
}

// lastCount is what the client is told before the stream ends: the count of the stanzas that
// are handled (XEP-0198 §4), if it may rely on that.
func (s *session) lastCount() []byte {
	h, durable, on := s.in.final()
	if !on || !durable && s.holdTime.Load() > 0 {
		return nil
	}
	return smAnswer(h)
}

// lastWords takes the acknowledgement of a client whose session has ended.
func (s *session) lastWords(raw []byte) {
	e, err := xmpp.ParseElement(raw)
	if err == nil && e.Is(xmpp.NSSM, "a") {
		_ = s.takeAck(e) // it is too late to tell the client that it is wrong
	}
}
