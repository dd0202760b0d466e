package backend

import (
	"strconv"

	"imlb/backend/xmpp"
)

// Stream management (XEP-0198 1.6), acknowledgements only: a stanza is acknowledged
// to the client when it is stored, answered or passed on, and an entry of the
// user's timeline is received when the client has acknowledged it.

const smRequest = "<r xmlns='" + xmpp.NSSM + "'/>"

func smAnswer(h uint32) []byte {
	return []byte("<a xmlns='" + xmpp.NSSM + "' h='" + strconv.FormatUint(uint64(h), 10) + "'/>")
}

func smFailed(condition string) []byte {
	return []byte("<failed xmlns='" + xmpp.NSSM + "'><" + condition + " xmlns='" + xmpp.NSStanzas + "'/></failed>")
}

// nonStanza handles a first-level element that is no stanza.
func (s *session) nonStanza(raw []byte) error {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return err
	}
	if e.Space() == xmpp.NSCSI {
		return s.csi(e.Local())
	}
	if e.Space() != xmpp.NSSM {
		return &xmpp.StreamError{Condition: xmpp.UnsupportedStanzaType}
	}
	switch e.Local() {
	case "enable":
		s.enableSM()
	case "resume":
		s.nonza(smFailed(xmpp.FeatureNotImplemented))
	case "r":
		if h, ack := s.in.request(); ack {
			s.nonza(smAnswer(h))
		}
	case "a":
		return s.takeAck(e)
	default:
		return &xmpp.StreamError{Condition: xmpp.UnsupportedStanzaType}
	}
	return nil
}

// enableSM begins to count, both ways (XEP-0198 §3).
func (s *session) enableSM() {
	s.in.wait(0, s.done)
	if !s.in.enable() {
		s.nonza(smFailed(xmpp.UnexpectedRequest))
		return
	}
	s.out.push(item{kind: itemEnabled, data: []byte("<enabled xmlns='" + xmpp.NSSM + "'/>")})
}

// takeAck notes what the client has received. A client that claims more is wrong
// about what it has (XEP-0198 §4).
func (s *session) takeAck(e xmpp.Element) error {
	text, _ := e.Attr("h")
	h, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return &xmpp.StreamError{Condition: xmpp.InvalidXML}
	}
	arrived, ok := s.unacked.ack(uint32(h))
	if !ok {
		sent, _ := s.unacked.counts()
		return &xmpp.StreamError{
			Condition: xmpp.UndefinedCondition,
			Text:      "h is " + text + ", but only " + strconv.FormatUint(uint64(sent), 10) + " stanzas were sent",
		}
	}
	s.arrived(arrived)
	poke(s.out.wake) // the writer asks again if more is on its way
	return nil
}

// lastWords takes the acknowledgement of a client whose session has ended.
func (s *session) lastWords(raw []byte) {
	e, err := xmpp.ParseElement(raw)
	if err == nil && e.Is(xmpp.NSSM, "a") {
		_ = s.takeAck(e) // it is too late to tell the client that it is wrong
	}
}
