package bosh

import (
	"bytes"
	"strconv"
	"time"

	"imlb/backend/xmpp"
)

// Terminal binding conditions (§17.2).
const (
	BadRequest          = "bad-request"
	HostGone            = "host-gone"
	HostUnknown         = "host-unknown"
	ImproperAddressing  = "improper-addressing"
	InternalServerError = "internal-server-error"
	ItemNotFound        = "item-not-found"
	OtherRequest        = "other-request"
	PolicyViolation     = "policy-violation"
	RemoteStreamError   = "remote-stream-error"
	SystemShutdown      = "system-shutdown"
)

const bodyTag = "<body xmlns='" + NS + "'"

// Terminal is an answer that ends a session, or says that there is none. Without a condition
// it ends in order.
func Terminal(condition string) []byte { return terminal(condition, nil) }

func terminal(condition string, content []byte) []byte {
	dst := []byte(bodyTag + " type='terminate'")
	if condition != "" {
		dst = appendAttr(dst, "condition", condition)
	}
	return appendContent(dst, content)
}

// Recoverable is an answer that asks for the request again (§17.3). It is for a connection
// that must have broken, because the request has come on another one.
func Recoverable() []byte { return []byte(bodyTag + " type='error'/>") }

// hello is what the server says of the stream.
type hello struct {
	from, id string
	due      bool // it was not said yet
}

// Hello says which domain has opened the stream, and by which id.
func (s *Session) Hello(from, id string) {
	if s.hello == (hello{}) { // of a stream that was opened anew the client knows
		s.hello = hello{from, id, true}
	}
}

// appendAnswer appends the answer to a request.
func (s *Session) appendAnswer(dst []byte, sl *slot, payload []byte) []byte {
	dst = append(dst, bodyTag...)
	if sl.first {
		dst = s.appendTerms(dst)
	}
	if s.hello.due || bytes.Contains(payload, []byte("<stream:")) { // XEP-0206 §2
		dst = append(dst, " xmlns:stream='"+xmpp.NSStream+"'"...)
	}
	if s.hello.due {
		s.hello.due = false
		dst = append(dst, " xmlns:xmpp='"+NSXMPP+"' xmpp:version='1.0' xmpp:restartlogic='true'"...)
		dst = appendAttr(dst, "from", s.hello.from)
		dst = appendAttr(dst, "authid", s.hello.id)
	}
	if last := s.next - 1; s.acks && (sl.first || last != sl.RID) { // §9.1
		dst = appendNumber(dst, "ack", last)
	}
	return appendContent(dst, payload)
}

// appendTerms appends what was agreed on (§7.2).
func (s *Session) appendTerms(dst []byte) []byte {
	in := func(d time.Duration) int64 { return int64(d / time.Second) }
	dst = appendAttr(dst, "sid", s.sid)
	dst = appendNumber(dst, "wait", in(s.wait))
	dst = appendNumber(dst, "hold", int64(s.hold))
	dst = appendNumber(dst, "requests", int64(s.requests()))
	dst = appendNumber(dst, "inactivity", in(s.inactivity))
	if s.polls() {
		dst = appendNumber(dst, "polling", in(polling))
	}
	dst = appendNumber(dst, "maxpause", in(s.maxPause))
	return appendAttr(dst, "ver", s.ver)
}

func appendAttr(dst []byte, name, value string) []byte {
	dst = append(dst, ' ')
	dst = append(dst, name...)
	dst = append(dst, "='"...)
	dst = xmpp.AppendEscaped(dst, value)
	return append(dst, '\'')
}

func appendNumber(dst []byte, name string, n int64) []byte {
	return appendAttr(dst, name, strconv.FormatInt(n, 10))
}

func appendContent(dst, content []byte) []byte {
	if len(content) == 0 {
		return append(dst, "/>"...)
	}
	dst = append(dst, '>')
	dst = append(dst, content...)
	return append(dst, "</body>"...)
}
